/** Logging in, through the front door; observed in the simulator's history, Redis and the metrics. */
import { describe, expect, test } from 'vitest'
import { freePort } from '../deploy/local/ports.ts'
import { LEASE_MS } from '../src/codes.ts'
import { SLOTS } from '../src/wechat/bulkhead.ts'
import { writeTemporary } from './harness/configuration.ts'
import { APP_SECRET, APPID } from './harness/environment.ts'
import { startHarness } from './harness/gateway.ts'
import { until } from './harness/until.ts'

const NONCE = 'a-nonce-of-the-client'
const OTHER_NONCE = 'a-nonce-of-a-stranger'

describe('a first login', () => {
  test('answers with a session of ours and nothing of WeChat but the ids', async () => {
    const { login, wechat } = await startHarness()
    const { code, openid } = wechat.issueCode({ unionid: 'o6_bmasdasdsad6_2sgVt7hMZOPfL' })

    const reply = await login({ code })

    expect(reply.status).toBe(200)
    expect(Object.keys(reply.body).toSorted()).toEqual(
      ['expires_in', 'openid', 'provisioned', 'sub', 'token', 'token_type', 'unionid'].toSorted(),
    )
    expect(reply.body).toMatchObject({
      token_type: 'Bearer',
      openid,
      expires_in: 604_800,
      provisioned: false,
    })
    expect(reply.body.token).toMatch(/^wxs_[A-Za-z0-9_-]{54}$/)
    expect(reply.body.token.slice(4, 26)).toBe(reply.body.sub)
    expect(reply.headers).toMatchObject({ 'cache-control': 'no-store', 'x-content-type-options': 'nosniff' })
    expect(wechat.history()).toMatchObject([
      { path: '/sns/jscode2session', appid: APPID, code, outcome: 'ok' },
    ])
  })

  test('hides openid and unionid when the operator wants that', async () => {
    const { login, get, wechat } = await startHarness({ env: { EXPOSE_OPENID: 'false' } })
    const { code, openid } = wechat.issueCode({ unionid: 'o6_bmasdasdsad6_2sgVt7hMZOPfL' })

    const { body, text } = await login({ code })
    const session = await get('/session', body.token)

    expect(text + session.text).not.toContain(openid)
    expect(text + session.text).not.toContain('unionid')
    expect(session.body).toMatchObject({ sub: body.sub })
  })

  test('the same user has the same subject in every login, and another in another app', async () => {
    const other = { appid: 'wxffffffffffffffff', secret: 'f00df00df00df00df00df00df00df00d' }
    const { login, wechat } = await startHarness({
      simulator: { apps: [{ appid: APPID, secret: 'c0ffee00c0ffee00c0ffee00c0ffee00' }, other] },
    })
    const first = await login({ code: wechat.issueCode({ openid: 'o-alice-openid' }).code })
    const second = await login({ code: wechat.issueCode({ openid: 'o-alice-openid' }).code })

    expect(second.body.sub).toBe(first.body.sub)
    expect(second.body.token).not.toBe(first.body.token)

    const unknown = await login({ code: wechat.issueCode({ appid: other.appid }).code, appid: other.appid })
    expect(unknown.status).toBe(400)
    expect(unknown.body.code).toBe('appid_unknown')
  })
})

test('with several apps in the configuration a login has to name its own', async () => {
  const other = { appid: 'wxffffffffffffffff', secret: 'f00df00df00df00df00df00df00df00d' }
  const both = [{ appid: APPID, secret: APP_SECRET }, other]
  const { login, wechat } = await startHarness({
    simulator: { apps: both },
    env: {
      WECHAT_APPID: '',
      WECHAT_SECRET: '',
      WECHAT_APPS_FILE: writeTemporary(JSON.stringify(both)),
    },
  })
  const { code } = wechat.issueCode({ appid: other.appid })

  expect((await login({ code })).body).toMatchObject({ code: 'appid_required', retry: 'never' })
  expect((await login({ code, appid: other.appid })).status).toBe(200)
  expect(wechat.history({ code })).toHaveLength(1)
})

