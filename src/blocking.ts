/**
 * Blocked users. To block one ends all their sessions and refuses their logins, where the session would be
 * opened (open-session.lua), so that nothing slips in between and a validation costs nothing more.
 */
import { loadScript } from './redis/scripts.ts'
import { stored } from './redis/stored.ts'
import type { StoreClock } from './redis/clock.ts'
import type { RedisClient } from './redis/connections.ts'
import type { Keys } from './redis/keys.ts'
import type { SessionEvents } from './session-events.ts'

const blockScript = loadScript('block-user')

export interface Block {
  sinceSeconds: number
  /** For people; never shown to the user. */
  reason: string | undefined
  /** undefined: until it is lifted. */
  expiresInSeconds: number | undefined
}

export interface BlockingDeps {
  redis: RedisClient
  keys: Keys
  clock: StoreClock
  /** undefined: nobody wants to hear of sessions that end. */
  events: SessionEvents | undefined
  /** Told of every user who is blocked, after Redis has it. */
  onBlock(sub: string): void
}

/** All of it rejects with store_unavailable, and may be repeated. */
export function createBlocking({ redis, keys, clock, events, onBlock }: BlockingDeps) {
  return {
    /** Blocks a user, also one who has never logged in. Blocking again replaces reason and end. */
    async block(sub: string, { reason, ttlSeconds }: BlockRequest): Promise<void> {
      const note = JSON.stringify({ since: Math.floor(clock.nowMs() / 1000), reason })
      const tell = events?.beforeEnd(sub, [])
      await stored(
        blockScript(redis, [keys.user(sub), keys.block(sub)], [note, ttlSeconds ?? 0, keys.endedChannel]),
      )
      onBlock(sub)
      tell?.('blocked')
    },

    /** Lets a user log in again. Their sessions of before do not come back. */
    async unblock(sub: string): Promise<void> {
      await stored(redis.del(keys.block(sub)))
    },

    /** undefined: not blocked. */
    async find(sub: string): Promise<Block | undefined> {
      const key = keys.block(sub)
      const [note, secondsLeft] = await stored(Promise.all([redis.get(key), redis.ttl(key)]))
      if (note === null) return undefined
      const { since, reason } = JSON.parse(note) as { since: number; reason?: string }
      return { sinceSeconds: since, reason, expiresInSeconds: secondsLeft < 0 ? undefined : secondsLeft }
    },
  }
}

export interface BlockRequest {
  reason: string | undefined
  /** undefined: until it is lifted. */
  ttlSeconds: number | undefined
}

export type Blocking = ReturnType<typeof createBlocking>
