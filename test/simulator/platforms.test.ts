/** The other platforms as the simulator plays them: each at its own address, in its own words, by the same rules. */
import { describe, expect, test } from 'vitest'
import type { AppInput } from './apps.ts'
import { parse } from './client.ts'
import type { Client, Parameters } from './client.ts'
import type { Simulator } from './server.ts'
import { setUp } from './setting.ts'

const GRANT = { grant_type: 'authorization_code' }
/** Contains "/" and "+", which WeChat's answers escape in part. */
const AWKWARD_KEY = 'AmBppkx/wIcgLBfesd+mig=='

const fields = async (answer: Promise<{ text: string }>) => parse((await answer).text)
const errcodeOf = async (answer: Promise<{ text: string }>) => (await fields(answer))['errcode'] ?? 'ok'
const errNoOf = async (answer: Promise<{ text: string }>) => (await fields(answer))['err_no']

/** A code of a user whose session_key is the awkward one. */
function issue(wechat: Simulator, appid: string): string {
  wechat.putUser({ appid, openid: 'a-user', unionid: 'a-union', sessionKey: AWKWARD_KEY })
  return wechat.issueCode({ appid, openid: 'a-user', refreshKey: false }).code
}

describe('a third-party platform of WeChat', () => {
  const APP: AppInput = {
    appid: 'wx-authorised',
    kind: 'wechat_component',
    componentAppid: 'wx-component',
    componentAccessTokens: ['its-token'],
  }

  const exchange = (client: Client, code: string, other: Parameters = {}) =>
    client.get('/sns/component/jscode2session', {
      appid: APP.appid,
      js_code: code,
      component_appid: 'wx-component',
      component_access_token: 'its-token',
      ...GRANT,
      ...other,
    })

  test('exchanges a code with its own token, once', async () => {
    const { wechat, client } = await setUp({ apps: [APP] })
    const code = issue(wechat, APP.appid)
    const answer = await exchange(client, code)
    expect(answer.contentType).toBe('text/plain')
    expect(parse(answer.text)).toEqual({ session_key: AWKWARD_KEY, openid: 'a-user', unionid: 'a-union' })
    expect(answer.text).toContain(String.raw`\/`)
    expect(await errcodeOf(exchange(client, code))).toBe(40163)
    expect(wechat.history({ code })).toMatchObject([
      { appid: APP.appid, openid: 'a-user', decided: 'ok' },
      { decided: 40163 },
    ])
  })

  test.each<[string, Parameters, number]>([
    ['no appid', { appid: undefined }, 41002],
    ['no component_appid', { component_appid: undefined }, 41002],
    ['no token', { component_access_token: undefined }, 41001],
    ['no code', { js_code: undefined }, 41008],
    ['another grant_type', { grant_type: 'client_credential' }, 40002],
    ['an app nobody knows', { appid: 'wx-unknown' }, 40013],
    ['a component that the app has not authorised', { component_appid: 'wx-other' }, 61003],
    ['a token that does not work', { component_access_token: 'another' }, 40001],
  ])('%s', async (_what, parameters, errcode) => {
    const { wechat, client } = await setUp({ apps: [APP] })
    const code = issue(wechat, APP.appid)
    expect(await errcodeOf(exchange(client, code, parameters))).toBe(errcode)
    expect(await errcodeOf(exchange(client, code))).toBe('ok')
  })

  test('its app has no secret, shows no token, and is not served at the other address', async () => {
    const { wechat, client } = await setUp({ apps: [APP] })
    expect(wechat.putApp({ appid: APP.appid })).toMatchObject({ secrets: 0, componentAccessTokens: 1 })
    const sns = client.exchange(issue(wechat, APP.appid), { appid: APP.appid, secret: 'any' })
    expect(await errcodeOf(sns)).toBe(40013)
  })
})

const gettoken = (client: Client, other: Parameters = {}) =>
  client.get('/cgi-bin/gettoken', { corpid: 'ww-corp', corpsecret: 'agent-secret', ...other })
const accessToken = async (client: Client) => String((await fields(gettoken(client)))['access_token'])
const exchangeMember = (client: Client, token: string | undefined, code: string | undefined) =>
  client.get('/cgi-bin/miniprogram/jscode2session', { access_token: token, js_code: code, ...GRANT })