describe('one code, sent again', () => {
  test('gets the same session while it is being exchanged, and WeChat sees it once', async () => {
    const { login, wechat, metric } = await startHarness()
    const { code } = wechat.issueCode()
    const hold = wechat.addFault({ kind: 'hold', code })

    const first = login({ code, nonce: NONCE })
    await wechat.received(code)
    const others = Array.from({ length: 20 }, () => login({ code, nonce: NONCE }))
    await until(
      'the copies to have joined',
      async () => (await metric('code_claims_total', { outcome: 'shared' })) === 20,
    )
    hold.release()
    const replies = await Promise.all([first, ...others])

    expect(replies.map((reply) => reply.status)).toEqual(Array(21).fill(200))
    expect(new Set(replies.map((reply) => reply.body.token)).size).toBe(1)
    expect(wechat.history({ code })).toHaveLength(1)
  })

  test('gets the same session after it has settled, and WeChat is not asked again', async () => {
    const { login, get, wechat, metric } = await startHarness()
    const { code } = wechat.issueCode()
    const first = await login({ code, nonce: NONCE })
    const second = await login({ code, nonce: NONCE })

    expect(second.body.token).toBe(first.body.token)
    expect(wechat.history({ code })).toHaveLength(1)
    expect(await metric('code_claims_total', { outcome: 'replay' })).toBe(1)
    expect((await get('/sessions', first.body.token)).body.sessions).toHaveLength(1)
  })

  test('by another client is refused, while it is being exchanged and afterwards, and opens no session', async () => {
    const { login, wechat, redis, keys } = await startHarness()
    const { code } = wechat.issueCode()
    const hold = wechat.addFault({ kind: 'hold', code })
    const owner = login({ code, nonce: NONCE })
    await wechat.received(code)

    const during = await login({ code, nonce: OTHER_NONCE })
    hold.release()
    const { body } = await owner
    const after = await login({ code, nonce: OTHER_NONCE })
    const withoutNonce = await login({ code })

    for (const reply of [during, after, withoutNonce]) {
      expect(reply.status).toBe(409)
      expect(reply.body).toMatchObject({ code: 'code_already_used', retry: 'new_code' })
    }
    expect(wechat.history({ code })).toHaveLength(1)
    const fields = await redis.hkeys(keys.user(body.sub))
    expect(fields.filter((field) => field.includes(':'))).toHaveLength(1)
  })

  test('without a nonce is bound to user agent and network', async () => {
    const { login, wechat } = await startHarness()
    const { code } = wechat.issueCode()
    const phone = { 'user-agent': 'MicroMessenger/8.0 (iPhone)' }
    const first = await login({ code }, phone)

    expect((await login({ code }, phone)).body.token).toBe(first.body.token)
    expect((await login({ code }, { 'user-agent': 'curl' })).body.code).toBe('code_already_used')
  })

  test('after its session was logged out does not bring the session back', async () => {
    const { login, delete: remove, wechat } = await startHarness()
    const { code } = wechat.issueCode()
    const { body } = await login({ code, nonce: NONCE })
    expect((await remove('/session', body.token)).status).toBe(204)

    expect((await login({ code, nonce: NONCE })).body.code).toBe('code_already_used')
  })

  test('a refused code stays refused without asking WeChat again', async () => {
    const { login, wechat } = await startHarness()
    const code = '0never0issued0never0issued0never'
    const replies = [await login({ code }), await login({ code }), await login({ code, nonce: NONCE })]

    for (const reply of replies) {
      expect(reply.status).toBe(401)
      expect(reply.body).toMatchObject({ code: 'code_invalid', retry: 'new_code', errcode: 40029 })
      expect(reply.body['rid']).toMatch(/^[0-9a-f]{8}-/)
    }
    expect(wechat.history({ code })).toHaveLength(1)
  })

  test('a code that WeChat was too busy for is given back, and works when sent again from another network', async () => {
    const { login, wechat } = await startHarness()
    const { code } = wechat.issueCode()
    wechat.addFault({ kind: 'errcode', errcode: -1, code, times: 5 })

    const busy = await login({ code }, { 'user-agent': 'on wifi' })
    expect(busy.body).toMatchObject({ code: 'wechat_busy', retry: 'same_code', errcode: -1 })
    expect(busy.headers['retry-after']).toMatch(/^\d+$/)

    expect((await login({ code }, { 'user-agent': 'on 4G' })).status).toBe(200)
    expect(wechat.history({ code }).map((entry) => entry.outcome)).toEqual([-1, -1, -1, -1, -1, 'ok'])
  })

  test('two gateways that share a Redis give one session for one code', async () => {
    const one = await startHarness()
    const two = await startHarness({ wechat: one.wechat, env: one.env })
    const { code } = one.wechat.issueCode()
    const hold = one.wechat.addFault({ kind: 'hold', code })
    const first = one.login({ code, nonce: NONCE })
    await one.wechat.received(code)
    const second = two.login({ code, nonce: NONCE })
    await until(
      'the second to wait',
      async () => (await two.metric('code_claims_total', { outcome: 'wait' })) === 1,
    )
    hold.release()

    expect((await second).body.token).toBe((await first).body.token)
    expect(one.wechat.history({ code })).toHaveLength(1)
  })

  test('a leader that works longer than its lease keeps it', async () => {
    const one = await startHarness()
    const two = await startHarness({ wechat: one.wechat, env: one.env })
    const { code } = one.wechat.issueCode()
    one.wechat.addFault({ kind: 'delay', ms: LEASE_MS + 700, code })
    const first = one.login({ code, nonce: NONCE })
    await one.wechat.received(code)

    const replies = await Promise.all([first, two.login({ code, nonce: NONCE })])
    expect(replies.map((reply) => reply.status)).toEqual([200, 200])
    expect(one.wechat.history({ code })).toHaveLength(1)
  })
})

