/** How long sessions live, and every way of ending one. */
import { randomUUIDv7 } from 'node:crypto'
import { describe, expect, onTestFinished, test } from 'vitest'
import { startRedis } from '../deploy/local/redis-server.ts'
import { createAcknowledge } from '../src/provisioning.ts'
import { newKey } from './harness/environment.ts'
import { startHarness } from './harness/gateway.ts'
import type { Harness } from './harness/gateway.ts'
import { ageSession, logIn } from './harness/session-values.ts'
import { until } from './harness/until.ts'

/** Idle life 600 s, so that use is noted at most once a minute; an hour at most. */
const LIFE = { SESSION_TTL_SECONDS: '600', SESSION_MAX_SECONDS: '3600' }

const renewed = (harness: Harness) => harness.metric('session_renewals_total', { outcome: 'renewed' })
const validate = async (harness: Harness, token: string) => (await harness.get('/auth', token)).status
const expiresIn = async (harness: Harness, token: string) =>
  (await harness.get('/session', token)).body.expires_in
const bearer = (token: string) => ({ authorization: `Bearer ${token}` })

describe('a session that is used', () => {
  test('lives on, and the hash with it', async () => {
    const harness = await startHarness({ env: LIFE })
    const { token, sub } = await logIn(harness)
    await ageSession(harness, sub, { opened: 400 })
    await harness.redis.expire(harness.keys.user(sub), 200)

    expect(await expiresIn(harness, token)).toBeLessThanOrEqual(200)
    await until('its use to be noted', async () => (await renewed(harness)) === 1)
    expect(await expiresIn(harness, token)).toBeGreaterThan(590)
    const left = await harness.redis.ttl(harness.keys.user(sub))
    expect(left).toBeGreaterThan(590)
    expect(left).toBeLessThanOrEqual(600)
  })

  test('ends with its absolute life, and so does the hash', async () => {
    const harness = await startHarness({ env: LIFE })
    const { token, sub } = await logIn(harness)
    await ageSession(harness, sub, { opened: 3_500, unused: 400 })
    await harness.redis.expire(harness.keys.user(sub), 50)

    expect(await expiresIn(harness, token)).toBeLessThanOrEqual(100)
    await until('its use to be noted', async () => (await renewed(harness)) === 1)
    expect(await expiresIn(harness, token)).toBeLessThanOrEqual(100)
    expect(await expiresIn(harness, token)).toBeGreaterThan(90)
    const left = await harness.redis.ttl(harness.keys.user(sub))
    expect(left).toBeGreaterThan(90)
    expect(left).toBeLessThanOrEqual(100)

    await ageSession(harness, sub, { opened: 3_601, unused: 1 })
    expect(await validate(harness, token)).toBe(401)
  })

  test('ends when it is not used any more, to the second', async () => {
    const harness = await startHarness({ env: LIFE })
    const { token, sub } = await logIn(harness)
    await ageSession(harness, sub, { opened: 1_200, unused: 597 })
    expect(await validate(harness, token)).toBe(200)
    await until('its use to be noted', async () => (await renewed(harness)) === 1)
    await ageSession(harness, sub, { opened: 1_200, unused: 600 })
    expect(await validate(harness, token)).toBe(401)
  })

  test('is written at most once in a tenth of its life, over all gateways', async () => {
    const one = await startHarness({ env: LIFE })
    const other = await startHarness({ env: one.env, wechat: one.wechat })
    const { token, sub } = await logIn(one)

    await ageSession(one, sub, { opened: 55 })
    await Promise.all(Array.from({ length: 20 }, () => validate(one, token)))
    expect(await one.metric('session_renewals_total')).toBe(0)

    await ageSession(one, sub, { opened: 61 })
    const statuses = await Promise.all(
      Array.from({ length: 400 }, (_, at) => validate(at % 2 === 0 ? one : other, token)),
    )
    expect(statuses.every((status) => status === 200)).toBe(true)
    await until('its use to be noted', async () => (await renewed(one)) + (await renewed(other)) > 0)
    await Promise.all(Array.from({ length: 100 }, () => validate(one, token)))
    expect((await renewed(one)) + (await renewed(other))).toBe(1)
  })

  test('is found on a Redis that is full, which only keeps it from living on', async () => {
    const server = await startRedis({ persistent: false, allowDocker: false })
    onTestFinished(() => server.stop())
    const harness = await startHarness({ env: { ...LIFE, REDIS_URL: server.url } })
    const { token, sub } = await logIn(harness)
    await ageSession(harness, sub, { opened: 400 })
    await harness.redis.config('SET', 'maxmemory', '1')

    for (let i = 0; i < 20; i += 1) expect(await validate(harness, token)).toBe(200)
    await until(
      'the failed try to be counted',
      async () => (await harness.metric('session_renewals_total', { outcome: 'failed' })) === 1,
    )
    expect(await expiresIn(harness, token)).toBeLessThanOrEqual(200)
  })

  test('takes no more memory for it than Redis has allotted already', async () => {
    const harness = await startHarness({ env: { KEY_PREFIX: '' } })
    const { redis, keys, wechat } = harness
    const { code } = wechat.issueCode({ unionid: 'o6_bmasdasdsad6_2sgVt7hMZOPfL' })
    const { sub } = (await harness.login({ code })).body
    onTestFinished(async () => void (await redis.del(keys.user(sub))))
    await createAcknowledge(redis, keys)({ sub, userId: randomUUIDv7() })
    const fresh = await redis.memory('USAGE', keys.user(sub))
    await ageSession(harness, sub, { opened: 2_591_000, unused: 60 })
    expect(await redis.memory('USAGE', keys.user(sub))).toBe(fresh)
  })
})

