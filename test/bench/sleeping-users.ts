/** Users who are logged in and do nothing: copies, under other names, of one who really is. */
import { randomBytes } from 'node:crypto'
import { loadRedisConfig } from '../../src/config.ts'
import { connectFailFast, waitUntilReady } from '../../src/redis/connections.ts'
import { createKeys } from '../../src/redis/keys.ts'
import { redisBooks } from './cost.ts'

const SUB_BYTES = 16
const TTL_MS = 604_800_000
const AT_ONCE = 2_000
const TIMEOUT_MS = 30_000

/** @returns how much memory of Redis each takes, all in all */
export async function fillWithUsers(redisUrl: string, count: number): Promise<number> {
  const redis = connectFailFast({ ...loadRedisConfig({ REDIS_URL: redisUrl }), commandTimeoutMs: TIMEOUT_MS })
  await waitUntilReady(redis, TIMEOUT_MS)
  const keys = createKeys('')
  const [, [template]] = await redis.scan(0, 'MATCH', 'user:*', 'COUNT', 1_000)
  const value = template === undefined ? null : await redis.dumpBuffer(template)
  if (value === null) throw new Error('nobody is logged in whom to copy')
  const before = await redisBooks(redisUrl)
  for (let left = count; left > 0; left -= AT_ONCE) {
    const some = Array.from({ length: Math.min(left, AT_ONCE) }, () =>
      randomBytes(SUB_BYTES).toString('base64url'),
    )
    await Promise.all(some.map((sub) => redis.restore(keys.user(sub), TTL_MS, value)))
  }
  const after = await redisBooks(redisUrl)
  redis.disconnect()
  return (after.usedBytes - before.usedBytes) / count
}
