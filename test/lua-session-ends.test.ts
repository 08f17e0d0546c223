/** The scripts that renew and end a user's sessions, each answer of each of them, on a real Redis. */
import { Redis } from 'ioredis'
import { afterAll, afterEach, beforeEach, describe, expect, inject, test } from 'vitest'
import { createKeys } from '../src/redis/keys.ts'
import { newPrefix } from './harness/environment.ts'
import { demandEnds } from './harness/scripts.ts'
import { createUserScripts, IDLE_SECONDS, LIFE_SECONDS_MAX, listenForEnded } from './harness/user-scripts.ts'

const prefix = newPrefix()
const channel = `${prefix}ended`
const redis = new Redis(inject('redisUrl'))
const keys = createKeys(prefix)

let sub = ''
let testCount = 0
beforeEach(() => {
  testCount += 1
  sub = `of-test-${testCount}`
})
const userKey = () => keys.user(sub)
const blockKey = () => keys.block(sub)
const scripts = createUserScripts(redis, channel, () => ({
  user: userKey(),
  limit: keys.userLimit(sub),
  block: blockKey(),
}))
const { open, revoke, revokeAllBut, renew, block, acknowledge, nowSeconds, putSession, sessionFields } =
  scripts

afterEach(() => demandEnds(redis, prefix))
afterAll(() => redis.disconnect())

describe('revoke-session', () => {
  test('ends one session and leaves the others', async () => {
    await open({ field: 't1:a' })
    await open({ field: 't1:b' })
    expect(await revoke('t1:a')).toBe(1)
    expect(await sessionFields()).toEqual(['t1:b'])
    expect(await redis.hexists(userKey(), 'k')).toBe(1)
  })

  test('finds it under any of the fields that the token keys lead to', async () => {
    await open({ field: 't1:a' })
    expect(await revoke('t2:x', 't1:a')).toBe(1)
  })

  test('says when there was none, and leaves the rest alone', async () => {
    expect(await revoke('t1:a')).toBe(0)
    await open({ field: 't1:a' })
    const before = await redis.hgetall(userKey())
    expect(await revoke('t1:unknown', 't2:unknown')).toBe(0)
    expect(await redis.hgetall(userKey())).toEqual(before)
  })

  test('takes the session_key away with the last session', async () => {
    await open({ field: 't1:a' })
    await open({ field: 't1:b' })
    await revoke('t1:a')
    await revoke('t1:b')
    expect(await redis.exists(userKey())).toBe(0)
  })

  // An expired session stays in the hash until the next login; a user who has logged out leaves no key behind.
  test('takes it away also when only sessions are left that have expired', async () => {
    await open({ field: 't1:a' })
    await putSession('t1:expired', { issued: IDLE_SECONDS, used: IDLE_SECONDS })
    expect(await revoke('t1:a')).toBe(1)
    expect(await redis.exists(userKey())).toBe(0)
  })

  test('lets the hash live no longer than the last session that is left', async () => {
    await open({ field: 't1:a' })
    await putSession('t1:unused', { issued: 900, used: 900 })
    await putSession('t1:old', { issued: LIFE_SECONDS_MAX - 200, used: 0 })
    await revoke('t1:a')
    expect(await redis.ttl(userKey())).toBeLessThanOrEqual(200)
    expect(await redis.ttl(userKey())).toBeGreaterThan(170)
    await revoke('t1:old')
    expect(await redis.ttl(userKey())).toBeLessThanOrEqual(100)
  })

  test('announces the user, when there was such a session', async () => {
    const ended = await listenForEnded(redis, channel)
    await open({ field: 't1:a' })
    await revoke('t1:unknown')
    expect(await ended.heard()).toEqual([])
    await revoke('t1:a')
    expect(await ended.heard()).toEqual([sub])
    ended.close()
  })
})

