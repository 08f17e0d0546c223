/** The phone number behind a phone code. It costs money, so above all: WeChat is asked once. */
import { describe, expect, test } from 'vitest'
import { ERRORS } from '../src/errors.ts'
import type { ErrorCode } from '../src/errors.ts'
import { startHarness } from './harness/gateway.ts'
import type { Harness } from './harness/gateway.ts'
import { closedHost, inOrder, startWechat } from './harness/wechat.ts'

const PHONE_PATH = '/wxa/business/getuserphonenumber'
const TOKEN_PATH = '/cgi-bin/stable_token'

async function logIn(harness: Harness) {
  const { code, openid } = harness.wechat.issueCode()
  const { body } = await harness.login({ code })
  return { openid, token: body.token, tap: (own = {}) => harness.wechat.issuePhoneCode({ openid, ...own }) }
}

const phoneCalls = ({ wechat }: Harness) => wechat.history({ path: PHONE_PATH })

describe('the phone number', () => {
  test.each([
    ['text', false],
    ['a number', true],
  ])(
    'is looked up with the openid, whether WeChat gives countryCode as %s',
    async (_, countryCodeAsNumber) => {
      const harness = await startHarness({ simulator: { countryCodeAsNumber } })
      const user = await logIn(harness)
      const { code, phoneNumber } = user.tap()

      const { status, body } = await harness.post('/session/phone', { code }, user.token)
      expect({ status, body }).toEqual({
        status: 200,
        body: { phone_number: phoneNumber, pure_phone_number: phoneNumber, country_code: '86' },
      })
      const [call, ...more] = phoneCalls(harness)
      expect(more).toEqual([])
      expect(call).toMatchObject({ method: 'POST', parameters: ['access_token'], outcome: 'ok' })
      expect(call?.bodyParameters.toSorted()).toEqual(['code', 'openid'])
      expect(harness.wechat.history({ path: '/cgi-bin/token' })).toEqual([])
    },
  )

  test('of another country carries its code', async () => {
    const harness = await startHarness()
    const user = await logIn(harness)
    const { code } = user.tap({ phoneNumber: '79876543', countryCode: '65' })
    expect((await harness.post('/session/phone', { code }, user.token)).body).toEqual({
      phone_number: '+6579876543',
      pure_phone_number: '79876543',
      country_code: '65',
    })
  })

  // The code is no wx.login code: to log in again would not help, the user has to tap again.
  test('is refused for a code that was used, is unknown, or is of another user', async () => {
    const harness = await startHarness()
    const [user, other] = [await logIn(harness), await logIn(harness)]
    const { code } = user.tap()
    await harness.post('/session/phone', { code }, user.token)
    for (const refused of [code, 'f'.repeat(64), other.tap().code]) {
      const { status, body } = await harness.post('/session/phone', { code: refused }, user.token)
      expect({ status, code: body.code, retry: body.retry }).toEqual({
        status: 400,
        code: 'phone_code_invalid',
        retry: 'never',
      })
    }
    expect((await harness.get('/session', user.token)).status).toBe(200)
  })
})

describe('asked once', () => {
  test.each([
    { kind: 'hang_after' },
    { kind: 'hang_before' },
    { kind: 'reset', when: 'after' },
    { kind: 'reset', when: 'mid_body' },
    { kind: 'close', when: 'after' },
    { kind: 'garbage', when: 'after' },
    { kind: 'truncate' },
    { kind: 'empty', when: 'after' },
    { kind: 'html' },
    { kind: 'status', status: 500 },
    { kind: 'body', body: '{"errcode":0,"errmsg":"ok"}' },
    { kind: 'body', body: '{"errcode":0,"phone_info":null}' },
    {
      kind: 'body',
      body: '{"phone_info":{"phoneNumber":"1","purePhoneNumber":"1","countryCode":"86","watermark":{"appid":"wxffff"}}}',
    },
  ] as const)(
    'after $kind it is not known whether it was paid for, and it is not asked again',
    async (fault) => {
      const harness = await startHarness({ env: { LOGIN_DEADLINE_MS: '1000' } })
      const user = await logIn(harness)
      await harness.post('/session/phone', { code: user.tap().code }, user.token)
      harness.wechat.clearHistory()
      harness.wechat.addFault({ path: PHONE_PATH, ...fault })

      const { status, body, headers } = await harness.post(
        '/session/phone',
        { code: user.tap().code },
        user.token,
      )
      expect({ status, code: body.code, retry: body.retry }).toEqual({
        status: 503,
        code: 'phone_code_unclear',
        retry: 'never',
      })
      expect(headers['retry-after']).toBeDefined()
      expect(phoneCalls(harness)).toHaveLength(1)
      expect(
        await harness.metric('session_key_uses_total', { use: 'phone', outcome: 'phone_code_unclear' }),
      ).toBe(1)
    },
  )

  test.each([
    [-1, 'wechat_busy'],
    [45011, 'wechat_rate_limited'],
    [45009, 'app_misconfigured'],
    [48001, 'app_misconfigured'],
    [99_999, 'wechat_call_refused'],
  ] as const)(
    'errcode %i is %s: refused, not asked again, and the code still good',
    async (errcode, code) => {
      const harness = await startHarness()
      const user = await logIn(harness)
      const fault = harness.wechat.addFault({ kind: 'errcode', errcode, path: PHONE_PATH, when: 'before' })
      const tapped = user.tap()

      const { status, body } = await harness.post('/session/phone', { code: tapped.code }, user.token)
      const spec = ERRORS[code satisfies ErrorCode]
      expect({ status, code: body.code, retry: body.retry, errcode: body.errcode }).toEqual({
        status: spec.status,
        code,
        retry: spec.retry,
        errcode,
      })
      expect(body['rid']).toMatch(/^[0-9a-f-]{26}$/)
      expect(phoneCalls(harness)).toHaveLength(1)
      fault.remove()
      expect((await harness.post('/session/phone', { code: tapped.code }, user.token)).status).toBe(200)
    },
  )
})

