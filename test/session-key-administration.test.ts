/** What an administrator may have done with the session_key of a user, and what happens to one that is replaced. */
import { describe, expect, test } from 'vitest'
import { APPID } from './harness/environment.ts'
import { startHarness } from './harness/gateway.ts'
import { expectProblem } from './harness/problem.ts'
import { asAdmin, collect, keyOf, logIn, sign } from './harness/session-keys.ts'

describe('the administrator', () => {
  test('has payments and calendar paths signed, each by its kind', async () => {
    const harness = await startHarness()
    const { openid } = await logIn(harness)
    const key = keyOf(harness, openid)
    const messages: [Record<string, string>, string][] = [
      [{ kind: 'virtual_payment', sign_data: '{"offerId":"1","outTradeNo":"x"}' }, 'sign_data'],
      [{ kind: 'virtual_payment_server', body: `{"openid": "${openid}", "env": 0}` }, 'body'],
      [{ kind: 'b2b_payment', sign_data: '{"mchid":"1","out_trade_no":"x"}' }, 'sign_data'],
      [{ kind: 'calendar_path', path: 'pages/index?a=1' }, 'path'],
    ]
    for (const [fields, field] of messages) {
      const reply = await asAdmin(harness, '/sign', { appid: APPID, openid, ...fields })
      expect(reply.body).toEqual({ signature: sign(key, fields[field] ?? '') })
      expect(reply.text).not.toContain(key)
    }
  })

  test('cannot have just anything signed', async () => {
    const harness = await startHarness()
    const { openid } = await logIn(harness)
    const user = { appid: APPID, openid }
    const refused = [
      { ...user, kind: 'raw', message: 'x' },
      { ...user, kind: 'calendar_path', path: '{"offerId":"1"}' },
      { ...user, kind: 'calendar_path', path: '' },
      { ...user, kind: 'calendar_path', sign_data: '{}' },
      { ...user, kind: 'virtual_payment', sign_data: 'pages/index' },
      { ...user, kind: 'virtual_payment', sign_data: '{"mchid":"1"}' },
      { ...user, kind: 'b2b_payment', sign_data: '{"offerId":"1"}' },
      { ...user, kind: 'virtual_payment_server', body: '{"openid":"another"}' },
      { ...user, kind: 'virtual_payment', sign_data: '{"offerId":"1"}', path: 'pages/index' },
      user,
    ]
    for (const fields of refused) {
      const reply = await asAdmin(harness, '/sign', fields)
      expect(expectProblem(reply, JSON.stringify(fields)).code).toBe('request_invalid')
    }
  })

  test('learns whether WeChat still has the key that is held here', async () => {
    const harness = await startHarness()
    const { openid } = await logIn(harness)
    const check = () => asAdmin(harness, '/check-session-key', { appid: APPID, openid })
    expect((await check()).body).toEqual({ valid: true })
    harness.wechat.issueCode({ openid }) // wx.login() whose code never came here
    expect((await check()).body).toEqual({ valid: false })
  })

  test('has a key replaced: the old one is kept as the previous, and no session ends', async () => {
    const harness = await startHarness()
    const { openid, token } = await logIn(harness)
    const before = collect(harness, openid)
    const oldKey = keyOf(harness, openid)

    const reply = await asAdmin(harness, '/reset-session-key', { appid: APPID, openid })
    expect({ status: reply.status, text: reply.text }).toEqual({ status: 204, text: '' })
    expect(keyOf(harness, openid)).not.toBe(oldKey)
    expect((await harness.get('/session', token)).status).toBe(200)
    const after = collect(harness, openid)
    for (const { encrypted } of [before, after])
      expect((await harness.post('/session/decrypt', encrypted, token)).status).toBe(200)
    expect((await asAdmin(harness, '/check-session-key', { appid: APPID, openid })).body).toEqual({
      valid: true,
    })
  })

  test('a login that began before the replacement does not bring the dead key back', async () => {
    const harness = await startHarness()
    const { openid, token } = await logIn(harness, 'o-reset')
    const older = harness.wechat.issueCode({ openid, refreshKey: false })
    const hold = harness.wechat.addFault({ kind: 'hold', code: older.code })
    const slow = harness.login({ code: older.code })
    await harness.wechat.received(older.code)

    expect((await asAdmin(harness, '/reset-session-key', { appid: APPID, openid })).status).toBe(204)
    hold.release()
    expect((await slow).status).toBe(200)

    expect((await asAdmin(harness, '/check-session-key', { appid: APPID, openid })).body).toEqual({
      valid: true,
    })
    expect((await harness.post('/session/decrypt', collect(harness, openid).encrypted, token)).status).toBe(
      200,
    )
  })

  test('is told that a key is stale when WeChat has another', async () => {
    const harness = await startHarness()
    const { openid, token } = await logIn(harness)
    harness.wechat.issueCode({ openid })
    const { status, body } = await asAdmin(harness, '/reset-session-key', { appid: APPID, openid })
    expect({ status, code: body.code, errcode: body.errcode }).toEqual({
      status: 409,
      code: 'session_key_stale',
      errcode: 87009,
    })
    expect((await harness.get('/session', token)).status).toBe(200)
  })

  test('is told of users and apps that are not here, and nobody else is told anything', async () => {
    const harness = await startHarness()
    const { openid } = await logIn(harness)
    const fields = {
      '/sign': { kind: 'calendar_path', path: 'p' },
      '/check-session-key': {},
      '/reset-session-key': {},
    }
    for (const [path, own] of Object.entries(fields)) {
      const ask = async (user: object) => {
        const { status, body } = await asAdmin(harness, path, { ...own, ...user })
        return { status, code: body.code }
      }
      expect(await ask({ appid: APPID, openid: 'o-nobody' })).toEqual({ status: 404, code: 'user_unknown' })
      expect(await ask({ appid: 'wxffffffffffffffff', openid })).toEqual({
        status: 400,
        code: 'appid_unknown',
      })
      expect((await harness.admin.post(path, { ...own, appid: APPID, openid })).status).toBe(401)
      expect(
        (await harness.post(path, { ...own, appid: APPID, openid }, harness.env['ADMIN_TOKEN'])).status,
      ).toBe(404)
    }
  })
})