describe('WeCom', () => {
  const APP = { appid: 'wx-in-wecom', kind: 'wecom', corpid: 'ww-corp', secret: 'agent-secret' } as const

  test('gives everybody the same access_token while it lives, with the life that is left', async () => {
    const { client, pass } = await setUp({ apps: [APP] })
    const first = await fields(gettoken(client))
    expect(first).toMatchObject({ errcode: 0, errmsg: 'ok', expires_in: 7200 })
    pass(7_100)
    expect(await fields(gettoken(client))).toEqual({ ...first, expires_in: 100 })
    pass(100)
    expect((await fields(gettoken(client)))['access_token']).not.toBe(first['access_token'])
  })

  test.each<[string, Parameters, number]>([
    ['a corp nobody knows', { corpid: 'ww-other' }, 40013],
    ['no secret', { corpsecret: undefined }, 41004],
    ['a wrong secret', { corpsecret: 'wrong' }, 40001],
  ])('%s brings no access_token', async (_what, parameters, errcode) => {
    const { client } = await setUp({ apps: [APP] })
    expect(await errcodeOf(gettoken(client, parameters))).toBe(errcode)
  })

  test('an address that is not a trusted one brings none', async () => {
    const { client } = await setUp({ apps: [{ ...APP, ipWhitelist: ['203.0.113.1'] }] })
    expect(await errcodeOf(gettoken(client))).toBe(60020)
  })

  test('exchanges a code, once, for the corp, the userid and the session_key', async () => {
    const { wechat, client } = await setUp({ apps: [APP] })
    const token = await accessToken(client)
    const code = issue(wechat, APP.appid)
    expect(await fields(exchangeMember(client, token, code))).toEqual({
      errcode: 0,
      errmsg: 'ok',
      corpid: 'ww-corp',
      userid: 'a-user',
      session_key: AWKWARD_KEY,
    })
    const again = await fields(exchangeMember(client, token, code))
    expect(again['errcode']).toBe(40029)
    expect(again['errmsg']).toMatch(/^invalid code, hint: \[\d+_\d\d_[0-9a-f]{32}\], from ip: /)
    expect(wechat.history({ code }).map(({ appid }) => appid)).toEqual([APP.appid, APP.appid])
  })

  test('says what is wrong with a token, and leaves the code unused', async () => {
    const { wechat, client, pass } = await setUp({ apps: [APP, { appid: 'wx-plain', secret: 'plain' }] })
    const ended = await accessToken(client)
    expect(wechat.invalidateTokens({ appid: APP.appid })).toBe(1)
    const expired = await accessToken(client)
    pass(7_200)
    const wechats = await fields(
      client.get('/cgi-bin/token', { grant_type: 'client_credential', appid: 'wx-plain', secret: 'plain' }),
    )
    const code = issue(wechat, APP.appid)
    expect(await errcodeOf(exchangeMember(client, undefined, code))).toBe(41001)
    expect(await errcodeOf(exchangeMember(client, 'nonsense', code))).toBe(40014)
    expect(await errcodeOf(exchangeMember(client, ended, code))).toBe(40014)
    expect(await errcodeOf(exchangeMember(client, expired, code))).toBe(42001)
    expect(await errcodeOf(exchangeMember(client, String(wechats['access_token']), code))).toBe(40014)
    const token = await accessToken(client)
    expect(await errcodeOf(exchangeMember(client, token, undefined))).toBe(41008)
    expect(await errcodeOf(exchangeMember(client, token, code))).toBe(0)
  })

  test('its app is none of WeChat’s', async () => {
    const { client } = await setUp({ apps: [APP] })
    const grant = { grant_type: 'client_credential', appid: APP.appid, secret: APP.secret }
    expect(await errcodeOf(client.post('/cgi-bin/stable_token', grant))).toBe(40013)
    expect(await errcodeOf(client.get('/cgi-bin/token', grant))).toBe(40013)
  })
})

test('QQ speaks as WeChat does', async () => {
  const { wechat, client } = await setUp({ apps: [{ appid: '1110000001', kind: 'qq', secret: 'qq' }] })
  const code = issue(wechat, '1110000001')
  const exchange = (secret: string) => client.exchange(code, { appid: '1110000001', secret })
  expect(await errcodeOf(exchange('wrong'))).toBe(40125)
  expect(await fields(exchange('qq'))).toEqual({
    session_key: AWKWARD_KEY,
    openid: 'a-user',
    unionid: 'a-union',
  })
  expect(await errcodeOf(exchange('qq'))).toBe(40163)
})

describe('Douyin', () => {
  const APP = { appid: 'tt-app', kind: 'douyin', secret: 'douyin-secret' } as const

  const exchange = (client: Client, code: string | undefined, other: object = {}) =>
    client.post('/api/apps/v2/jscode2session', { appid: APP.appid, secret: APP.secret, code, ...other })

  test('has its fields under data, "" for those that are not there, and escapes nothing', async () => {
    const { wechat, client } = await setUp({ apps: [APP] })
    const code = issue(wechat, APP.appid)
    const { text } = await exchange(client, code)
    expect(parse(text)).toEqual({
      err_no: 0,
      err_tips: 'success',
      log_id: expect.stringMatching(/^\d+[0-9a-f]{16}$/),
      data: {
        session_key: AWKWARD_KEY,
        openid: 'a-user',
        anonymous_openid: '',
        unionid: 'a-union',
        dopenid: '',
      },
    })
    expect(text).toContain(AWKWARD_KEY)
    expect(await fields(exchange(client, code))).toMatchObject({ err_no: 40018, err_tips: 'bad code' })

    const alone = wechat.issueCode({ appid: APP.appid, unionid: null })
    expect(await fields(exchange(client, alone.code))).toMatchObject({ data: { unionid: '' } })
  })

  test.each<[string, object, number]>([
    ['no appid', { appid: undefined }, 40014],
    ['an appid nobody knows', { appid: 'tt-other' }, 40015],
    ['a wrong secret', { secret: 'wrong' }, 40017],
    ['no code', { code: undefined }, 40014],
    ['an anonymous_code alone', { code: undefined, anonymous_code: 'a' }, 40019],
    ['a code nobody issued', { code: 'unknown' }, 40018],
  ])('%s', async (_what, other, errNo) => {
    const { wechat, client } = await setUp({ apps: [APP] })
    const code = issue(wechat, APP.appid)
    expect(await errNoOf(exchange(client, code, other))).toBe(errNo)
    expect(await errNoOf(exchange(client, code))).toBe(0)
  })

  test('a GET is not taken, and a fault rule speaks Douyin’s words', async () => {
    const { wechat, client } = await setUp({ apps: [APP] })
    const code = issue(wechat, APP.appid)
    const { appid, secret } = APP
    expect(await errNoOf(client.get('/api/apps/v2/jscode2session', { appid, secret, code }))).toBe(40014)
    wechat.addFault({ kind: 'errcode', errcode: -1, times: 1 })
    expect(await fields(exchange(client, code))).toMatchObject({ err_no: -1, err_tips: 'system error' })
    expect(await errNoOf(exchange(client, code))).toBe(0)
  })
})
