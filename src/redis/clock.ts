/** Redis' own time. */
import { GatewayError } from '../errors.ts'
import type { RedisClient } from './connections.ts'
import { stored } from './stored.ts'

const CLOCK_REFRESH_MS = 10_000
/**
 * An answer is taken to be of half way between question and hearing. Where that was long, because this process or Redis stood
 * still, it may be off by half of it.
 */
const ROUND_TRIP_MS_MAX = 500
/** After an answer that came too late to be used. */
const RETRY_MS = 1_000

export interface StoreClock {
  /** Redis' time in milliseconds since 1970, as last heard and carried on by the monotonic clock. */
  nowMs(): number
  /** Asks Redis. Must have succeeded once before nowMs() is called. */
  sync(): Promise<void>
  stop(): void
}

/**
 * The one clock by which sessions expire: Redis' own, so that a replica whose wall clock is wrong (or is
 * set while it runs) neither ends a session early nor keeps one alive.
 */
export function createStoreClock(redis: RedisClient): StoreClock {
  let offsetMs: number | undefined
  /** Of the answer that is in use. */
  let roundTripMs = Infinity
  let retry: NodeJS.Timeout | undefined
  const sync = async () => {
    const sentMs = performance.now()
    const [seconds, microseconds] = await stored(redis.time())
    const answeredMs = performance.now()
    const tookMs = answeredMs - sentMs
    clearTimeout(retry)
    if (tookMs > ROUND_TRIP_MS_MAX) {
      retry = setTimeout(() => void sync().catch(ignore), RETRY_MS).unref()
      // Better than none, or than one that took even longer.
      if (tookMs > roundTripMs) return
    }
    roundTripMs = tookMs
    offsetMs = Number(seconds) * 1000 + Number(microseconds) / 1000 - (sentMs + answeredMs) / 2
  }
  // A refresh that fails leaves the last offset in place; the clocks drift by microseconds in the meantime.
  const timer = setInterval(() => void sync().catch(ignore), CLOCK_REFRESH_MS)
  timer.unref()
  return {
    sync,
    nowMs() {
      if (offsetMs === undefined) throw new GatewayError('store_unavailable')
      return performance.now() + offsetMs
    },
    stop() {
      clearInterval(timer)
      clearTimeout(retry)
    },
  }
}

function ignore(): void {}
