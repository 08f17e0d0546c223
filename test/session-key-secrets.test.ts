/**
 * Nothing that a session_key opens, and no key, gets out by another way than the answer to whoever asked: all
 * uses of it, at log level trace, well and badly, and then a search through everything that was written.
 */
import { Redis } from 'ioredis'
import { expect, inject, onTestFinished, test } from 'vitest'
import { loadGatewayConfig } from '../src/config.ts'
import { createSeal } from '../src/seal.ts'
import type { Reply } from './harness/client.ts'
import { APP_SECRET, APPID, gatewayEnvironment } from './harness/environment.ts'
import { startGatewayProcess } from './harness/processes.ts'
import { startWechat } from './harness/wechat.ts'

const NICKNAME = 'nickname-canary-6Tz1'
const PHONE_PATH = '/wxa/business/getuserphonenumber'

test('keys, tokens, phone numbers and open data are in no log, metric, error or readable value of Redis', async () => {
  const wechat = await startWechat()
  const env = gatewayEnvironment(wechat, { LOG_LEVEL: 'trace', OPEN_DATA_REPLAY_SECONDS: '60' })
  const gateway = await startGatewayProcess(env)
  const { openid, code } = wechat.issueCode()
  const { token } = (await gateway.login({ code })).body
  const firstKey = wechat.users({ openid })[0]?.sessionKey ?? ''

  const taps: { code: string; phoneNumber: string }[] = []
  const errors: Reply[] = []
  const tap = () => {
    const tapped = wechat.issuePhoneCode({ openid })
    taps.push(tapped)
    return { code: tapped.code }
  }
  const collect = () => wechat.openData({ openid, data: { nickName: NICKNAME } })
  const decrypt = ({ encryptedData, iv }: ReturnType<typeof collect>) =>
    gateway.post('/session/decrypt', { encrypted_data: encryptedData, iv }, token)
  const asAdmin = (path: string, own: object = {}) =>
    gateway.admin.post(path, { appid: APPID, openid, ...own }, env['ADMIN_TOKEN'])

  // What works.
  const data = collect()
  expect((await decrypt(data)).text).toContain(NICKNAME)
  const { rawData, signature } = data
  const verified = await gateway.post('/session/verify', { raw_data: rawData, signature }, token)
  expect(verified.body).toEqual({ valid: true })
  expect((await gateway.post('/session/phone', tap(), token)).status).toBe(200)
  const signed = await asAdmin('/sign', { kind: 'virtual_payment', sign_data: '{"offerId":"1"}' })
  expect(signed.status).toBe(200)
  expect((await asAdmin('/check-session-key')).body).toEqual({ valid: true })

  // What does not.
  errors.push(await decrypt(data))
  const [block = ''] = data.encryptedData.match(/^.{64}/) ?? []
  errors.push(await decrypt({ ...data, encryptedData: block }), await decrypt({ ...data, iv: NICKNAME }))
  for (const kind of ['html', 'garbage', 'truncate', 'reset'] as const) {
    wechat.addFault({ kind, path: PHONE_PATH, times: 1 })
    errors.push(await gateway.post('/session/phone', tap(), token))
  }
  for (const errcode of [-1, 40029, 45011, 40001, 99_999]) {
    wechat.addFault({ kind: 'errcode', errcode, path: PHONE_PATH, times: 2 })
    errors.push(await gateway.post('/session/phone', tap(), token))
  }
  wechat.addFault({ kind: 'truncate', path: '/wxa/resetusersessionkey', times: 1 })
  errors.push(await asAdmin('/reset-session-key'), await asAdmin('/sign', { kind: 'raw', message: firstKey }))
  errors.push(await asAdmin('/sign', { kind: 'virtual_payment', sign_data: firstKey }))

  const redis = new Redis(inject('redisUrl'))
  onTestFinished(() => redis.disconnect())
  const sealed = await redis.hgetBuffer(`${env['KEY_PREFIX']}wechat:token:{${APPID}}`, 't')
  const place = { appid: APPID, sub: 'access_token' }
  const accessToken = createSeal(loadGatewayConfig(env).sealKeys)
    .unseal(sealed ?? Buffer.alloc(0), place)
    ?.toString()
  expect(accessToken).toMatch(/^\d\d_/)

  const stored: string[] = []
  for (const key of await redis.keys(`${env['KEY_PREFIX']}*`)) {
    const type = await redis.type(key)
    stored.push(key)
    if (type === 'hash') stored.push(...Object.values(await redis.hgetallBuffer(key)).map(String))
    if (type === 'string') stored.push(String(await redis.get(key)))
    if (type === 'list') stored.push(...(await redis.lrange(key, 0, -1)))
  }
  expect(stored.filter((text) => text.includes('wechat:token'))).not.toEqual([])
  const { text: metrics } = await gateway.admin.get('/metrics')
  await gateway.end('SIGTERM')

  const written: Record<string, string> = {
    output: gateway.output(),
    metrics,
    errors: errors.map(({ text, headers }) => text + JSON.stringify(headers)).join('\n'),
    Redis: stored.join('\n'),
  }
  const currentKey = wechat.users({ openid })[0]?.sessionKey ?? ''
  expect(currentKey).not.toBe(firstKey)
  const secrets: Record<string, string> = {
    session_key: firstKey,
    'session_key as bytes': Buffer.from(firstKey, 'base64').toString('hex'),
    'the new session_key': currentKey,
    access_token: accessToken?.slice(3, 40) ?? '',
    AppSecret: APP_SECRET,
    'open data': NICKNAME,
    'its ciphertext': data.encryptedData.slice(0, 32),
    signature: String(signed.body['signature']),
    ...Object.fromEntries(taps.map(({ phoneNumber }, i) => [`phone number ${i}`, phoneNumber])),
    ...Object.fromEntries(taps.map(({ code }, i) => [`phone code ${i}`, code])),
  }
  expect(errors.map(({ status }) => status).filter((status) => status < 400 || status === 500)).toEqual([])
  const hits = Object.entries(written).flatMap(([place, text]) =>
    Object.entries(secrets)
      .filter(([, secret]) => secret === '' || text.includes(secret))
      .map(([name]) => `${name} in ${place}`),
  )
  expect(hits).toEqual([])
}, 60_000)
