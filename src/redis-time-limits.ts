/**
 * ioredis' time limits, for a process that may stand still: it would take its own slowness for
 * Redis'. test/redis-busy-process.test.ts fails without either.
 */
import type { Duplex } from 'node:stream'
import { Command, Redis } from 'ioredis'

/**
 * ioredis' time limit of a command, without a trap: after this process was busy for longer than the limit, timers
 * are served before sockets, and an answer that has long arrived would be thrown away unread. A thousand copies of
 * a code on two busy cores then cost 4 % of the logins, and none with this: the sockets are read once more.
 */
function setCommandTimeout(this: Command, limitMs: number): void {
  const expire = () => this.reject(new Error('Command timed out'))
  const timer = setTimeout(() => setImmediate(expire), limitMs)
  const clear = () => clearTimeout(timer)
  this.promise.then(clear, clear)
}

interface TimedConnection {
  readonly options: { readonly socketTimeout?: number }
  stream: Duplex
  socketTimeoutTimer: NodeJS.Timeout | undefined
  commandQueue: { readonly length: number }
  setSocketTimeout(): void
}

/**
 * The same trap in ioredis' time limit of a connection: a process that stood still for longer cut off a Redis that was
 * well, with every command that was under way, and refused the logins of the next moment.
 */
function setSocketTimeout(this: TimedConnection): void {
  const { stream, options } = this
  const limitMs = options.socketTimeout
  let isHeard = false
  const expire = () => {
    if (!isHeard) stream.destroy(new Error(`Redis was silent for ${limitMs} ms`))
  }
  this.socketTimeoutTimer = setTimeout(() => setImmediate(expire), limitMs)
  // Behind the listener that takes answered commands out of the queue.
  stream.once('data', () => {
    isHeard = true
    clearTimeout(this.socketTimeoutTimer)
    this.socketTimeoutTimer = undefined
    if (this.commandQueue.length > 0) this.setSocketTimeout()
  })
}

/** Puts both in the place of ioredis' own, for all connections of this process. */
export function mendTimeLimits(): void {
  Object.assign(Command.prototype, { setTimeout: setCommandTimeout })
  Object.assign(Redis.prototype, { setSocketTimeout })
}
