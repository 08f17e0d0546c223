/**
 * The exchange as the simulator plays it: what a code is worth, to whom, how long, and what is remembered.
 *
 * The simulator stands in for WeChat in every other test, so its own promises come first. Where WeChat's
 * behaviour is only guessed, test/simulator/README.md says so.
 */
import { describe, expect, test } from 'vitest'
import { exchangeParameters, parse, writeQuery } from './simulator/client.ts'
import { DEFAULT_APP } from './simulator/platform.ts'
import { setUp } from './simulator/setting.ts'

/** Contains "/" and "+", the two characters of base64 that get lost on the way most often. */
const AWKWARD_KEY = 'AmBppkx/wIcgLBfesd+mig=='
const RID = /^66454a60-[0-9a-f]{8}-[0-9a-f]{8}$/

const errcodeOf = (text: string): unknown => parse(text)['errcode'] ?? 'ok'

describe('what a success looks like', () => {
  test('a success is text/plain, escapes slashes and has no errcode', async () => {
    const { wechat, client } = await setUp()
    wechat.putUser({
      openid: 'oGZUI0egBJY1zhBYw2KhdUfwVJJE',
      unionid: 'o6_bmasdasdsad6_2sgVt7hMZOPf',
      sessionKey: AWKWARD_KEY,
    })
    const { code } = wechat.issueCode({ openid: 'oGZUI0egBJY1zhBYw2KhdUfwVJJE', refreshKey: false })

    const answer = await client.exchange(code)

    expect(answer.status).toBe(200)
    expect(answer.contentType).toBe('text/plain')
    expect(answer.text).toBe(
      String.raw`{"session_key":"AmBppkx\/wIcgLBfesd+mig==","openid":"oGZUI0egBJY1zhBYw2KhdUfwVJJE","unionid":"o6_bmasdasdsad6_2sgVt7hMZOPf"}`,
    )
  })

  test('unionid is absent, not empty, when the user has none or the app is not bound', async () => {
    const { wechat, client } = await setUp()
    const alone = wechat.issueCode({ unionid: null })
    expect(parse((await client.exchange(alone.code)).text)).not.toHaveProperty('unionid')

    wechat.putApp({ appid: DEFAULT_APP.appid, openPlatform: false })
    expect(parse((await client.exchange(wechat.issueCode().code)).text)).not.toHaveProperty('unionid')
  })

  test('codes, openids and keys look like real ones', async () => {
    const { wechat, client } = await setUp()
    const { code } = wechat.issueCode()
    const session = parse((await client.exchange(code)).text)

    expect(code).toMatch(/^0\d\d[0-9A-Za-z]{29}$/)
    expect(session['openid']).toMatch(/^o[\w-]{27}$/)
    expect(session['unionid']).toMatch(/^o[\w-]{27}$/)
    expect(Buffer.from(String(session['session_key']), 'base64')).toHaveLength(16)
  })

  test('the fields of the documentation and of old captures can be added', async () => {
    const { wechat, client } = await setUp({ withErrcodeZero: true, withExpiresIn: true })
    const { text } = await client.exchange(wechat.issueCode({ unionid: null }).code)
    expect(Object.keys(parse(text))).toEqual(['session_key', 'expires_in', 'openid', 'errcode', 'errmsg'])
  })

  test('errmsg can end in the request id of old, which some clients still parse', async () => {
    const { client } = await setUp({ errmsgStyle: 'req_id' })
    expect((await client.exchange('unknown')).text).toMatch(
      /^\{"errcode":40029,"errmsg":"invalid code, hints: \[ req_id: \w{9}-\w{6} \]"\}$/,
    )
  })

  test('a person has one unionid and, in each app, another openid', async () => {
    const { wechat, client } = await setUp()
    wechat.putApp({ appid: 'wx-second', secret: 'second' })
    const here = parse((await client.exchange(wechat.issueCode({ user: 'alice' }).code)).text)
    const there = parse(
      (
        await client.exchange(wechat.issueCode({ user: 'alice', appid: 'wx-second' }).code, {
          appid: 'wx-second',
          secret: 'second',
        })
      ).text,
    )
    expect(here['unionid']).toBe(there['unionid'])
    expect(here['openid']).not.toBe(there['openid'])
  })
})

