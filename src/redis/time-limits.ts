/**
 * ioredis' time limits, for a process that may stand still: it would take its own slowness for
 * Redis'. test/redis-busy-process.test.ts fails without any of this.
 */
import type { Duplex } from 'node:stream'
import { Command, Redis } from 'ioredis'

/** A turn of the event loop: what it sends leaves at its end (watch.ts), and so the time begins there. */
interface Turn {
  endedAtMs: number | undefined
}

let turn: Turn | undefined

function currentTurn(): Turn {
  if (turn !== undefined) return turn
  const begun: Turn = { endedAtMs: undefined }
  setImmediate(() => {
    begun.endedAtMs = performance.now()
    turn = undefined
  })
  turn = begun
  return begun
}

/**
 * Calls `expire` when `limitMs` have passed and the sockets were read since. Not setTimeout() alone, for two reasons:
 * its clock stands still within a turn, so that what a turn of 300 ms sends has 300 ms less, or nothing; and timers are
 * served before sockets, so that an answer that has long arrived would be thrown away unread. With a thousand
 * copies of a code on two busy cores that was 4 % of the logins.
 *
 * @param keep is given what to clear if it is not to expire: at once, and whenever that changes
 */
function startLimit(limitMs: number, expire: () => void, keep: (timer: NodeJS.Timeout) => void): void {
  const began = currentTurn()
  keep(setTimeout(look, limitMs))
  function look(): void {
    const nowMs = performance.now()
    const leftMs = limitMs - (nowMs - (began.endedAtMs ?? nowMs))
    if (leftMs >= 1) keep(setTimeout(look, leftMs))
    else setImmediate(expire)
  }
}

/** ioredis' time limit of a command. */
function setCommandTimeout(this: Command, limitMs: number): void {
  let timer: NodeJS.Timeout
  const expire = () => this.reject(new Error('Command timed out'))
  startLimit(limitMs, expire, (latest) => {
    timer = latest
  })
  const clear = () => clearTimeout(timer)
  this.promise.then(clear, clear)
}

interface TimedConnection {
  readonly options: { readonly socketTimeout: number }
  stream: Duplex
  socketTimeoutTimer: NodeJS.Timeout | undefined
  commandQueue: { readonly length: number }
  setSocketTimeout(): void
}

/**
 * ioredis' time limit of a connection. By its own a process that stood still for longer cut off a Redis that was
 * well, with every command that was under way, and refused the logins of the next moment.
 */
function setSocketTimeout(this: TimedConnection): void {
  const { stream, options } = this
  const limitMs = options.socketTimeout
  let isHeard = false
  const expire = () => {
    if (!isHeard) stream.destroy(new Error(`Redis was silent for ${limitMs} ms`))
  }
  startLimit(limitMs, expire, (latest) => {
    this.socketTimeoutTimer = latest
  })
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
