/** open-session.lua on a real Redis: what a login writes, keeps, takes out and answers. */
import { Redis } from 'ioredis'
import { afterAll, afterEach, beforeEach, describe, expect, inject, test } from 'vitest'
import { createKeys } from '../src/redis/keys.ts'
import { newPrefix } from './harness/environment.ts'
import { demandEnds } from './harness/scripts.ts'
import {
  createUserScripts,
  IDLE_SECONDS,
  LIFE_SECONDS_MAX,
  listenForEnded,
  REFRESH_SECONDS,
} from './harness/user-scripts.ts'

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
const limitKey = () => keys.userLimit(sub)
const blockKey = () => keys.block(sub)
const scripts = createUserScripts(redis, channel, () => ({
  user: userKey(),
  limit: limitKey(),
  block: blockKey(),
}))
const { open, acknowledge, nowSeconds, putSession, sessionFields } = scripts

afterEach(() => demandEnds(redis, prefix))
afterAll(() => redis.disconnect())

const endsInSeconds = async () => (await redis.expiretime(userKey())) - (await nowSeconds())
const keysHeld = () => redis.hmget(userKey(), 'k', 'p')

/** Of user-marks.ts. */
const EPOCH_SECONDS = Date.UTC(2020, 0, 1) / 1_000
const ACKNOWLEDGED_BIT = 2 ** 31

/** Moves the moment at which the worker acknowledged. */
async function acknowledgedAgo(agoSeconds: number): Promise<void> {
  const marks = (await redis.hgetBuffer(userKey(), 'm')) ?? Buffer.alloc(0)
  marks.writeUInt32BE((await nowSeconds()) - agoSeconds - EPOCH_SECONDS + ACKNOWLEDGED_BIT, 8)
  await redis.hset(userKey(), 'm', marks)
}