describe('the list of sessions', () => {
  test('says when each was opened and last used', async () => {
    const harness = await startHarness({ env: LIFE })
    const { token, sub } = await logIn(harness)
    await ageSession(harness, sub, { opened: 2_000, unused: 30 })
    const [seconds] = await harness.redis.time()
    const [session] = (await harness.get('/sessions', token)).body.sessions
    expect(session).toEqual({
      id: expect.stringMatching(/^[\w-]{22}$/),
      issued_at: expect.closeTo(Number(seconds) - 2_000, -1),
      last_used_at: expect.closeTo(Number(seconds) - 30, -1),
      expires_in: expect.closeTo(570, -1),
      device: 'other',
      current: true,
    })
    expect(token).not.toContain(session?.id)
  })
})

/** Tokens of one user. */
async function threeSessions(harness: Harness): Promise<[string, string, string]> {
  const one = async () => (await logIn(harness, { openid: 'o-three-devices' })).token
  return [await one(), await one(), await one()]
}
const statuses = (harness: Harness, tokens: string[]) =>
  Promise.all(tokens.map((token) => validate(harness, token)))

describe('the bearer ends', () => {
  test('one session by its id', async () => {
    const harness = await startHarness()
    const tokens = await threeSessions(harness)
    const [first, second] = tokens
    const { sessions } = (await harness.get('/sessions', second)).body
    const id = sessions.find(({ current }) => current)?.id ?? ''

    expect((await harness.delete(`/sessions/${id}`, first)).status).toBe(204)
    expect(await statuses(harness, tokens)).toEqual([200, 401, 200])
    const again = await harness.delete(`/sessions/${id}`, first)
    expect([again.status, again.body.code]).toEqual([404, 'not_found'])
  })

  test('the session it is asking with, by its id', async () => {
    const harness = await startHarness()
    const [first] = await threeSessions(harness)
    const { sessions } = (await harness.get('/sessions', first)).body
    const id = sessions.find(({ current }) => current)?.id ?? ''
    expect((await harness.delete(`/sessions/${id}`, first)).status).toBe(204)
    expect(await validate(harness, first)).toBe(401)
  })

  test('all sessions but this one', async () => {
    const harness = await startHarness()
    const tokens = await threeSessions(harness)
    expect((await harness.delete('/sessions?keep=current', tokens[1])).status).toBe(204)
    expect(await statuses(harness, tokens)).toEqual([401, 200, 401])
    expect((await harness.delete('/sessions?keep=current', tokens[1])).status).toBe(204)
    expect(await statuses(harness, tokens)).toEqual([401, 200, 401])
    expect(await harness.metric('sessions_revoked_total', { scope: 'others' })).toBe(1)
  })

  test('nothing of anybody else’s', async () => {
    const harness = await startHarness()
    const tokens = await threeSessions(harness)
    const stranger = await logIn(harness)
    const { sessions } = (await harness.get('/sessions', tokens[0])).body
    for (const { id } of sessions) {
      expect((await harness.delete(`/sessions/${id}`, stranger.token)).status).toBe(404)
    }
    expect((await harness.delete('/sessions?keep=current', stranger.token)).status).toBe(204)
    expect(await statuses(harness, tokens)).toEqual([200, 200, 200])
  })

  test('nothing with a token that is none, and nothing by a question that is not understood', async () => {
    const harness = await startHarness()
    const tokens = await threeSessions(harness)
    const { id = '' } = (await harness.get('/sessions', tokens[0])).body.sessions[0] ?? {}
    const ended = await logIn(harness, { openid: 'o-three-devices' })
    await harness.delete('/session', ended.token)
    for (const token of [undefined, ended.token, `wxs_${'a'.repeat(54)}`]) {
      for (const path of [`/sessions/${id}`, '/sessions?keep=current', '/sessions']) {
        expect([path, (await harness.delete(path, token)).body.code]).toEqual([path, 'session_invalid'])
      }
    }
    for (const path of ['/sessions?keep=all', '/sessions?keep=', '/sessions?keep=current&keep=current']) {
      expect([path, (await harness.delete(path, tokens[0])).status]).toEqual([path, 400])
    }
    for (const bad of ['x', '*', `${id}x`, `t1:${id}`, '__proto__', '%00', 'a'.repeat(99)]) {
      expect([bad, (await harness.delete(`/sessions/${bad}`, tokens[0])).status]).toEqual([bad, 400])
    }
    expect(await statuses(harness, tokens)).toEqual([200, 200, 200])
  })
})

