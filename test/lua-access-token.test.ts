/** The scripts around access_token and session_key, each answer of each of them, on a real Redis. */
import { Redis } from 'ioredis'
import { afterAll, afterEach, describe, expect, inject, test } from 'vitest'
import { packExchange } from '../src/user-marks.ts'
import { createKeys } from '../src/redis/keys.ts'
import { newPrefix } from './harness/environment.ts'
import { createScripts, demandEnds } from './harness/scripts.ts'
import { until } from './harness/until.ts'

const prefix = newPrefix()
const keys = createKeys(prefix)
const redis = new Redis(inject('redisUrl'))
const scripts = createScripts(redis)

afterEach(() => demandEnds(redis, prefix))
afterAll(() => redis.disconnect())

const store = (appid: string, owner: string, lifeMs = 60_000) =>
  scripts.run(
    'store-access-token',
    [keys.accessToken(appid), keys.accessTokenLock(appid)],
    [owner, 'sealed', lifeMs],
  )

describe('store-access-token', () => {
  test('keeps the token for its life and gives the lock back, in one step', async () => {
    await redis.set(keys.accessTokenLock('a'), 'me', 'PX', 5_000)
    const [seconds] = await redis.time()
    expect(await store('a', 'me')).toBe(1)
    const { t, e } = await redis.hgetall(keys.accessToken('a'))
    expect(t).toBe('sealed')
    expect(Number(e) / 1000).toBeCloseTo(Number(seconds) + 60, -1)
    expect(await redis.pttl(keys.accessToken('a'))).toBeGreaterThan(55_000)
    expect(await redis.exists(keys.accessTokenLock('a'))).toBe(0)
  })

  test('keeps nothing for whoever has lost the lock, and leaves it to its owner', async () => {
    expect(await store('b', 'me')).toBe(0)
    await redis.set(keys.accessTokenLock('b'), 'another', 'PX', 5_000)
    expect(await store('b', 'me')).toBe(0)
    expect(await redis.exists(keys.accessToken('b'))).toBe(0)
    expect(await redis.get(keys.accessTokenLock('b'))).toBe('another')
  })

  test('has given every answer that its header promises', () => {
    expect(scripts.unreached('store-access-token')).toEqual([])
  })
})

describe('release-lock', () => {
  test("deletes its owner's lock and no other", async () => {
    const key = keys.accessTokenLock('c')
    expect(await scripts.run('release-lock', [key], ['me'])).toBe(0)
    await redis.set(key, 'another', 'PX', 5_000)
    expect(await scripts.run('release-lock', [key], ['me'])).toBe(0)
    expect(await scripts.run('release-lock', [key], ['another'])).toBe(1)
    expect(await redis.exists(key)).toBe(0)
    expect(scripts.unreached('release-lock')).toEqual([])
  })
})

const DAY_MS = 86_400_000
const spend = async (appid: string, gapMs = 30_000, perDay = 20) =>
  Number(await scripts.run('spend-forced-refresh', [keys.accessTokenForced(appid)], [gapMs, perDay]))

/** Puts all that has been counted so far back in time. */
const age = async (appid: string, ms: number) => {
  const key = keys.accessTokenForced(appid)
  const times = await redis.lrange(key, 0, -1)
  await redis.del(key)
  await redis.rpush(key, ...times.map((time) => String(Number(time) - ms)))
  await redis.pexpire(key, DAY_MS)
}