describe('open-session', () => {
  test('writes all that is known of a user, and nothing else', async () => {
    const before = await nowSeconds()
    const answer = await open({ field: 't1:a', unionid: 'u-alice', sealed: 'sealed', fingerprint: 'fing' })

    expect(answer).toEqual(['OPENED', 1, 0, 'u-alice'])
    const { m: _marks, 't1:a': session = '', ...user } = await redis.hgetall(userKey())
    expect(user).toEqual({
      a: 'wx0123456789abcdef',
      o: 'o-alice',
      u: 'u-alice',
      k: 'sealed',
    })
    const [, issued = ''] = /^([0-9a-z]{6})I$/.exec(session) ?? []
    expect(Number.parseInt(issued, 36) - before).toBeLessThan(30)
    expect(await scripts.marks()).toEqual({
      userId: undefined,
      acknowledged: false,
      sinceSeconds: Number.parseInt(issued, 36),
    })
  })

  test('keeps a session_key that is not text as it is', async () => {
    const sealed = Buffer.from([1, 2, 0x73, 0x31, 0, 255, 0, 13, 10, 128])
    await open({ field: 't1:a', sealed })
    expect(await redis.hgetBuffer(userKey(), 'k')).toEqual(sealed)
  })

  describe('says that provisioning is due', () => {
    test('at the first login, and again while the worker has not acknowledged', async () => {
      expect(await open({ field: 't1:a' })).toEqual(['OPENED', 1, 0, ''])
      const queued = await scripts.marks()
      expect(await open({ field: 't1:b' })).toEqual(['OPENED', 1, 0, ''])
      expect(await scripts.marks()).toEqual(queued) // how long it has been waiting stays known
    })

    test('not when the worker has acknowledged a moment ago; then with the user_id', async () => {
      await open({ field: 't1:a' })
      await acknowledge('user-7')
      expect(await open({ field: 't1:b' })).toEqual(['OPENED', 0, 1, ''])
      await acknowledgedAgo(REFRESH_SECONDS - 30)
      expect(await open({ field: 't1:c' })).toEqual(['OPENED', 0, 1, ''])
    })

    test('when that was too long ago, until it acknowledges again', async () => {
      await open({ field: 't1:a' })
      await acknowledge('user-7')
      await acknowledgedAgo(REFRESH_SECONDS)
      expect(await open({ field: 't1:b' })).toEqual(['OPENED', 1, 1, ''])
      expect(await open({ field: 't1:c' })).toEqual(['OPENED', 1, 1, ''])
      await acknowledge('user-7')
      expect(await open({ field: 't1:d' })).toEqual(['OPENED', 0, 1, ''])
    })

    test('when a unionid appears or changes, also for a user it knows', async () => {
      await open({ field: 't1:a' })
      await acknowledge('user-7')
      expect(await open({ field: 't1:b', unionid: 'u-1' })).toEqual(['OPENED', 1, 1, 'u-1'])
      expect(await scripts.marks()).toMatchObject({ userId: 'user-7', acknowledged: false })
      await acknowledge('user-7', 'u-1')
      expect(await open({ field: 't1:c', unionid: 'u-1' })).toEqual(['OPENED', 0, 1, 'u-1'])
      expect(await open({ field: 't1:d', unionid: 'u-2' })).toEqual(['OPENED', 1, 1, 'u-2'])
    })

    // WeChat leaves the unionid out of some answers.
    test('not when a unionid that is known is left out; it is remembered', async () => {
      await open({ field: 't1:a', unionid: 'u-1' })
      await acknowledge('user-7', 'u-1')
      expect(await open({ field: 't1:b' })).toEqual(['OPENED', 0, 1, 'u-1'])
    })
  })

  describe('limits a user', () => {
    test('exactly, tells when the minute ends, and opens nothing', async () => {
      expect(await open({ field: 't1:a', loginsMax: 2 })).toMatchObject({ 0: 'OPENED' })
      expect(await open({ field: 't1:b', loginsMax: 2 })).toMatchObject({ 0: 'OPENED' })
      const before = await redis.hgetall(userKey())
      const [state, untilMs] = (await open({ field: 't1:c', loginsMax: 2 })) as [string, number]
      expect(state).toBe('LIMITED')
      expect(untilMs).toBeGreaterThan(0)
      expect(untilMs).toBeLessThanOrEqual(60_000)
      expect(await redis.hgetall(userKey())).toEqual(before)
    })

    test('by a minute that does not begin anew with every try', async () => {
      await open({ field: 't1:a', loginsMax: 1 })
      await redis.pexpire(limitKey(), 5_000)
      await open({ field: 't1:b', loginsMax: 1 })
      await open({ field: 't1:c', loginsMax: 1 })
      expect(await redis.pttl(limitKey())).toBeLessThanOrEqual(5_000)
    })
  })

  describe('keeps so many sessions and no more', () => {
    test('the oldest goes, whatever the order of the fields', async () => {
      await open({ field: 't1:new' })
      await putSession('t1:oldest', { issued: 300, used: 0 })
      await putSession('t1:a-younger', { issued: 100, used: 100 })
      await putSession('t1:b-young', { issued: 200, used: 200 })
      await open({ field: 't1:newest', sessionsMax: 4 })
      expect(await sessionFields()).toEqual(['t1:a-younger', 't1:b-young', 't1:new', 't1:newest'])
    })

    test('one means one', async () => {
      for (const field of ['t1:a', 't1:b', 't1:c']) await open({ field, sessionsMax: 1 })
      expect(await sessionFields()).toEqual(['t1:c'])
    })

    test('a lower number than before is reached at once', async () => {
      for (let index = 0; index < 9; index += 1)
        await putSession(`t1:${index}`, { issued: 100 + index, used: 100 })
      await open({ field: 't1:new', sessionsMax: 3 })
      expect(await sessionFields()).toEqual(['t1:0', 't1:1', 't1:new'])
    })

    test('a session that is opened again is one, and takes nobody else’s place', async () => {
      await open({ field: 't1:a', sessionsMax: 2 })
      await open({ field: 't1:b', sessionsMax: 2 })
      await open({ field: 't1:b', sessionsMax: 2 })
      expect(await sessionFields()).toEqual(['t1:a', 't1:b'])
    })

    test('those that have expired are taken out, and do not count', async () => {
      await open({ field: 't1:a' })
      await putSession('t1:unused', { issued: IDLE_SECONDS + 1_000, used: IDLE_SECONDS })
      await putSession('t1:too-old', { issued: LIFE_SECONDS_MAX, used: 10 })
      await putSession('t1:in-use', { issued: LIFE_SECONDS_MAX - 100, used: IDLE_SECONDS - 100 })
      await open({ field: 't1:b', sessionsMax: 3 })
      expect(await sessionFields()).toEqual(['t1:a', 't1:b', 't1:in-use'])
    })
  })

  describe('keeps the session_key of the latest exchange', () => {
    test('and the one before it, for what was encrypted a moment ago', async () => {
      await open({ field: 't1:a', sealed: 'first', fingerprint: 'f1f1' })
      expect(await keysHeld()).toEqual(['first', null])
      await open({ field: 't1:b', sealed: 'second', fingerprint: 'f2f2' })
      expect(await keysHeld()).toEqual(['second', 'first'])
      await open({ field: 't1:c', sealed: 'third', fingerprint: 'f3f3' })
      expect(await keysHeld()).toEqual(['third', 'second'])
    })

    test('an exchange that began earlier and arrives later changes neither', async () => {
      const at = { early: 1_700_000_000_000, middle: 1_700_000_000_001, late: 1_700_000_100_000 }
      await open({ field: 't1:a', sealed: 'middle', fingerprint: 'f2f2', startedAtMs: at.middle })
      await open({ field: 't1:b', sealed: 'late', fingerprint: 'f3f3', startedAtMs: at.late })
      await open({ field: 't1:c', sealed: 'early', fingerprint: 'f1f1', startedAtMs: at.early })
      expect(await keysHeld()).toEqual(['late', 'middle'])
      expect(await sessionFields()).toEqual(['t1:a', 't1:b', 't1:c']) // the session itself is opened
    })

    test('by time, also where the digits of two times differ in kind', async () => {
      const [before, after] = [Number.parseInt('lnd0zzz9', 36), Number.parseInt('lnd0zzza', 36)]
      await open({ field: 't1:a', sealed: 'after', fingerprint: 'f2f2', startedAtMs: after })
      await open({ field: 't1:b', sealed: 'before', fingerprint: 'f1f1', startedAtMs: before })
      expect(await keysHeld()).toEqual(['after', null])
    })

    // WeChat gives the same session_key again when logins follow each other quickly.
    test('an equal key is sealed afresh, and the one before it stays', async () => {
      await open({ field: 't1:a', sealed: 'first', fingerprint: 'f1f1' })
      await open({ field: 't1:b', sealed: 'second', fingerprint: 'f2f2' })
      await open({ field: 't1:c', sealed: 'second again', fingerprint: 'f2f2' })
      expect(await keysHeld()).toEqual(['second again', 'first'])
    })
  })

  describe('lets the hash live', () => {
    test('as long as its newest session does unused, whatever the others', async () => {
      await open({ field: 't1:a' })
      expect(await endsInSeconds()).toBeGreaterThan(IDLE_SECONDS - 30)
      await redis.expire(userKey(), 60)
      await putSession('t1:b', { issued: 500, used: 500 })
      await open({ field: 't1:c' })
      expect(await endsInSeconds()).toBeGreaterThan(IDLE_SECONDS - 30)
      expect(await endsInSeconds()).toBeLessThanOrEqual(IDLE_SECONDS)
    })

    test('no longer than a session may at most', async () => {
      await open({ field: 't1:a', idleSeconds: 1_000, lifeSecondsMax: 100 })
      expect(await endsInSeconds()).toBeLessThanOrEqual(100)
    })
  })

  describe('ends the session that the client held before', () => {
    test('under any of the fields that the token keys lead to, and no other', async () => {
      await open({ field: 't1:before' })
      await open({ field: 't1:other-phone' })
      await open({ field: 't2:now', replaces: ['t2:before', 't1:before'] })
      expect(await sessionFields()).toEqual(['t1:other-phone', 't2:now'])
    })

    test('but not the one it opens', async () => {
      await open({ field: 't1:a' })
      await open({ field: 't1:a', replaces: ['t1:a'] })
      expect(await sessionFields()).toEqual(['t1:a'])
    })

    test('and needs no further place for it', async () => {
      await open({ field: 't1:a' })
      await open({ field: 't1:b' })
      await open({ field: 't1:c', replaces: ['t1:b'], sessionsMax: 2 })
      expect(await sessionFields()).toEqual(['t1:a', 't1:c'])
    })
  })

  describe('announces a user', () => {
    test('one of whose living sessions it has ended, and no other', async () => {
      const ended = await listenForEnded(redis, channel)
      await open({ field: 't1:a' })
      await open({ field: 't1:b' })
      await putSession('t1:expired', { issued: 3_000, used: 2_000 })
      await open({ field: 't1:c', replaces: ['t1:unknown'] })
      expect(await ended.heard()).toEqual([])
      await open({ field: 't1:d', replaces: ['t1:c'] })
      expect(await ended.heard()).toEqual([sub])
      await open({ field: 't1:e', sessionsMax: 3 })
      expect(await ended.heard()).toEqual([sub, sub])
      ended.close()
    })
  })

  test('opens nothing for a user who is blocked', async () => {
    await redis.set(blockKey(), 'why', 'EX', 60)
    expect(await open({ field: 't1:a' })).toEqual(['BLOCKED'])
    expect(await redis.exists(userKey())).toBe(0)
    await redis.del(blockKey())
    expect(await open({ field: 't1:a' })).toMatchObject({ 0: 'OPENED' })
  })
})

test('every answer that the header of this script promises has been reached above', () => {
  expect(scripts.unreached('open-session')).toEqual([])
})
