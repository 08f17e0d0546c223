/** What the log says of a connection to Redis: when it goes, why, and when it comes back. Not each try in between. */
import type { Log } from '../log.ts'
import type { RedisClient } from './connections.ts'

/** Between two lines, whatever happens. */
const GAP_MS = 1_000
/** An outage that lasts is told of again, for those who read only the end of a log. */
const REMINDER_MS = 60_000

/** @param isClosing it is us who goes */
export function reportConnection(redis: RedisClient, log: Log, isClosing: () => boolean): void {
  let reason = ''
  let saidReason: string | undefined
  let saidAtMs = -Infinity

  function say(): void {
    if (isClosing()) return
    const sinceMs = performance.now() - saidAtMs
    if (sinceMs < GAP_MS || (reason === saidReason && sinceMs < REMINDER_MS)) return
    saidAtMs = performance.now()
    saidReason = reason
    log.warn({ reason }, 'waiting for Redis')
  }

  redis.on('error', (error: Error) => {
    reason = error.message // never the error itself: ioredis hangs the password on it that was refused
    say()
  })
  redis.on('close', say)
  redis.on('ready', () => {
    if (saidReason !== undefined) log.info('Redis is back')
    reason = ''
    saidReason = undefined
  })

  // Of a Cluster one node may be away, and the rest goes on.
  let nodeSaidAtMs = -Infinity
  redis.on('node error', (error: Error, node: string) => {
    if (isClosing() || performance.now() - nodeSaidAtMs < REMINDER_MS) return
    nodeSaidAtMs = performance.now()
    log.warn({ node, reason: error.message }, 'a node of the Redis Cluster cannot be used')
  })
}
