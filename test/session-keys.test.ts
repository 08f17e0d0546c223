/** What is done with a session_key on behalf of those who must never hold it. */
import { describe, expect, test } from 'vitest'
import { createSeal } from '../src/seal.ts'
import { loadGatewayConfig } from '../src/config.ts'
import { APPID, newKey } from './harness/environment.ts'
import { startHarness } from './harness/gateway.ts'
import { PLATFORMS, platformsEnvironment, SIMULATED_APPS } from './harness/platforms.ts'
import { expectProblem, MARK } from './harness/problem.ts'
import { startWechat } from './harness/wechat.ts'
import { collect, keyOf, logIn } from './harness/session-keys.ts'

describe('open data', () => {
  test('is decrypted for its user, in the words of WeChat, without the key', async () => {
    const harness = await startHarness()
    const { openid, token } = await logIn(harness)
    const { encrypted } = collect(harness, openid, { data: { nickName: '微信用户' } })

    const { status, body, text } = await harness.post('/session/decrypt', encrypted, token)
    expect(status).toBe(200)
    expect(body).toMatchObject({
      data: { openId: openid, nickName: '微信用户', watermark: { appid: APPID } },
    })
    expect(text).not.toContain(keyOf(harness, openid))
    expect(await harness.metric('session_key_uses_total', { use: 'decrypt', outcome: 'ok' })).toBe(1)
  })

  // The client calls wx.login() while the data that was encrypted before is on its way.
  test('of login N is decrypted after login N+1, and not after login N+2', async () => {
    const harness = await startHarness()
    const { openid, token } = await logIn(harness, 'o-racing')
    const { encrypted, signed } = collect(harness, openid)

    const second = await logIn(harness, openid)
    expect((await harness.post('/session/decrypt', encrypted, token)).status).toBe(200)
    expect((await harness.post('/session/verify', signed, token)).body).toEqual({ valid: true })
    expect(await harness.metric('session_key_uses_total', { use: 'decrypt', outcome: 'ok_previous' })).toBe(1)

    await logIn(harness, openid)
    for (const bearer of [token, second.token]) {
      const { status, body } = await harness.post('/session/decrypt', encrypted, bearer)
      expect(status).toBe(409)
      expect(body).toMatchObject({ code: 'session_key_stale', retry: 'new_code' })
      expect(body['detail']).toMatch(/^Log in first/)
    }
    expect((await harness.post('/session/verify', signed, token)).body).toEqual({ valid: false })
  })

  test('of a login whose key did not change stays readable through any number of logins', async () => {
    const harness = await startHarness({ simulator: { keyRefreshSeconds: 3_600 } })
    const { openid, token } = await logIn(harness, 'o-constant')
    const { encrypted } = collect(harness, openid)
    for (let i = 0; i < 3; i += 1) await logIn(harness, openid)
    expect((await harness.post('/session/decrypt', encrypted, token)).status).toBe(200)
  })

  // WeChat's answer to the older login is held back until the newer one is through.
  test('a slower, older login that finishes late does not replace a newer key', async () => {
    const harness = await startHarness()
    const { token } = await logIn(harness, 'o-slow')
    const older = harness.wechat.issueCode({ openid: 'o-slow' })
    const hold = harness.wechat.addFault({ kind: 'hold', code: older.code })
    const slow = harness.login({ code: older.code })
    await harness.wechat.received(older.code)

    await logIn(harness, 'o-slow')
    const { encrypted } = collect(harness, 'o-slow')
    hold.release()
    expect((await slow).status).toBe(200)

    const { status } = await harness.post('/session/decrypt', encrypted, token)
    expect(status).toBe(200)
    expect(await harness.metric('session_key_uses_total', { use: 'decrypt', outcome: 'ok' })).toBe(1)
  })

  test('of somebody else is not decrypted, whoever asks', async () => {
    const harness = await startHarness()
    const alice = await logIn(harness)
    const bob = await logIn(harness)
    const { encrypted } = collect(harness, alice.openid)
    const { status, body } = await harness.post('/session/decrypt', encrypted, bob.token)
    expect({ status, code: body.code }).toEqual({ status: 409, code: 'session_key_stale' })

    // Under Bob's key, as if it could be had, but about Alice.
    const forged = collect(harness, alice.openid, { sessionKey: keyOf(harness, bob.openid) })
    const answer = await harness.post('/session/decrypt', forged.encrypted, bob.token)
    expect({ status: answer.status, code: answer.body.code }).toEqual({
      status: 403,
      code: 'open_data_foreign',
    })
  })

  test('is refused when its watermark is older than OPEN_DATA_MAX_AGE_SECONDS', async () => {
    const harness = await startHarness({ env: { OPEN_DATA_MAX_AGE_SECONDS: '600' } })
    const { openid, token } = await logIn(harness)
    const at = async (ageSeconds: number) => {
      const timestamp = Math.floor(Date.now() / 1000) - ageSeconds
      return harness.post('/session/decrypt', collect(harness, openid, { timestamp }).encrypted, token)
    }
    expect((await at(590)).status).toBe(200)
    const { status, body } = await at(610)
    expect({ status, code: body.code, retry: body.retry }).toEqual({
      status: 400,
      code: 'open_data_expired',
      retry: 'never',
    })
  })

  test('is taken twice by default, and once when the guard is on', async () => {
    const lax = await startHarness()
    const one = await logIn(lax)
    const repeated = collect(lax, one.openid).encrypted
    for (let i = 0; i < 2; i += 1)
      expect((await lax.post('/session/decrypt', repeated, one.token)).status).toBe(200)

    const strict = await startHarness({ env: { OPEN_DATA_REPLAY_SECONDS: '60' } })
    const two = await logIn(strict)
    const { encrypted } = collect(strict, two.openid)
    const replies = await Promise.all(
      Array.from({ length: 10 }, () => strict.post('/session/decrypt', encrypted, two.token)),
    )
    expect(replies.filter(({ status }) => status === 200)).toHaveLength(1)
    expect(replies.filter(({ body }) => body.code === 'replayed')).toHaveLength(9)
    expect(
      (await strict.post('/session/decrypt', collect(strict, two.openid).encrypted, two.token)).status,
    ).toBe(200)
    const [key = ''] = await strict.redis.keys(`${strict.env['KEY_PREFIX']}replay:*`)
    expect(await strict.redis.ttl(key)).toBeGreaterThan(0)
    expect(await strict.redis.ttl(key)).toBeLessThanOrEqual(60)
  })

  test('does not show the openid where EXPOSE_OPENID forbids it', async () => {
    const harness = await startHarness({ env: { EXPOSE_OPENID: 'false' } })
    const { openid, token } = await logIn(harness)
    const { body, text } = await harness.post('/session/decrypt', collect(harness, openid).encrypted, token)
    expect(body).toMatchObject({ data: { watermark: { appid: APPID } } })
    expect(text).not.toContain(openid)
    expect(text).not.toMatch(/openId|unionId/)
  })

  test('wants a session that is still there', async () => {
    const harness = await startHarness()
    const { openid, token } = await logIn(harness)
    const { encrypted, signed } = collect(harness, openid)
    await harness.delete('/session', token)
    for (const bearer of [token, undefined, 'wxs_none']) {
      expect((await harness.post('/session/decrypt', encrypted, bearer)).status).toBe(401)
      expect((await harness.post('/session/verify', signed, bearer)).status).toBe(401)
      expect((await harness.post('/session/phone', { code: '0'.repeat(64) }, bearer)).status).toBe(401)
    }
  })
})

