/** access_tokens as the simulator plays them: who gets one, how long it lives, what ends it. */
import { expect, test } from 'vitest'
import type { Client } from './client.ts'
import { parse } from './client.ts'
import { DEFAULT_APP } from './platform.ts'
import { setUp } from './setting.ts'

const RIGHT = { grant_type: 'client_credential', ...DEFAULT_APP }

async function stableToken(client: Client, more: object = {}): Promise<{ token: string; expiresIn: number }> {
  const answer = parse((await client.post('/cgi-bin/stable_token', { ...RIGHT, ...more })).text)
  expect(answer).not.toHaveProperty('errcode')
  return { token: String(answer['access_token']), expiresIn: Number(answer['expires_in']) }
}

/** What WeChat says of the token: 41009 (openid missing) means that the token itself was accepted. */
async function verdictOn(client: Client, token: string | undefined): Promise<unknown> {
  return parse((await client.get('/wxa/checksession', { access_token: token })).text)['errcode']
}
const ACCEPTED = 41009

test('the stable token is the same on every call and tells its remaining life', async () => {
  const { client, pass } = await setUp()
  const first = await stableToken(client)
  expect(first.expiresIn).toBe(7200)
  pass(1000)
  expect(await stableToken(client)).toEqual({ token: first.token, expiresIn: 6200 })
  expect(await verdictOn(client, first.token)).toBe(ACCEPTED)
})

test('in its last five minutes a new one is given, and the old one lives five minutes more', async () => {
  const { client, pass } = await setUp()
  const old = await stableToken(client)
  pass(6900)
  expect((await stableToken(client)).token).toBe(old.token)
  pass(1)
  const { token, expiresIn } = await stableToken(client)
  expect(token).not.toBe(old.token)
  expect(expiresIn).toBe(7200)

  pass(299)
  expect([await verdictOn(client, old.token), await verdictOn(client, token)]).toEqual([ACCEPTED, ACCEPTED])
  pass(1)
  expect([await verdictOn(client, old.token), await verdictOn(client, token)]).toEqual([42001, ACCEPTED])
})

test('a forced refresh ends the old token at once, and does nothing within 30 seconds of the last', async () => {
  const { client, pass } = await setUp()
  const first = await stableToken(client)
  const second = await stableToken(client, { force_refresh: true })
  expect(second.token).not.toBe(first.token)
  expect(await verdictOn(client, first.token)).toBe(40001)

  pass(29)
  expect((await stableToken(client, { force_refresh: true })).token).toBe(second.token)
  pass(1)
  expect((await stableToken(client, { force_refresh: true })).token).not.toBe(second.token)
})

test('a refresh may be forced twenty times a day', async () => {
  const { client, pass } = await setUp()
  const force = () => client.post('/cgi-bin/stable_token', { ...RIGHT, force_refresh: true })
  for (let round = 0; round < 20; round++) {
    expect(parse((await force()).text)).not.toHaveProperty('errcode')
    pass(30)
  }
  expect(parse((await force()).text)['errcode']).toBe(45009)
  expect((await stableToken(client)).expiresIn).toBe(7170)
  pass(86_400)
  expect(parse((await force()).text)).not.toHaveProperty('errcode')
})

test('the classic token is new on every call, the last one lives five minutes, the stable one is not touched', async () => {
  const { client, pass } = await setUp()
  const stable = await stableToken(client)
  const tokens: string[] = []
  for (let round = 0; round < 2; round++) {
    tokens.push(String(parse((await client.get('/cgi-bin/token', RIGHT)).text)['access_token']))
  }
  const [old, current] = tokens
  expect(old).not.toBe(current)
  expect(await verdictOn(client, old)).toBe(ACCEPTED)
  pass(300)
  expect(await verdictOn(client, old)).toBe(42001)
  expect(await verdictOn(client, current)).toBe(ACCEPTED)
  expect(await verdictOn(client, stable.token)).toBe(ACCEPTED)
})

test.each([
  ['no appid', { appid: undefined }, 41002],
  ['no secret', { secret: undefined }, 41004],
  ['another grant_type', { grant_type: 'authorization_code' }, 40002],
  ['an unknown app', { appid: 'wx0000000000000000' }, 40013],
  ['a wrong secret', { secret: 'wrong' }, 40125],
])('neither token is given for %s', async (_, change, errcode) => {
  const { client } = await setUp()
  const parameters = { ...RIGHT, ...change }
  const answers = [
    await client.post('/cgi-bin/stable_token', parameters),
    await client.get('/cgi-bin/token', parameters),
  ]
  expect(answers.map(({ text }) => parse(text)['errcode'])).toEqual([errcode, errcode])
})

test('the stable token wants a POST with JSON, and its errmsg joins the rid with a space', async () => {
  const { wechat, client } = await setUp()
  expect(parse((await client.get('/cgi-bin/stable_token', RIGHT)).text)['errcode']).toBe(43002)
  const { status, text } = await client.send(`${wechat.url}/cgi-bin/stable_token`, {
    method: 'POST',
    body: '[1]',
  })
  expect(status).toBe(200)
  expect(text).toMatch(
    /^\{"errcode":47001,"errmsg":"data format error rid: 66454a60-[0-9a-f]{8}-[0-9a-f]{8}"\}$/,
  )
})

test('quotas of the minute and the day end in 45011 and 45009', async () => {
  const { wechat, client } = await setUp()
  const errcode = async () => parse((await client.post('/cgi-bin/stable_token', RIGHT)).text)['errcode']
  wechat.putApp({ appid: DEFAULT_APP.appid, quotas: { stableTokensPerMinute: 1, tokensPerDay: 0 } })
  expect([await errcode(), await errcode()]).toEqual([undefined, 45011])
  wechat.putApp({ appid: DEFAULT_APP.appid, quotas: { stableTokensPerMinute: null, stableTokensPerDay: 1 } })
  expect(await errcode()).toBe(45009)
  expect(parse((await client.get('/cgi-bin/token', RIGHT)).text)['errcode']).toBe(45009)
})

test.each([40001, 40014, 42001] as const)(
  'a token can be taken out of service with %i, and a new one is given',
  async (errcode) => {
    const { wechat, client } = await setUp()
    const { token } = await stableToken(client)
    expect(wechat.invalidateTokens({ appid: DEFAULT_APP.appid, errcode })).toBe(1)
    expect(await verdictOn(client, token)).toBe(errcode)
    const renewed = await stableToken(client)
    expect(renewed.token).not.toBe(token)
    expect(await verdictOn(client, renewed.token)).toBe(ACCEPTED)
  },
)

test('a missing, a malformed and an unknown token are told apart', async () => {
  const { client } = await setUp()
  expect(await verdictOn(client, undefined)).toBe(41001)
  expect(await verdictOn(client, 'not-a-token')).toBe(40014)
  expect(await verdictOn(client, `77_${'a'.repeat(133)}`)).toBe(40001)
})