describe('revoke-sessions', () => {
  test('ends all of them, and the session_key goes', async () => {
    await open({ field: 't1:a' })
    await open({ field: 't1:b' })
    expect(await revokeAllBut()).toBe(1)
    expect(await redis.exists(userKey())).toBe(0)
    expect(await revokeAllBut()).toBe(0)
  })

  test('ends all but one, under any of the fields that the token keys lead to', async () => {
    await open({ field: 't1:a' })
    await open({ field: 't1:b' })
    await open({ field: 't1:c' })
    expect(await revokeAllBut('t2:b', 't1:b')).toBe(1)
    expect(await sessionFields()).toEqual(['t1:b'])
    expect(await redis.hexists(userKey(), 'k')).toBe(1)
  })

  test('says when there was no other', async () => {
    await open({ field: 't1:a' })
    expect(await revokeAllBut('t1:a')).toBe(0)
    expect(await sessionFields()).toEqual(['t1:a'])
    expect(await redis.hexists(userKey(), 'k')).toBe(1)
  })

  test('lets the hash live as long as the one that stays', async () => {
    await open({ field: 't1:a' })
    await putSession('t1:stays', { issued: 900, used: 900 })
    await revokeAllBut('t1:stays')
    expect(await redis.ttl(userKey())).toBeLessThanOrEqual(100)
    expect(await redis.ttl(userKey())).toBeGreaterThan(70)
  })

  test('leaves nothing when the one that should stay has expired', async () => {
    await open({ field: 't1:a' })
    await putSession('t1:stays', { issued: 2_000, used: IDLE_SECONDS })
    expect(await revokeAllBut('t1:stays')).toBe(1)
    expect(await redis.exists(userKey())).toBe(0)
  })

  test('announces the user, when something was ended', async () => {
    const ended = await listenForEnded(redis, channel)
    await revokeAllBut()
    await open({ field: 't1:a' })
    await revokeAllBut('t1:a')
    expect(await ended.heard()).toEqual([])
    await revokeAllBut()
    expect(await ended.heard()).toEqual([sub])
    ended.close()
  })
})

const nowMs = async () => {
  const [seconds, microseconds] = await redis.time()
  return Number(seconds) * 1_000 + Math.floor(Number(microseconds) / 1_000)
}
const usedAgo = async (field: string) => {
  const value = (await redis.hget(userKey(), field)) ?? ''
  const [, issued = '', device, used = ''] = /^([0-9a-z]{6})([A-Z])([0-9a-z]*)$/.exec(value) ?? []
  const issuedSeconds = Number.parseInt(issued, 36)
  const seconds = (await nowSeconds()) - issuedSeconds - (Number.parseInt(used, 36) || 0)
  return { seconds, device, issued: issuedSeconds }
}

describe('renew-session', () => {
  test('notes a use, and leaves when the session was opened and by what', async () => {
    await open({ field: 't1:a' })
    await putSession('t1:a', { issued: 700, used: 500 })
    const { issued } = await usedAgo('t1:a')
    expect(await renew('t1:a', 60)).toBe(1)
    const renewed = await usedAgo('t1:a')
    expect(renewed).toMatchObject({ issued, device: 'I' })
    expect(renewed.seconds).toBeLessThan(30)
  })

  test('prolongs the hash where that is needed, and never shortens it', async () => {
    await open({ field: 't1:a' })
    await putSession('t1:a', { issued: 700, used: 500 })
    await redis.expire(userKey(), 500)
    await renew('t1:a', 60)
    expect(await redis.ttl(userKey())).toBeGreaterThan(IDLE_SECONDS - 30)
    expect(await redis.ttl(userKey())).toBeLessThanOrEqual(IDLE_SECONDS)

    await putSession('t1:old', { issued: LIFE_SECONDS_MAX - 100, used: 500 })
    expect(await renew('t1:old', 60)).toBe(1)
    expect(await redis.ttl(userKey())).toBeGreaterThan(IDLE_SECONDS - 30)
  })

  test('never lets a session live longer than it may at most', async () => {
    await open({ field: 't1:a' })
    await redis.hdel(userKey(), 't1:a')
    await putSession('t1:old', { issued: LIFE_SECONDS_MAX - 100, used: 500 })
    await redis.expire(userKey(), 50)
    expect(await renew('t1:old', 60)).toBe(1)
    expect(await redis.ttl(userKey())).toBeLessThanOrEqual(100)
    expect(await redis.ttl(userKey())).toBeGreaterThan(70)
  })

  test('does nothing when a use was noted a moment ago', async () => {
    await open({ field: 't1:a' })
    await putSession('t1:a', { issued: 700, used: 30 })
    const before = await redis.hgetall(userKey())
    expect(await renew('t1:a', 60)).toBe(0)
    expect(await redis.hgetall(userKey())).toEqual(before)
  })

  test('brings back neither a session that was ended, nor one that has expired', async () => {
    expect(await renew('t1:a', 0)).toBe(0)
    await open({ field: 't1:b' })
    expect(await renew('t1:a', 0)).toBe(0)
    await putSession('t1:unused', { issued: 2_000, used: IDLE_SECONDS })
    await putSession('t1:too-old', { issued: LIFE_SECONDS_MAX, used: 100 })
    const before = await redis.hgetall(userKey())
    expect([await renew('t1:unused', 0), await renew('t1:too-old', 0)]).toEqual([0, 0])
    expect(await redis.hgetall(userKey())).toEqual(before)
  })
})

