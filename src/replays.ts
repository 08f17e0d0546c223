/**
 * A guard against open data sent twice. An option: a client whose answer got lost would send its data again
 * in good faith.
 */
import { createHash } from 'node:crypto'
import { GatewayError } from './errors.ts'
import { stored } from './redis/stored.ts'
import type { RedisClient } from './redis/connections.ts'
import type { Keys } from './redis/keys.ts'
import type { EncryptedData } from './wechat/open-data.ts'

/** @param windowSeconds how long data is remembered; 0: the guard is off and asks Redis nothing */
export function createReplayGuard(
  redis: RedisClient,
  keys: Keys,
  { windowSeconds }: { windowSeconds: number },
) {
  return {
    /** Remembers that this user has shown this data. @throws {GatewayError} replayed, store_unavailable */
    async admit(sub: string, { ciphertext, iv }: EncryptedData): Promise<void> {
      if (windowSeconds === 0) return
      const hash = createHash('sha256').update(`${sub}\0`).update(iv).update(ciphertext).digest('base64url')
      const isNew = await stored(redis.set(keys.replay(hash), '1', 'EX', windowSeconds, 'NX'))
      if (isNew !== 'OK') throw new GatewayError('replayed')
    },
  }
}

export type ReplayGuard = ReturnType<typeof createReplayGuard>
