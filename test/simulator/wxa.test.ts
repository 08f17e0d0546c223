/** Session checks, phone numbers and open data, against the official vectors where there are any. */
import { createDecipheriv } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import type { Client } from './client.ts'
import { parse } from './client.ts'
import { isObject } from './fields.ts'
import { signSession } from './open-data.ts'
import { DEFAULT_APP } from './platform.ts'
import type { Simulator } from './server.ts'
import { START_MS, setUp } from './setting.ts'

interface Vectors {
  openDataDecrypt: Record<'appid' | 'session_key' | 'iv' | 'encryptedData' | 'plaintext', string>
  rawDataSignature: Record<'rawData' | 'session_key' | 'sha1', string>
  sessionHmac: Record<'session_key' | 'data' | 'hmac_sha256', string>[]
}
const vectors: Vectors = JSON.parse(readFileSync(new URL('../wechat-vectors.json', import.meta.url), 'utf8'))

async function accessToken(client: Client): Promise<string> {
  const { text } = await client.get('/cgi-bin/token', { grant_type: 'client_credential', ...DEFAULT_APP })
  return String(parse(text)['access_token'])
}

/** A user who has logged in, with the session_key the app was given. */
async function logIn(wechat: Simulator, client: Client): Promise<{ openid: string; sessionKey: string }> {
  const { code, openid } = wechat.issueCode({ user: 'alice' })
  return { openid, sessionKey: String(parse((await client.exchange(code)).text)['session_key']) }
}

const signed = (access_token: string, openid: string, sessionKey: string) => ({
  access_token,
  openid,
  signature: signSession(sessionKey),
  sig_method: 'hmac_sha256',
})

function decrypt(made: { encryptedData: string; iv: string }, sessionKey: string): Record<string, unknown> {
  const [key, iv] = [Buffer.from(sessionKey, 'base64'), Buffer.from(made.iv, 'base64')]
  const decipher = createDecipheriv('aes-128-cbc', key, iv)
  return parse(decipher.update(made.encryptedData, 'base64', 'utf8') + decipher.final('utf8'))
}

describe('official vectors', () => {
  test.each(vectors.sessionHmac)('the session signature of "$data"', ({ session_key, data, hmac_sha256 }) => {
    expect(signSession(session_key, data)).toBe(hmac_sha256)
  })

  test('rawData is signed as the official vector', async () => {
    const { wechat } = await setUp()
    const { rawData, session_key, sha1 } = vectors.rawDataSignature
    const made = wechat.openData({ user: 'alice', data: parse(rawData), sessionKey: session_key })
    expect(made).toMatchObject({ rawData, signature: sha1 })
  })

  test('open data is encrypted as the official vector, byte for byte', async () => {
    const { wechat } = await setUp()
    const { appid, session_key, iv, encryptedData, plaintext } = vectors.openDataDecrypt
    const { openId, unionId, watermark, ...data } = parse(plaintext)
    wechat.putApp({ appid, secret: 'any' })
    const made = wechat.openData({
      appid,
      openid: String(openId),
      unionid: String(unionId),
      timestamp: isObject(watermark) ? Number(watermark['timestamp']) : 0,
      sessionKey: session_key,
      iv,
      data,
    })
    expect(made).toMatchObject({ encryptedData, iv })
  })
})

describe('open data', () => {
  const watermark = { timestamp: START_MS / 1000, appid: DEFAULT_APP.appid }

  test('is made with the current key of the user, which a later code may have replaced', async () => {
    const { wechat, client } = await setUp({ keyRefreshSeconds: 0 })
    const { openid, sessionKey } = await logIn(wechat, client)
    expect(decrypt(wechat.openData({ user: 'alice' }), sessionKey)).toMatchObject({
      openId: openid,
      watermark,
    })

    wechat.issueCode({ user: 'alice' })
    const later = wechat.openData({ user: 'alice' })
    expect(decrypt(later, wechat.users({ user: 'alice' })[0]?.sessionKey ?? '')).toMatchObject({
      openId: openid,
    })
    const stale = wechat.users({ user: 'alice' })[0]?.previousSessionKey
    expect(stale).toBe(sessionKey)
  })

  test('can be a phone number, or any data, both with a watermark and without openId', async () => {
    const { wechat, client } = await setUp()
    const { sessionKey } = await logIn(wechat, client)
    const phone = wechat.openData({ user: 'alice', kind: 'phone', phoneNumber: '13800138000' })
    expect(decrypt(phone, sessionKey)).toEqual({
      phoneNumber: '13800138000',
      purePhoneNumber: '13800138000',
      countryCode: '86',
      watermark,
    })
    const steps = wechat.openData({ user: 'alice', kind: 'plain', data: { stepInfoList: [] }, timestamp: 1 })
    expect(decrypt(steps, sessionKey)).toEqual({
      stepInfoList: [],
      watermark: { ...watermark, timestamp: 1 },
    })
  })

  test('needs a key: a user without a code has none', async () => {
    const { wechat } = await setUp()
    expect(() => wechat.openData({ user: 'nobody' })).toThrow('no session_key before the first code')
  })
})