describe('block-user', () => {
  test('ends all sessions, keeps the user out, and says whether they were in', async () => {
    const ended = await listenForEnded(redis, channel)
    await open({ field: 't1:a' })
    expect(await block(60, 'spam')).toBe(1)
    expect(await redis.exists(userKey())).toBe(0)
    expect(await redis.get(blockKey())).toBe('spam')
    expect(await redis.ttl(blockKey())).toBeGreaterThan(30)
    expect(await open({ field: 't1:b' })).toEqual(['BLOCKED'])
    expect(await block(60)).toBe(0)
    expect(await ended.heard()).toContain(sub)
    ended.close()
  })

  test('lasts until it is lifted when no time is given', async () => {
    await block(60)
    await block(0)
    expect(await redis.ttl(blockKey())).toBe(-1)
    expect(await redis.del(blockKey())).toBe(1)
  })
})

describe('erase-user', () => {
  test('leaves nothing but the block, announces the user, and says when and how many sessions there were', async () => {
    await open({ field: 't1:a', unionid: 'u-1' })
    await open({ field: 't1:b' })
    await block(60)
    await redis.hset(userKey(), { 't1:a': 'x', 't1:b': 'y', o: 'o-alice' })
    await redis.expire(userKey(), 60)
    const ended = await listenForEnded(redis, channel)
    const before = await nowMs()
    const [erasedAtMs, sessions] = (await scripts.erase()) as [number, number]
    expect(erasedAtMs).toBeGreaterThanOrEqual(before)
    expect(erasedAtMs).toBeLessThanOrEqual(await nowMs())
    expect(sessions).toBe(2)
    // In our own corner: other files know this user too.
    expect(await redis.keys(`${prefix}*${sub}*`)).toEqual([blockKey()])
    expect(await ended.heard()).toEqual([sub])
    ended.close()
  })

  test('may be repeated, also for a user of whom nothing is known', async () => {
    expect(await scripts.erase()).toEqual([expect.any(Number), 0])
    expect(await scripts.erase()).toEqual([expect.any(Number), 0])
  })
})

describe('acknowledge-provisioned', () => {
  test('notes the user_id and when, and does not lengthen the life of the hash', async () => {
    await open({ field: 't1:a' })
    expect(await acknowledge('user-7')).toBe(1)
    const { userId, acknowledged, sinceSeconds } = await scripts.marks()
    expect({ userId, acknowledged }).toEqual({ userId: 'user-7', acknowledged: true })
    expect((await nowSeconds()) - sinceSeconds).toBeLessThan(30)
    expect(await redis.ttl(userKey())).toBeLessThanOrEqual(IDLE_SECONDS)
  })

  test('does not count as done for a unionid that appeared meanwhile', async () => {
    await open({ field: 't1:a' })
    await open({ field: 't1:b', unionid: 'u-1' })
    expect(await acknowledge('user-7')).toBe(2)
    expect(await open({ field: 't1:c' })).toEqual(['OPENED', 1, 1, 'u-1'])
    expect(await acknowledge('user-7', 'u-0')).toBe(2)
    expect(await acknowledge('user-7', 'u-1')).toBe(1)
    expect(await open({ field: 't1:d' })).toEqual(['OPENED', 0, 1, 'u-1'])
  })

  test('does not bring a user back who has logged out everywhere', async () => {
    expect(await acknowledge('user-7')).toBe(0)
    await open({ field: 't1:a' })
    await revoke('t1:a')
    expect(await acknowledge('user-7')).toBe(0)
    expect(await redis.exists(userKey())).toBe(0)
  })
})

test('every answer that the headers of these scripts promise has been reached above', () => {
  const names = [
    'revoke-session',
    'revoke-sessions',
    'renew-session',
    'block-user',
    'acknowledge-provisioned',
  ]
  expect(names.map((name) => [name, ...scripts.unreached(name)])).toEqual(names.map((name) => [name]))
})
