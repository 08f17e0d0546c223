/** The exchange with WeChat when WeChat refuses: each errcode of src/wechat/errcodes.ts and what becomes of it. */
import { describe, expect, onTestFinished, test } from 'vitest'
import { parseAppEntry } from '../src/app-entry.ts'
import { ERRORS } from '../src/errors.ts'
import type { ErrorCode } from '../src/errors.ts'
import { Secret } from '../src/secret.ts'
import { createAppGates } from '../src/wechat/app-gate.ts'
import { createBreakers } from '../src/wechat/breaker.ts'
import { createBulkhead } from '../src/wechat/bulkhead.ts'
import { createCalls } from '../src/wechat/calls.ts'
import { createCode2Session } from '../src/wechat/code2session.ts'
import { ERRCODES } from '../src/wechat/errcodes.ts'
import { createHosts } from '../src/wechat/hosts.ts'
import { createPlatforms } from '../src/wechat/platforms.ts'
import { createQuotaGates } from '../src/wechat/quota-gate.ts'
import { APP_SECRET, APPID } from './harness/environment.ts'
import { startHarness } from './harness/gateway.ts'
import { startWechat } from './harness/wechat.ts'

const NONCE = 'the-nonce-of-this-client'
const OPENID = 'o--sB5rdWBfwTidbZzzn4FXfWpEg'
/** The next minute, jitter of the edge's included. */
const NEXT_MINUTE_SECONDS_MAX = 60

const ignore = () => {}