// ASVS 7.2.4: a new session on authentication ends the one it replaces.
describe('a login that comes with the old token of the device', () => {
  test('ends that session and no other', async () => {
    const harness = await startHarness()
    const openid = 'o-again'
    const tablet = await logIn(harness, { openid })
    const before = await logIn(harness, { openid })
    const after = await logIn(harness, { openid, headers: bearer(before.token) })

    expect(after.token).not.toBe(before.token)
    expect(await validate(harness, before.token)).toBe(401)
    expect(await validate(harness, after.token)).toBe(200)
    expect(await validate(harness, tablet.token)).toBe(200)
  })

  test('ends it also after the token keys have been rotated', async () => {
    const one = await startHarness()
    const before = await logIn(one, { openid: 'o-rotated' })
    const rotated = await startHarness({
      wechat: one.wechat,
      env: { ...one.env, TOKEN_KEYS: `${newKey('t2')},${one.env['TOKEN_KEYS'] ?? ''}` },
    })
    const after = await logIn(rotated, { openid: 'o-rotated', headers: bearer(before.token) })
    expect(await validate(rotated, before.token)).toBe(401)
    expect(await validate(rotated, after.token)).toBe(200)
  })

  test('leaves the session of another user alone', async () => {
    const harness = await startHarness()
    const other = await logIn(harness)
    const own = await logIn(harness, { headers: bearer(other.token) })
    expect(await validate(harness, other.token)).toBe(200)
    expect(await validate(harness, own.token)).toBe(200)
  })

  test('takes no notice of what is no token', async () => {
    const harness = await startHarness()
    const { sub, token } = await logIn(harness, { openid: 'o-again' })
    for (const authorization of [
      'Bearer',
      'Bearer x',
      'Basic eDp5',
      `Bearer wxs_${sub}${'A'.repeat(32)}`,
      `Bearer ${token}x`,
      `Bearer ${'x'.repeat(5_000)}`,
      'Bearer __proto__',
    ]) {
      await logIn(harness, { openid: 'o-again', headers: { authorization } })
    }
    expect(await validate(harness, token)).toBe(200)
  })

  test('answers a retry with the same new session', async () => {
    const harness = await startHarness()
    const openid = 'o-again'
    const before = await logIn(harness, { openid })
    const { code } = harness.wechat.issueCode({ openid })
    const replies = await Promise.all(
      Array.from({ length: 10 }, () => harness.login({ code }, bearer(before.token))),
    )
    replies.push(await harness.login({ code }, bearer(before.token)))
    expect(new Set(replies.map(({ body }) => body.token)).size).toBe(1)
    // A client that has got its new token and sends it with a retry of the same code keeps it.
    const token = replies[0]?.body.token ?? ''
    expect((await harness.login({ code }, bearer(token))).body.token).toBe(token)
    expect(await validate(harness, token)).toBe(200)
    expect(await validate(harness, before.token)).toBe(401)
  })
})

test('a shorter idle life counts at once, for sessions that are there already', async () => {
  const one = await startHarness({ env: LIFE })
  const { token, sub } = await logIn(one)
  await ageSession(one, sub, { opened: 200 })
  const stricter = await startHarness({
    wechat: one.wechat,
    env: { ...one.env, SESSION_TTL_SECONDS: '120' },
  })
  expect(await validate(stricter, token)).toBe(401)
  expect(await validate(one, token)).toBe(200)
})
