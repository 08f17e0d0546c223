/**
 * A span for each command that is sent to Redis in the name of a request or a job; what is sent in nobody's name makes
 * none. Of its arguments only the hash of a script is looked at, which names it.
 *
 * Not by ioredis' diagnostics channel: while somebody listens there, it makes texts of all arguments of all commands,
 * and a promise for each, which the many requests would pay for that are not traced.
 */
import { failureOf, followCommands, scriptNameOf } from '../redis/watch.ts'
import type { Follow } from '../redis/watch.ts'
import type { SpanAttributes } from './attributes.ts'
import { activeSpan } from './span.ts'

/** Makes them for the whole process. @returns stops it */
export function traceRedis(): () => void {
  followCommands(beginSpan)
  return () => followCommands(undefined)
}

const beginSpan: Follow = ({ name, args }, { options }) => {
  const parent = activeSpan()
  if (parent === undefined || !parent.isSampled) return undefined
  const operation = name.toUpperCase()
  const script = name === 'evalsha' ? scriptNameOf(args[0]) : undefined
  const attributes: SpanAttributes = {
    'db.system.name': 'redis',
    'db.operation.name': operation,
    ...(script !== undefined && { 'db.stored_procedure.name': script }),
    ...(options.host !== undefined && { 'server.address': options.host }),
    ...(options.port !== undefined && { 'server.port': options.port }),
  }
  const span = parent.child(script === undefined ? operation : `${operation} ${script}`, {
    kind: 'client',
    attributes,
  })
  return span && ((error) => span.end(error === undefined ? undefined : failureOf(error)))
}
