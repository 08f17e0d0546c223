/** What a bearer can do with a session, and what a session is worth when something behind it fails. */
import { connect } from 'node:net'
import { once } from 'node:events'
import { describe, expect, onTestFinished, test } from 'vitest'
import { startRedis } from '../deploy/local/redis-server.ts'
import { loadGatewayConfig } from '../src/config.ts'
import { createSeal } from '../src/seal.ts'
import { APPID, newKey } from './harness/environment.ts'
import { startHarness } from './harness/gateway.ts'
import type { Harness } from './harness/gateway.ts'
import { ageSession } from './harness/session-values.ts'
import { until } from './harness/until.ts'

const IPHONE = {
  'user-agent': 'Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) MicroMessenger/8.0.50',
}
const ANDROID = { 'user-agent': 'Mozilla/5.0 (Linux; Android 15) MicroMessenger/8.0.50' }
const UNIONID = 'o6_bmasdasdsad6_2sgVt7hMZOPfL'

async function logIn(harness: Harness, openid?: string, headers: Record<string, string> = {}) {
  const { code } = harness.wechat.issueCode({ ...(openid === undefined ? {} : { openid }), unionid: UNIONID })
  const reply = await harness.login({ code }, headers)
  expect(reply.status).toBe(200)
  return reply.body
}

describe('a session', () => {
  test('says who the bearer is', async () => {
    const harness = await startHarness()
    const login = await logIn(harness, undefined, IPHONE)
    const { status, body } = await harness.get('/session', login.token)

    expect(status).toBe(200)
    expect(body).toEqual({
      sub: login.sub,
      appid: APPID,
      openid: login.openid,
      unionid: UNIONID,
      issued_at: expect.closeTo(Date.now() / 1000, -1),
      expires_in: expect.closeTo(604_800, -1),
      device: 'ios',
      provisioned: false,
    })
  })

  test('ends with its logout, and a second logout finds nothing', async () => {
    const harness = await startHarness()
    const { token } = await logIn(harness)

    expect((await harness.delete('/session', token)).status).toBe(204)
    expect((await harness.get('/session', token)).status).toBe(401)
    expect((await harness.delete('/session', token)).status).toBe(401)
    expect(await harness.metric('sessions_revoked_total', { scope: 'one' })).toBe(1)
  })

  test('of one device ends without ending the others, and with the last one the session_key is gone', async () => {
    const harness = await startHarness()
    const phone = await logIn(harness, 'o-two-devices', IPHONE)
    const tablet = await logIn(harness, 'o-two-devices', ANDROID)

    await harness.delete('/session', phone.token)
    expect((await harness.get('/session', tablet.token)).status).toBe(200)
    expect(await harness.redis.hexists(harness.keys.user(tablet.sub), 'k')).toBe(1)

    await harness.delete('/session', tablet.token)
    expect(await harness.redis.exists(harness.keys.user(tablet.sub))).toBe(0)
  })

  test('is listed with its device, and all of them end at once', async () => {
    const harness = await startHarness()
    const phone = await logIn(harness, 'o-two-devices', IPHONE)
    const tablet = await logIn(harness, 'o-two-devices', ANDROID)
    const stranger = await logIn(harness)

    const { body } = await harness.get('/sessions', phone.token)
    expect(
      body.sessions
        .map(({ device, current }) => ({ device, current }))
        .toSorted((a, b) => a.device.localeCompare(b.device)),
    ).toEqual([
      { device: 'android', current: false },
      { device: 'ios', current: true },
    ])

    expect((await harness.delete('/sessions', phone.token)).status).toBe(204)
    for (const { token } of [phone, tablet]) expect((await harness.get('/auth', token)).status).toBe(401)
    expect((await harness.get('/auth', stranger.token)).status).toBe(200)
    expect((await harness.get('/sessions', phone.token)).status).toBe(401)
    expect((await harness.delete('/sessions', phone.token)).status).toBe(401)
  })

  test('beyond the number a user may hold ends the oldest', async () => {
    const harness = await startHarness({ env: { SESSIONS_PER_USER: '3' } })
    const tokens: string[] = []
    for (let i = 0; i < 5; i += 1) {
      tokens.push((await logIn(harness, 'o-many-devices')).token)
      // Sessions are ordered by the second in which they were issued.
      const [seconds] = await harness.redis.time()
      await until('the next second', async () => (await harness.redis.time())[0] !== seconds)
    }

    const valid = await Promise.all(tokens.map(async (token) => (await harness.get('/auth', token)).status))
    expect(valid).toEqual([401, 401, 200, 200, 200])
  })

  test('expires by the clock of Redis, to the second', async () => {
    const harness = await startHarness({ env: { SESSION_TTL_SECONDS: '60' } })
    const { token, sub } = await logIn(harness)
    const age = (seconds: number) => ageSession(harness, sub, { opened: seconds })

    await age(55)
    expect((await harness.get('/session', token)).body.expires_in).toBeLessThanOrEqual(5)
    await age(61)
    expect((await harness.get('/session', token)).status).toBe(401)
    expect((await harness.get('/sessions', token)).status).toBe(401)
  })

  test('of one gateway is valid at every other, and survives the rotation of the token keys', async () => {
    const one = await startHarness()
    const { token } = await logIn(one)
    const oldKey = one.env['TOKEN_KEYS'] ?? ''
    const rotated = await startHarness({
      wechat: one.wechat,
      env: { ...one.env, TOKEN_KEYS: `${newKey('t2')},${oldKey}` },
    })
    expect((await rotated.get('/session', token)).status).toBe(200)

    const fresh = await logIn(rotated)
    expect((await rotated.get('/session', fresh.token)).status).toBe(200)

    const retired = await startHarness({ wechat: one.wechat, env: { ...one.env, TOKEN_KEYS: newKey('t3') } })
    const reply = await retired.get('/session', token)
    expect(reply.status).toBe(401)
    expect(reply.body.code).toBe('session_invalid')
  })

  test('looks the same from outside when it is unknown, expired, revoked or malformed', async () => {
    const harness = await startHarness()
    const { token } = await logIn(harness)
    await harness.delete('/session', token)

    const tokens = [token, `wxs_${'a'.repeat(54)}`, 'wxs_short', 'nonsense', undefined]
    const replies = await Promise.all(tokens.map((token) => harness.get('/session', token)))
    expect(
      new Set(
        replies.map(
          ({ status, text, headers }) => `${status} ${text} ${String(headers['www-authenticate'])}`,
        ),
      ).size,
    ).toBe(1)
    expect(replies[0]?.headers['www-authenticate']).toBe('Bearer')
  })
})