describe('spend-forced-refresh', () => {
  test('allows one, and the next after the gap', async () => {
    expect(await spend('d')).toBe(0)
    const waitMs = await spend('d')
    expect(waitMs).toBeGreaterThan(25_000)
    expect(waitMs).toBeLessThanOrEqual(30_000)
    await age('d', 30_000)
    expect(await spend('d')).toBe(0)
  })

  test('never allows more than so many in any 24 hours', async () => {
    for (let i = 0; i < 20; i += 1) {
      expect(await spend('e')).toBe(0)
      await age('e', 3_600_000)
    }
    // The first was 20 hours ago.
    const waitMs = await spend('e')
    expect(waitMs).toBeGreaterThan(3.9 * 3_600_000)
    expect(waitMs).toBeLessThanOrEqual(4 * 3_600_000)
    await age('e', waitMs)
    expect(await spend('e')).toBe(0)
    expect(await spend('e', 0)).toBeGreaterThan(0)
    expect(await redis.llen(keys.accessTokenForced('e'))).toBe(20)
    expect(await redis.pttl(keys.accessTokenForced('e'))).toBeGreaterThan(DAY_MS - 10_000)
  })

  test('counts by the clock of Redis', async () => {
    expect(await spend('f', 50)).toBe(0)
    await until('the gap to be over', async () => (await spend('f', 50)) === 0)
    expect(scripts.unreached('spend-forced-refresh')).toEqual([])
  })
})

const START = Date.UTC(2026, 0, 1)

const put = (sub: string, fields: Record<string, string | Buffer>) =>
  redis.multi().hset(keys.user(sub), fields).expire(keys.user(sub), 60).exec()
const replace = (sub: string, startedAtMs: number, sealed = 'new', fingerprint = 'FFFF') =>
  scripts.run(
    'replace-session-key',
    [keys.user(sub)],
    [sealed, packExchange(startedAtMs, fingerprint), fingerprint],
  )
const heldBy = async (sub: string) => {
  const { m, ...fields } = await redis.hgetallBuffer(keys.user(sub))
  const text = Object.entries(fields).map(([name, value]) => [name, value.toString()])
  return { ...(Object.fromEntries(text) as Record<string, string>), m }
}

describe('replace-session-key', () => {
  const user = { o: 'o-1', k: 'old', p: 'older', 't:session': 'kept' }
  const rest = Buffer.from('provisioning and user_id')
  const held = { ...user, m: Buffer.concat([packExchange(START, 'AAAA'), rest]) }
  /** The same user, as the version before kept them. */
  const heldBefore = { ...user, x: `${START.toString(36)}AAAA`, g: 'a65f00000', i: 'user-7' }

  test('moves the key, and leaves the sessions and their end alone', async () => {
    await put('u1', held)
    expect(await replace('u1', START + 1)).toBe(1)
    expect(await heldBy('u1')).toEqual({
      ...user,
      k: 'new',
      p: 'old',
      m: Buffer.concat([packExchange(START + 1, 'FFFF'), rest]),
    })
    expect(await redis.ttl(keys.user('u1'))).toBeLessThanOrEqual(60)
  })

  test('keeps the previous key when the new one is the one that is held', async () => {
    for (const [sub, fields] of [
      ['u2', held],
      ['u2-before', heldBefore],
    ] as const) {
      await put(sub, fields)
      expect(await replace(sub, START + 1, 'sealed afresh', 'AAAA')).toBe(1)
      expect(await heldBy(sub)).toMatchObject({ k: 'sealed afresh', p: 'older' })
    }
  })

  test('does not replace a key that began later', async () => {
    for (const [sub, fields] of [
      ['u3', held],
      ['u3-before', heldBefore],
    ] as const) {
      await put(sub, fields)
      expect(await replace(sub, START - 1)).toBe(2)
      expect(await heldBy(sub)).toEqual({ m: undefined, ...fields })
    }
  })

  test('moves the key of a user whom the version before kept, and takes nothing else from them', async () => {
    await put('u5', heldBefore)
    expect(await replace('u5', START + 1)).toBe(1)
    const { x: _x, ...others } = heldBefore
    expect(await heldBy('u5')).toEqual({
      ...others,
      k: 'new',
      p: 'old',
      m: Buffer.concat([packExchange(START + 1, 'FFFF'), Buffer.alloc(4)]),
    })
  })

  test('does not bring a user back who has logged out', async () => {
    expect(await replace('u4', START)).toBe(0)
    expect(await redis.exists(keys.user('u4'))).toBe(0)
  })

  test('has given every answer that its header promises', () => {
    expect(scripts.unreached('replace-session-key')).toEqual([])
  })
})