describe('a code works once', () => {
  test('the second exchange is told that the code has been used', async () => {
    const { wechat, client } = await setUp()
    const { code } = wechat.issueCode()
    await client.exchange(code)
    const { status, contentType, text } = await client.exchange(code)

    expect([status, contentType]).toEqual([200, 'text/plain'])
    const [, rid] = /^\{"errcode":40163,"errmsg":"code been used, rid: ([^"]+)"\}$/.exec(text) ?? []
    expect(rid).toMatch(RID)
  })

  test('of many exchanges at once exactly one wins', async () => {
    const { wechat, client } = await setUp()
    const { code } = wechat.issueCode()
    const answers = await Promise.all(Array.from({ length: 50 }, () => client.exchange(code)))
    const outcomes = answers.map(({ text }) => errcodeOf(text))

    expect(outcomes.filter((outcome) => outcome === 'ok')).toHaveLength(1)
    expect(outcomes.filter((outcome) => outcome === 40163)).toHaveLength(49)
    expect(wechat.exchangesByCode().get(code)).toBe(50)
  })

  test('a used code is "used" until five minutes after issue, then merely invalid', async () => {
    const { wechat, client, pass } = await setUp()
    const { code } = wechat.issueCode()
    await client.exchange(code)
    pass(299)
    expect(errcodeOf((await client.exchange(code)).text)).toBe(40163)
    pass(1)
    expect(errcodeOf((await client.exchange(code)).text)).toBe(40029)
  })

  test('an unused code lives five minutes', async () => {
    const { wechat, client, pass } = await setUp()
    const [early, late] = wechat.issueCodes(2)
    pass(299)
    expect(errcodeOf((await client.exchange(early?.code)).text)).toBe('ok')
    pass(1)
    expect(errcodeOf((await client.exchange(late?.code)).text)).toBe(40029)
  })

  test.each([
    { wrongAppidBurnsCode: false, afterwards: 'ok' },
    { wrongAppidBurnsCode: true, afterwards: 40163 },
  ])(
    'the wrong app gets 40029; the code is then $afterwards',
    async ({ wrongAppidBurnsCode, afterwards }) => {
      const { wechat, client } = await setUp({ wrongAppidBurnsCode })
      wechat.putApp({ appid: 'wx-second', secret: 'second' })
      const { code } = wechat.issueCode()

      const elsewhere = await client.exchange(code, { appid: 'wx-second', secret: 'second' })
      expect(errcodeOf(elsewhere.text)).toBe(40029)
      expect(errcodeOf((await client.exchange(code)).text)).toBe(afterwards)
    },
  )
})