describe('rawData', () => {
  test('is verified against the signature WeChat made', async () => {
    const harness = await startHarness()
    const { openid, token } = await logIn(harness)
    const { signed } = collect(harness, openid, { data: { nickName: '"微信" 用户\n' } })
    expect((await harness.post('/session/verify', signed, token)).body).toEqual({ valid: true })
    const altered = { ...signed, raw_data: signed.raw_data.replace('微信', '支付') }
    expect((await harness.post('/session/verify', altered, token)).body).toEqual({ valid: false })
    const stranger = await logIn(harness)
    expect((await harness.post('/session/verify', signed, stranger.token)).body).toEqual({ valid: false })
  })
})

describe('a session_key that cannot be opened', () => {
  test('is as one that is not there: 409, counted, and the session goes on', async () => {
    const harness = await startHarness()
    const { openid, token, sub } = await logIn(harness)
    const { encrypted, signed } = collect(harness, openid)
    const foreign = createSeal(loadGatewayConfig({ ...harness.env, SEAL_KEYS: newKey('gone') }).sealKeys)
    await harness.redis.hset(
      harness.keys.user(sub),
      'k',
      foreign.seal(Buffer.from(keyOf(harness, openid), 'base64'), { appid: APPID, sub }),
    )

    for (const [path, fields] of [
      ['/session/decrypt', encrypted],
      ['/session/verify', signed],
    ] as const) {
      const { status, body } = await harness.post(path, fields, token)
      expect({ status, code: body.code, retry: body.retry }).toEqual({
        status: 409,
        code: 'session_key_stale',
        retry: 'new_code',
      })
    }
    const admin = await harness.admin.post(
      '/check-session-key',
      { appid: APPID, openid },
      harness.env['ADMIN_TOKEN'],
    )
    expect({ status: admin.status, code: admin.body.code }).toEqual({
      status: 409,
      code: 'session_key_stale',
    })
    expect(await harness.metric('sealed_unreadable_total', { what: 'session_key' })).toBe(3)
    expect((await harness.get('/session', token)).status).toBe(200)

    await logIn(harness, openid)
    expect((await harness.post('/session/decrypt', collect(harness, openid).encrypted, token)).status).toBe(
      200,
    )
  })
})