describe('an errcode', () => {
  const final = Object.entries(ERRCODES).filter(([errcode]) => errcode !== '-1')

  test.each(final.map(([errcode, { answer }]) => [Number(errcode), answer] as const))(
    '%i is final, and answered with %s',
    async (errcode, answer) => {
      const { login, wechat, metric } = await startHarness()
      const { code } = wechat.issueCode()
      wechat.addFault({ kind: 'errcode', errcode })

      const reply = await login({ code })

      const { status, retry } = ERRORS[answer]
      expect(reply.status).toBe(status)
      expect(reply.body).toMatchObject({ code: answer, retry, errcode, status })
      expect(reply.body['rid']).toMatch(/^[0-9a-f]{8}-[0-9a-f]{8}-[0-9a-f]{8}$/)
      expect(reply.headers['retry-after'] !== undefined).toBe(status === 429 || status === 503)
      expect(wechat.history()).toHaveLength(1)
      expect(await metric('wechat_errcode_total', { errcode: String(errcode) })).toBe(1)
    },
  )

  test.each<[string, unknown, number, ErrorCode]>([
    ['that nobody knows', 99_999, 99_999, 'wechat_refused'],
    ['that is text', '40029', 40_029, 'code_invalid'],
  ])('%s', async (_what, sent, errcode, answer) => {
    const { login, wechat, metric } = await startHarness()
    const errmsg = 'words of theirs, rid: 623ea70a-74b9b592-3e3d489a'
    wechat.addFault({ kind: 'body', body: JSON.stringify({ errcode: sent, errmsg }) })
    const reply = await login({ code: wechat.issueCode().code })
    expect(reply.status).toBe(ERRORS[answer].status)
    expect(reply.body).toMatchObject({ code: answer, errcode, rid: '623ea70a-74b9b592-3e3d489a' })
    expect(reply.text).not.toContain('words of theirs')
    const label = answer === 'wechat_refused' ? 'other' : String(errcode)
    expect(await metric('wechat_errcode_total', { errcode: label })).toBe(1)
  })

  test('together with openid and session_key is a refusal', async () => {
    const { login, wechat } = await startHarness()
    const success = { openid: OPENID, session_key: 'tQY+38pdTVnAIWCBNiM1+A==' }
    wechat.addFault({ kind: 'body', body: JSON.stringify({ ...success, errcode: 40029 }) })
    expect((await login({ code: wechat.issueCode().code })).body.code).toBe('code_invalid')
  })

  test('45011 says when: in the next minute, and the same code will do', async () => {
    const { login, wechat } = await startHarness()
    const { code } = wechat.issueCode()
    wechat.addFault({ kind: 'errcode', errcode: 45011, times: 1 })
    const reply = await login({ code })
    const seconds = Number(reply.headers['retry-after'])
    expect(seconds).toBeGreaterThanOrEqual(1)
    expect(seconds).toBeLessThanOrEqual(NEXT_MINUTE_SECONDS_MAX)
    expect((await login({ code })).status).toBe(200)
  })

  test('45011 for one user is nothing to the others', async () => {
    const { login, wechat } = await startHarness()
    wechat.addFault({ kind: 'errcode', errcode: 45011, openid: 'o-in-a-loop' })
    for (let i = 0; i < 30; i += 1) {
      const { code } = wechat.issueCode({ openid: 'o-in-a-loop' })
      expect((await login({ code })).status).toBe(429)
      expect((await login({ code: wechat.issueCode().code })).status).toBe(200)
    }
  })

  test('40226 is kept for a minute, for whoever sends the code, and no longer', async () => {
    const { login, wechat, redis, keys } = await startHarness()
    wechat.putUser({ openid: 'o-high-risk', blocked: true })
    const { code } = wechat.issueCode({ openid: 'o-high-risk' })
    const reply = await login({ code })
    expect(reply.status).toBe(403)
    expect(reply.body).toMatchObject({ code: 'login_blocked', retry: 'never', errcode: 40226 })
    expect((await login({ code, nonce: NONCE })).body).toEqual(reply.body)
    expect(wechat.history()).toHaveLength(1)
    const [key = ''] = await redis.keys(keys.code('*'))
    expect(await redis.pttl(key)).toBeGreaterThan(50_000)
    expect(await redis.pttl(key)).toBeLessThanOrEqual(60_000)
  })

  test('40163 after somebody else led the code without an outcome: used up by us', async () => {
    const { login, wechat } = await startHarness()
    const { code } = wechat.issueCode()
    // Given back, after an attempt that had used it up although WeChat denied that.
    wechat.addFault({ kind: 'errcode', errcode: 45011, when: 'after', times: 1 })
    expect((await login({ code })).body.code).toBe('wechat_rate_limited')
    const reply = await login({ code })
    expect(reply.status).toBe(409)
    expect(reply.body).toMatchObject({ code: 'code_consumed', retry: 'new_code', errcode: 40163 })
  })

  test('40125 while a secret is rotated: the second secret is tried, once', async () => {
    const wechat = await startWechat()
    const calls = createCalls()
    const observer = {
      onCall: ignore,
      onErrcode: ignore,
      onFailure: ignore,
      onBreaker: ignore,
      onComponentTokensFault: ignore,
    }
    const exchange = async (...texts: string[]) => {
      const secrets = texts.map((text) => new Secret(text))
      const app = parseAppEntry({ appid: APPID, secret: APP_SECRET })
      const findApp = () => ({ ...app, secrets })
      const gates = createAppGates(ignore)
      const breakers = createBreakers({ callMsMax: 3_000 })
      onTestFinished(() => breakers.close())
      const hosts = createHosts({ calls, breakers }, observer)
      const nowhere = { wecomApiUrls: [], qqApiUrls: [], douyinApiUrls: [], componentTokensFile: undefined }
      const settings = { ...nowhere, wechatApiUrls: [wechat.url], loginDeadlineMs: 3_000 }
      const platforms = createPlatforms(hosts, settings, observer)
      const parts = { bulkhead: createBulkhead(ignore), quotas: createQuotaGates(ignore) }
      const wechatApi = createCode2Session({ hosts, platforms, gates, ...parts, findApp, ...observer })
      const { code } = wechat.issueCode({ openid: OPENID })
      const request = {
        appid: APPID,
        code,
        ip: '192.0.2.1',
        generation: 1,
        mayBeUsed: false,
        onUnsent: ignore,
      }
      const outcome = await wechatApi.exchange(request, AbortSignal.timeout(3_000)).then(
        ({ openid }) => openid,
        (error: unknown) => (error as { code: string }).code,
      )
      return [outcome, wechat.history({ code }).map((entry) => entry.outcome)]
    }
    onTestFinished(() => calls.close())

    expect(await exchange('an-old-secret-of-the-app', APP_SECRET)).toEqual([OPENID, [40125, 'ok']])
    expect(await exchange(APP_SECRET, 'a-new-secret-not-valid-yet')).toEqual([OPENID, ['ok']])
    expect(await exchange('a-wrong-secret', 'another-wrong-secret')).toEqual([
      'app_misconfigured',
      [40125, 40125],
    ])
  })
})