describe('session_key in Redis', () => {
  test('is sealed: the current and the previous one open with the key, for that user alone', async () => {
    const harness = await startHarness()
    const openid = 'o-rotating-keys'
    const first = await logIn(harness, openid)
    const firstKey = harness.wechat.users({ openid })[0]?.sessionKey
    await logIn(harness, openid)
    const secondKey = harness.wechat.users({ openid })[0]?.sessionKey
    expect(secondKey).not.toBe(firstKey)

    const seal = createSeal(loadGatewayConfig(harness.env).sealKeys)
    const [current, previous] = await harness.redis.hmgetBuffer(harness.keys.user(first.sub), 'k', 'p')
    const place = { appid: APPID, sub: first.sub }
    expect(seal.unseal(current ?? Buffer.alloc(0), place)?.toString('base64')).toBe(secondKey)
    expect(seal.unseal(previous ?? Buffer.alloc(0), place)?.toString('base64')).toBe(firstKey)
    expect(
      seal.unseal(current ?? Buffer.alloc(0), { ...place, sub: 'somebody-else-entirely' }),
    ).toBeUndefined()
  })

  test('of an exchange that began earlier and ended later does not replace a newer one', async () => {
    const harness = await startHarness()
    const openid = 'o-race'
    const slow = harness.wechat.issueCode({ openid })
    const hold = harness.wechat.addFault({ kind: 'hold', code: slow.code })
    const late = harness.login({ code: slow.code })
    await harness.wechat.received(slow.code)
    // WeChat has answered the first exchange already, with the older key; its answer is on the way.
    const quick = await logIn(harness, openid)
    const newest = harness.wechat.users({ openid })[0]?.sessionKey
    hold.release()
    expect((await late).status).toBe(200)

    const seal = createSeal(loadGatewayConfig(harness.env).sealKeys)
    const [current] = await harness.redis.hmgetBuffer(harness.keys.user(quick.sub), 'k')
    expect(
      seal.unseal(current ?? Buffer.alloc(0), { appid: APPID, sub: quick.sub })?.toString('base64'),
    ).toBe(newest)
  })
})

