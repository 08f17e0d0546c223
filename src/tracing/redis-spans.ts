/**
 * A span for each command that is sent to Redis in the name of a request or a job.
 *
 * ioredis tells of its commands on a diagnostics channel, which is the process's: what is sent in nobody's name, and
 * what others send, makes no span. Arguments are on the channel as well and are left alone, but for the hash of a
 * script, which names it.
 */
import { tracingChannel } from 'node:diagnostics_channel'
import { failureOf, scriptNameOf } from '../redis-watch.ts'
import type { SpanAttributes } from './attributes.ts'
import { activeSpan } from './span.ts'
import type { Span } from './span.ts'

/** What ioredis 6 says. */
interface CommandMessage {
  readonly command: string
  readonly args: readonly string[]
  readonly serverAddress?: string
  readonly serverPort?: number
  error?: unknown
}

const channel = tracingChannel<CommandMessage>('ioredis:command')

/** Makes them for the whole process. @returns stops it */
export function traceRedis(): () => void {
  const spans = new WeakMap<CommandMessage, Span>()
  const subscribers = {
    start(message: CommandMessage) {
      const parent = activeSpan()
      if (parent === undefined) return
      const { command, args, serverAddress, serverPort } = message
      const operation = command.toUpperCase()
      const script = operation === 'EVALSHA' ? scriptNameOf(args[0]) : undefined
      const attributes: SpanAttributes = {
        'db.system.name': 'redis',
        'db.operation.name': operation,
        ...(script !== undefined && { 'db.stored_procedure.name': script }),
        ...(serverAddress !== undefined && { 'server.address': serverAddress }),
        ...(serverPort !== undefined && { 'server.port': serverPort }),
      }
      const name = script === undefined ? operation : `${operation} ${script}`
      const span = parent.child(name, { kind: 'client', attributes })
      if (span !== undefined) spans.set(message, span)
    },
    asyncEnd(message: CommandMessage) {
      spans.get(message)?.end(message.error === undefined ? undefined : failureOf(message.error))
    },
  }
  channel.subscribe(subscribers)
  return () => channel.unsubscribe(subscribers)
}