describe('what is turned away, and leaves the code unused', () => {
  test.each([
    ['no appid', { appid: undefined }, 41002],
    ['an empty appid', { appid: '' }, 41002],
    ['no secret', { secret: undefined }, 41004],
    ['no code', { js_code: undefined }, 41008],
    ['another grant_type', { grant_type: 'client_credential' }, 40002],
    ['an unknown app', { appid: 'wx0000000000000000' }, 40013],
    ['a wrong secret', { secret: 'wrong' }, 40125],
    ['no appid before no secret', { appid: undefined, secret: undefined }, 41002],
    ['an unknown app before a wrong secret', { appid: 'wx0000000000000000', secret: 'wrong' }, 40013],
  ])('%s', async (_, parameters, errcode) => {
    const { wechat, client } = await setUp()
    const { code } = wechat.issueCode()
    expect(errcodeOf((await client.exchange(code, parameters)).text)).toBe(errcode)
    expect(errcodeOf((await client.exchange(code)).text)).toBe('ok')
  })

  test('a POST is told that the appid is missing, wherever it put it', async () => {
    const { wechat, client } = await setUp()
    const parameters = exchangeParameters(wechat.issueCode().code)
    const { text } = await client.post(`/sns/jscode2session?${writeQuery(parameters)}`, parameters)
    expect(text).toMatch(/^\{"errcode":41002,"errmsg":"appid missing, rid: /)
  })

  test('an app may have two secrets, until one is taken away', async () => {
    const { wechat, client } = await setUp()
    const [first, second, third] = wechat.issueCodes(3).map(({ code }) => code)
    wechat.putApp({ appid: DEFAULT_APP.appid, secrets: ['new', DEFAULT_APP.secret] })
    expect(errcodeOf((await client.exchange(first)).text)).toBe('ok')
    expect(errcodeOf((await client.exchange(second, { secret: 'new' })).text)).toBe('ok')
    wechat.putApp({ appid: DEFAULT_APP.appid, secret: 'new' })
    expect(errcodeOf((await client.exchange(third)).text)).toBe(40125)
  })

  test('a frozen secret, a foreign address, a blocked user', async () => {
    const { wechat, client } = await setUp()
    const { appid } = DEFAULT_APP
    const { code, openid } = wechat.issueCode()

    wechat.putApp({ appid, secretFrozen: true })
    expect(errcodeOf((await client.exchange(code)).text)).toBe(40243)
    wechat.putApp({ appid, secretFrozen: false, ipWhitelist: ['14.22.81.196'] })
    expect((await client.exchange(code)).text).toContain(
      '{"errcode":40164,"errmsg":"invalid ip 127.0.0.1 ipv6 ::ffff:127.0.0.1, not in whitelist, rid: ',
    )
    wechat.putApp({ appid, ipWhitelist: ['127.0.0.1'] })
    wechat.putUser({ openid, blocked: true })
    expect(errcodeOf((await client.exchange(code)).text)).toBe(40226)
    wechat.putUser({ openid, blocked: false })
    expect(errcodeOf((await client.exchange(code)).text)).toBe('ok')
  })

  test('a user may log in a hundred times a minute, and others are not held to it', async () => {
    const { wechat, client, pass } = await setUp()
    const codes = wechat.issueCodes(102, { user: 'alice' }).map(({ code }) => code)
    for (const code of codes.slice(0, 100)) await client.exchange(code)

    const { text } = await client.exchange(codes[100])
    expect(parse(text)['errmsg']).toMatch(
      /^api minute-quota reach limit {2}mustslower {2}retry next minute, rid: /,
    )
    expect(errcodeOf((await client.exchange(wechat.issueCode().code)).text)).toBe('ok')
    pass(60)
    expect(errcodeOf((await client.exchange(codes[100])).text)).toBe('ok')
  })

  test('an app may have a quota, and other apps are not held to it', async () => {
    const { wechat, client, pass } = await setUp()
    wechat.putApp({ appid: DEFAULT_APP.appid, quotas: { exchangesPerAppPerMinute: 2 } })
    wechat.putApp({ appid: 'wx-second', secret: 'second' })
    const [first, second, third] = wechat.issueCodes(3).map(({ code }) => code)
    await client.exchange(first)
    await client.exchange(second)

    expect(errcodeOf((await client.exchange(third)).text)).toBe(45011)
    const { code } = wechat.issueCode({ appid: 'wx-second' })
    expect(errcodeOf((await client.exchange(code, { appid: 'wx-second', secret: 'second' })).text)).toBe('ok')
    pass(60)
    expect(errcodeOf((await client.exchange(third)).text)).toBe('ok')
  })
})

describe('when a session_key changes', () => {
  test('getting a code renews a key of a minute and keeps a younger one', async () => {
    const { wechat, client, pass } = await setUp()
    const keyOf = async (code: string): Promise<unknown> =>
      parse((await client.exchange(code)).text)['session_key']
    const first = await keyOf(wechat.issueCode({ user: 'alice' }).code)
    pass(59)
    expect(await keyOf(wechat.issueCode({ user: 'alice' }).code)).toBe(first)
    pass(1)
    expect(await keyOf(wechat.issueCode({ user: 'alice' }).code)).not.toBe(first)
  })

  // This is why a gateway must not believe that the exchange it made last brought the newest key.
  test('the exchange reads the key of the last code, also for an older code', async () => {
    const { wechat, client } = await setUp({ keyRefreshSeconds: 0 })
    const [older, newer] = wechat.issueCodes(2, { user: 'alice' }).map(({ code }) => code)
    const [first, second] = [await client.exchange(older), await client.exchange(newer)]
    expect(parse(first.text)['session_key']).toBe(parse(second.text)['session_key'])
    expect(wechat.users({ user: 'alice' })[0]?.previousSessionKey).not.toBeNull()
  })
})