describe('forward auth', () => {
  test('names the user to the backend, whatever the method, body and query of the original request', async () => {
    const harness = await startHarness()
    const { token, sub, openid } = await logIn(harness)
    const authorization = { authorization: `Bearer ${token}` }

    for (const method of ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']) {
      const body = method === 'POST' || method === 'PUT' ? { body: 'a=b&c=d' } : {}
      const headers = { ...authorization, 'content-type': 'application/x-www-form-urlencoded' }
      const reply = await harness.send(method, '/auth?of=the-original', { headers, ...body })
      expect(reply.status, method).toBe(200)
      expect(reply.headers).toMatchObject({
        'x-auth-subject': sub,
        'x-auth-appid': APPID,
        'x-auth-openid': openid,
        'x-auth-unionid': UNIONID,
      })
    }
    const denied = await harness.get('/auth', `${token.slice(0, -1)}${token.endsWith('A') ? 'B' : 'A'}`)
    expect(denied.status).toBe(401)
    expect(Object.keys(denied.headers).filter((name) => name.startsWith('x-auth'))).toEqual([])
  })

  test('takes no identity from the request itself', async () => {
    const harness = await startHarness()
    const reply = await harness.send('GET', '/auth', {
      headers: { 'x-wx-openid': 'o-forged', 'x-auth-subject': 'forged', 'x-auth-openid': 'o-forged' },
    })
    expect(reply.status).toBe(401)
  })
})

describe('without Redis', () => {
  test('a login gets 503 at once and WeChat is not asked; a validation gets 503, never 401; then all goes on', async () => {
    const redis = await startRedis({
      persistent: true,
      dataDir: (await import('node:fs')).mkdtempSync('/tmp/gateway-redis-'),
      allowDocker: false,
    })
    onTestFinished(() => redis.stop())
    const harness = await startHarness({ env: { REDIS_URL: redis.url, REDIS_COMMAND_TIMEOUT_MS: '250' } })
    const { token } = await logIn(harness)
    const { code } = harness.wechat.issueCode()
    const before = harness.wechat.history().length

    // Stopped, it takes connections and says nothing: the harder kind of "away".
    process.kill(redis.pid ?? 0, 'SIGSTOP')
    onTestFinished(() => void process.kill(redis.pid ?? 0, 'SIGCONT'))
    for (const reply of [
      await harness.login({ code }),
      await harness.get('/auth', token),
      await harness.delete('/session', token),
    ]) {
      expect(reply.status).toBe(503)
      expect(reply.body).toMatchObject({ code: 'store_unavailable', retry: 'same_code' })
      expect(reply.headers['retry-after']).toMatch(/^\d+$/)
    }
    expect(harness.wechat.history()).toHaveLength(before)
    expect((await harness.get('/livez')).status).toBe(200)
    expect((await harness.get('/readyz')).status).toBe(200)

    process.kill(redis.pid ?? 0, 'SIGCONT')
    const recovered = await until('the same code to log in', async () => {
      const reply = await harness.login({ code })
      return reply.status === 200 && reply
    })
    expect(recovered.body.token).toMatch(/^wxs_/)
    expect(harness.wechat.history({ code })).toHaveLength(1)
  })
})

test('on shutdown a request that is under way is answered, and its connection is closed', async () => {
  const harness = await startHarness()
  const { code } = harness.wechat.issueCode()
  const hold = harness.wechat.addFault({ kind: 'hold', code })
  const underWay = harness.login({ code })
  await harness.wechat.received(code)
  const { port, hostname } = new URL(harness.url)
  const idle = connect(Number(port), hostname)
  await once(idle, 'connect')

  const startedMs = performance.now()
  const closed = harness.gateway.close()
  hold.release()
  const reply = await underWay
  await closed

  expect(reply.status).toBe(200)
  expect(reply.headers['connection']).toBe('close')
  expect(performance.now() - startedMs).toBeLessThan(3_000)
  idle.destroy()
})