describe('with two hosts', () => {
  test('the second is not asked what the first may have done', async () => {
    const [wechat, second] = [await startWechat(), await startWechat()]
    const harness = await startHarness({ wechat, env: inOrder(wechat, second) })
    const user = await logIn(harness)
    await harness.post('/session/phone', { code: user.tap().code }, user.token)
    for (const kind of ['reset', 'html'] as const) {
      wechat.addFault({ kind, when: 'after', path: PHONE_PATH, times: 1 })
      const { body } = await harness.post('/session/phone', { code: user.tap().code }, user.token)
      expect(body.code).toBe('phone_code_unclear')
    }
    expect(second.history()).toEqual([])
  })
})

describe('before anything was sent', () => {
  test('a host that cannot be reached is passed over', async () => {
    const wechat = await startWechat()
    const harness = await startHarness({ wechat, env: inOrder(await closedHost(), wechat) })
    const user = await logIn(harness)
    expect((await harness.post('/session/phone', { code: user.tap().code }, user.token)).status).toBe(200)
    expect(phoneCalls(harness)).toHaveLength(1)
  })

  test('nobody to be reached is said so, and the code is not used up', async () => {
    const harness = await startHarness()
    const user = await logIn(harness)
    await harness.post('/session/phone', { code: user.tap().code }, user.token)
    const cutOff = await startHarness({
      wechat: harness.wechat,
      env: { ...harness.env, ...inOrder(await closedHost(), await closedHost()) },
    })
    const { code } = user.tap()

    const { status, body } = await cutOff.post('/session/phone', { code }, user.token)
    expect({ status, code: body.code, retry: body.retry }).toEqual({
      status: 503,
      code: 'wechat_unreachable',
      retry: 'same_code',
    })
    expect((await harness.post('/session/phone', { code }, user.token)).status).toBe(200)
  })

  test.each([
    [{ kind: 'html' }, 'wechat_call_failed', 'same_code'],
    [{ kind: 'hang_before' }, 'wechat_call_failed', 'same_code'],
    [{ kind: 'body', body: '{"access_token":"x"}' }, 'wechat_call_failed', 'same_code'],
    [{ kind: 'body', body: '{"access_token":7,"expires_in":7200}' }, 'wechat_call_failed', 'same_code'],
    [{ kind: 'errcode', errcode: -1 }, 'wechat_busy', 'same_code'],
    [{ kind: 'errcode', errcode: 40164 }, 'app_misconfigured', 'never'],
    [{ kind: 'errcode', errcode: 89503 }, 'app_misconfigured', 'never'],
  ] as const)('without an access_token (%o) the phone code is not sent', async (fault, code, retry) => {
    const harness = await startHarness()
    const user = await logIn(harness)
    harness.wechat.addFault({ path: TOKEN_PATH, ...fault })
    const { body } = await harness.post('/session/phone', { code: user.tap().code }, user.token)
    expect({ code: body.code, retry: body.retry }).toEqual({ code, retry })
    expect(phoneCalls(harness)).toEqual([])
    expect(
      await harness.metric('wechat_access_token_fetches_total', { reason: 'missing', outcome: 'failed' }),
    ).toBe(1)
  })

  test('failing phone numbers do not close the login', async () => {
    const harness = await startHarness()
    const user = await logIn(harness)
    harness.wechat.addFault({ kind: 'html', path: PHONE_PATH })
    const codes: string[] = []
    for (let i = 0; i < 30; i += 1)
      codes.push((await harness.post('/session/phone', { code: user.tap().code }, user.token)).body.code)
    expect(codes.at(-1)).toBe('wechat_circuit_open')
    expect(await harness.metric('wechat_api_breaker_state')).toBe(2)
    expect((await harness.login({ code: harness.wechat.issueCode().code })).status).toBe(200)
  })
})