describe('an app of another kind', () => {
  test("has its open data decrypted, and is told that WeChat's calls are not for it", async () => {
    const wechat = await startWechat({ apps: SIMULATED_APPS })
    const harness = await startHarness({ wechat, env: platformsEnvironment(wechat) })
    const { appid } = PLATFORMS.qq
    const { code, openid } = wechat.issueCode({ appid })
    const { token } = (await harness.login({ appid, code })).body
    const { encrypted } = collect(harness, openid, { appid })
    expect((await harness.post('/session/decrypt', encrypted, token)).status).toBe(200)

    const replies = [await harness.post('/session/phone', { code: 'f'.repeat(64) }, token)]
    for (const path of ['/check-session-key', '/reset-session-key'])
      replies.push(await harness.admin.post(path, { appid, openid }, harness.env['ADMIN_TOKEN']))
    expect(replies.map(({ status, body }) => [status, body.code])).toEqual(
      Array.from(replies, () => [400, 'app_unsupported']),
    )
    expect(wechat.history({ path: '/cgi-bin/stable_token' })).toEqual([])
  })
})

describe('bad input', () => {
  const good = { encrypted_data: 'A'.repeat(22) + '==', iv: 'A'.repeat(22) + '==' }
  const signature = 'a'.repeat(40)
  const bodies: Record<string, unknown[]> = {
    '/session/decrypt': [
      undefined,
      {},
      [],
      'text',
      { ...good, iv: 7 },
      { ...good, iv: '' },
      { ...good, iv: MARK },
      { ...good, iv: 'A'.repeat(100) },
      { ...good, encrypted_data: [good.encrypted_data] },
      { ...good, encrypted_data: `${MARK} +/` },
      { ...good, encrypted_data: 'A'.repeat(17_000) },
      { ...good, key: MARK },
      { iv: good.iv },
    ],
    '/session/verify': [
      undefined,
      {},
      { raw_data: '{}', signature: 'xyz' },
      { raw_data: { a: 1 }, signature },
      { raw_data: 'x'.repeat(5_000), signature },
      { raw_data: '{}', signature, extra: 1 },
    ],
    '/session/phone': [
      undefined,
      {},
      { code: 'short' },
      { code: `${MARK}&access_token=${MARK}` },
      { code: 'a'.repeat(200) },
      { code: 123 },
      { code: 'a'.repeat(64), openid: 'another' },
    ],
  }

  test.each(Object.entries(bodies))(
    '%s refuses it, says nothing of it, and asks nobody',
    async (path, faulty) => {
      const harness = await startHarness()
      const { token } = await logIn(harness)
      harness.wechat.clearHistory()
      for (const body of faulty) {
        const reply = await harness.post(path, body, token)
        expect(expectProblem(reply, `${path} ${JSON.stringify(body)?.slice(0, 80)}`).code).toBe(
          'request_invalid',
        )
      }
      const query = await harness.post(`${path}?a=1`, faulty[0], token)
      expectProblem(query, 'a query')
      const huge = await harness.post(path, { x: 'y'.repeat(100_000) }, token)
      expect(expectProblem(huge, 'a huge body').code).toBe('body_too_large')
      expect(harness.wechat.history()).toEqual([])
    },
  )
})