describe('limits', () => {
  test('count an address exactly, and a denied login costs neither code nor WeChat', async () => {
    const { login, wechat, metric } = await startHarness({ env: { LIMIT_LOGIN_PER_IP: '5' } })
    const codes = wechat.issueCodes(6)
    const replies = []
    for (const { code } of codes) replies.push(await login({ code }))

    expect(replies.map((reply) => reply.status)).toEqual([200, 200, 200, 200, 200, 429])
    expect(replies[5]?.body).toMatchObject({ code: 'rate_limited', retry: 'same_code' })
    expect(Number(replies[5]?.headers['retry-after'])).toBeLessThanOrEqual(62)
    expect(wechat.history()).toHaveLength(5)
    expect(await metric('limit_total', { limit: 'login_per_ip', outcome: 'denied' })).toBe(1)
  })

  test('a code that came from an address over its limit is free for the next address', async () => {
    const { gateway, wechat, metric } = await startHarness({ env: { LIMIT_LOGIN_PER_IP: '1' } })
    const from = (remoteAddress: string, code: string) =>
      gateway.app.inject({ method: 'POST', url: '/login', remoteAddress, payload: { code, nonce: NONCE } })
    const [first, second, third] = wechat.issueCodes(3).map(({ code }) => code) as [string, string, string]
    expect((await from('203.0.113.7', first)).statusCode).toBe(200)

    // The first over the limit is counted by Redis, together with its claim; the next one is known here.
    expect((await from('203.0.113.7', second)).statusCode).toBe(429)
    expect((await from('203.0.113.7', third)).statusCode).toBe(429)
    expect(await metric('code_claims_total', { outcome: 'lead' })).toBe(2)

    expect((await from('203.0.113.8', second)).statusCode).toBe(200)
    expect(await metric('code_claims_total', { outcome: 'takeover' })).toBe(1)
    expect(await metric('limit_total', { limit: 'login_per_ip', outcome: 'denied' })).toBe(2)
    expect(wechat.history()).toHaveLength(2)
  })

  test('an address that sends mostly refused codes is shut out', async () => {
    const { login, wechat } = await startHarness({ env: { LIMIT_INVALID_PER_IP: '3' } })
    for (let i = 0; i < 4; i += 1) {
      expect((await login({ code: `0refused0refused0refused0refuse${i}` })).body.code).toBe('code_invalid')
    }
    const reply = await login({ code: wechat.issueCode().code })
    expect(reply.body).toMatchObject({ code: 'rate_limited' })
  })

  // Copies cost a login each, and WeChat refused the code only once.
  test.each([
    ['at the same time', 'together'],
    ['one after another', 'in turn'],
  ])('an address that sends each refused code more than once, %s, is shut out', async (_when, order) => {
    const { login, wechat } = await startHarness({ env: { LIMIT_INVALID_PER_IP: '3' } })
    const codes = Array.from({ length: 10 }, (_, i) => `0refused0refused0refused0refuse${i}`)
    for (const code of codes) {
      if (order === 'together') await Promise.all([login({ code }), login({ code })])
      else for (let copy = 0; copy < 3; copy += 1) await login({ code })
    }
    const reply = await login({ code: wechat.issueCode().code })
    expect([reply.status, reply.body.code]).toEqual([429, 'rate_limited'])
    expect(wechat.history().length).toBeLessThan(codes.length)
  })

  test('an address where most codes are good is not shut out by a client that repeats a bad one', async () => {
    const { login, wechat } = await startHarness({ env: { LIMIT_INVALID_PER_IP: '3' } })
    for (const { code } of wechat.issueCodes(20)) expect((await login({ code })).status).toBe(200)
    const refused = { code: '0refused0refused0refused0refused' }
    for (let i = 0; i < 10; i += 1) expect((await login(refused)).body.code).toBe('code_invalid')
    expect((await login({ code: wechat.issueCode().code })).status).toBe(200)
  })

  test('an address where most codes are good is not shut out by one that sends bad ones', async () => {
    const { login, wechat } = await startHarness({ env: { LIMIT_INVALID_PER_IP: '3' } })
    for (const { code } of wechat.issueCodes(20)) expect((await login({ code })).status).toBe(200)
    for (let i = 0; i < 6; i += 1) await login({ code: `0refused0refused0refused0refuse${i}` })
    expect((await login({ code: wechat.issueCode().code })).status).toBe(200)
  })

  test('count a user exactly', async () => {
    const { login, wechat } = await startHarness({ env: { LIMIT_LOGIN_PER_USER: '2' } })
    const replies = []
    for (const { code } of wechat.issueCodes(3, { openid: 'o-in-a-loop' }))
      replies.push(await login({ code }))
    expect(replies.map((reply) => reply.status)).toEqual([200, 200, 429])
    expect(replies[2]?.body).toMatchObject({ code: 'user_rate_limited', retry: 'new_code' })
  })

  test('count an app, so that its quota at WeChat is kept', async () => {
    const { login, wechat } = await startHarness({ env: { LIMIT_EXCHANGE_PER_APP: '2' } })
    const codes = wechat.issueCodes(3)
    const replies = []
    for (const { code } of codes) replies.push(await login({ code }))
    expect(replies.map((reply) => reply.status)).toEqual([200, 200, 429])
    expect(replies[2]?.body).toMatchObject({ code: 'rate_limited', retry: 'same_code' })
    expect(wechat.history()).toHaveLength(2)
  })

  test('take some exchanges of an app ahead, one for all who come at once, and never more than there are', async () => {
    const { login, wechat, redis, keys, metric } = await startHarness({
      env: { LIMIT_EXCHANGE_PER_APP: '1000' },
    })
    const counter = `${keys.limit('exchange_per_app')}:${APPID}`
    const all = async (count: number) => {
      const replies = await Promise.all(wechat.issueCodes(count).map(({ code }) => login({ code })))
      return replies.map((reply) => reply.status).toSorted((one, other) => one - other)
    }

    expect(await all(25)).toEqual(Array(25).fill(200))
    expect(await redis.get(counter)).toBe('30') // three tens
    await redis.set(counter, 995, 'KEEPTTL')
    // Five are held still, and of the next ten there are only five.
    expect(await all(12)).toEqual([...Array(10).fill(200), 429, 429])
    expect(wechat.history()).toHaveLength(35)
    expect(await metric('limit_total', { limit: 'exchange_per_app', outcome: 'allowed' })).toBe(35)
    expect(await metric('limit_total', { limit: 'exchange_per_app', outcome: 'denied' })).toBe(2)
  })

  test('charge an app for what was sent to WeChat, not for what there was no room for', async () => {
    const limit = 100
    const { login, wechat } = await startHarness({
      env: { LIMIT_EXCHANGE_PER_APP: String(limit), LOGIN_DEADLINE_MS: '4500' },
    })
    const sentOnce = async (count: number) => {
      const replies = await Promise.all(wechat.issueCodes(count).map(({ code }) => login({ code })))
      return replies.map(({ status }) => status)
    }
    const hold = wechat.addFault({ kind: 'hold' })
    const held = sentOnce(SLOTS)
    await until('all slots to be taken', () => wechat.history().length === SLOTS)
    const refused = sentOnce(limit)
    expect(new Set(await refused)).toContain(503)
    hold.release()
    wechat.clearFaults()
    await held

    const left = limit - wechat.history().length // what is slow here may have found a slot
    expect(left).toBeGreaterThan(0)
    for (let i = 0; i < left; i += 1) expect(await sentOnce(1)).toEqual([200])
    expect(await sentOnce(1)).toEqual([429])
    expect(wechat.history()).toHaveLength(limit)
  })

  test('charge an app for nothing while WeChat cannot be reached', async () => {
    const env = { LIMIT_EXCHANGE_PER_APP: '2', WECHAT_API_URLS: `http://127.0.0.1:${await freePort()}` }
    const { login, wechat } = await startHarness({ env })
    for (const { code } of wechat.issueCodes(5))
      expect((await login({ code })).body.code).toBe('wechat_unreachable')
  })
})