describe('session checks', () => {
  test('the current key is good, an old one is 87009', async () => {
    const { wechat, client, pass } = await setUp()
    const token = await accessToken(client)
    const { openid, sessionKey } = await logIn(wechat, client)
    const check = async () => (await client.get('/wxa/checksession', signed(token, openid, sessionKey))).text

    expect(await check()).toBe('{"errcode":0,"errmsg":"ok"}')
    pass(60)
    wechat.issueCode({ user: 'alice' })
    expect(parse(await check())['errcode']).toBe(87009)
  })

  test('what else is wrong has its own errcode', async () => {
    const { wechat, client } = await setUp()
    const token = await accessToken(client)
    const { openid, sessionKey } = await logIn(wechat, client)
    const right = signed(token, openid, sessionKey)
    const errcode = async (change: object) =>
      parse((await client.get('/wxa/checksession', { ...right, ...change })).text)['errcode']

    expect(await errcode({ openid: undefined })).toBe(41009)
    expect(await errcode({ openid: 'o-unknown' })).toBe(40003)
    expect(await errcode({ sig_method: 'sha1' })).toBe(87008)
    expect(await errcode({ signature: undefined })).toBe(87009)
    expect(await errcode({ access_token: undefined })).toBe(41001)
    const { openid: keyless } = wechat.putUser({ user: 'bob' })
    expect(await errcode({ openid: keyless })).toBe(87007)
  })

  test('a reset gives a new key and ends the old one, up to the quota', async () => {
    const { wechat, client } = await setUp()
    const token = await accessToken(client)
    const { openid, sessionKey } = await logIn(wechat, client)
    const reset = async (key: string) =>
      parse((await client.get('/wxa/resetusersessionkey', signed(token, openid, key))).text)

    const answer = await reset(sessionKey)
    expect(answer).toMatchObject({ errcode: 0, errmsg: 'ok', openid })
    expect(answer['session_key']).toBe(wechat.users({ user: 'alice' })[0]?.sessionKey)
    expect((await reset(sessionKey))['errcode']).toBe(87009)

    wechat.putApp({ appid: DEFAULT_APP.appid, quotas: { keyResetsPerMinute: 1 } })
    expect((await reset(String(answer['session_key'])))['errcode']).toBe(45011)
  })
})

describe('phone numbers', () => {
  test('a phone code gives its number once, and the history knows both', async () => {
    const { wechat, client } = await setUp()
    const path = `/wxa/business/getuserphonenumber?access_token=${await accessToken(client)}`
    const { code, openid } = wechat.issuePhoneCode({ user: 'alice', phoneNumber: '13800138000' })
    expect(code).toMatch(/^[0-9a-f]{64}$/)

    const { contentType, text } = await client.post(path, { code, openid })
    expect(contentType).toMatch(/^application\/json/)
    expect(text).toBe(
      '{"errcode":0,"errmsg":"ok","phone_info":{"phoneNumber":"13800138000","purePhoneNumber":"13800138000",' +
        `"countryCode":"86","watermark":{"timestamp":${START_MS / 1000},"appid":"${DEFAULT_APP.appid}"}}}`,
    )
    expect((await client.post(path, { code })).text).toMatch(
      /^\{"errcode":40029,"errmsg":"invalid code rid: /,
    )
    expect(wechat.history({ code })).toMatchObject([
      { openid, appid: DEFAULT_APP.appid, bodyParameters: ['code', 'openid'], outcome: 'ok' },
      { outcome: 40029 },
    ])
  })

  test('countries other than China carry their code, which may come as a number', async () => {
    const { wechat, client } = await setUp({ countryCodeAsNumber: true })
    const path = `/wxa/business/getuserphonenumber?access_token=${await accessToken(client)}`
    const { code } = wechat.issuePhoneCode({ phoneNumber: '91234567', countryCode: '852' })
    expect(parse((await client.post(path, { code })).text)['phone_info']).toMatchObject({
      phoneNumber: '+85291234567',
      purePhoneNumber: '91234567',
      countryCode: 852,
    })
  })

  test('codes are not exchanged across kinds, apps, users or five minutes', async () => {
    const { wechat, client, pass } = await setUp()
    const path = `/wxa/business/getuserphonenumber?access_token=${await accessToken(client)}`
    const errcode = async (body: object) => parse((await client.post(path, body)).text)['errcode']
    wechat.putApp({ appid: 'wx-second', secret: 'second' })
    const { code } = wechat.issuePhoneCode()

    expect(await errcode({ code: wechat.issueCode().code })).toBe(40029)
    expect(await errcode({ code: wechat.issuePhoneCode({ appid: 'wx-second' }).code })).toBe(40013)
    expect(await errcode({ code, openid: 'o-somebody-else' })).toBe(40003)
    expect(parse((await client.exchange(code)).text)['errcode']).toBe(40029)
    pass(300)
    expect(await errcode({ code })).toBe(40029)
    expect(await errcode({})).toBe(40029)
  })
})
