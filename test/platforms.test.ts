/**
 * Apps of other platforms behind the same login: one gateway, one app of every kind, the same promises. What is
 * common to all (hosts, breakers, retries) is in upstream*.test.ts.
 */
import { setTimeout as pause } from 'node:timers/promises'
import { describe, expect, onTestFinished, test } from 'vitest'
import type { AppKind } from '../src/app-entry.ts'
import type { ErrorCode } from '../src/errors.ts'
import { faultsOf, writeTemporary } from './harness/configuration.ts'
import { gatewayEnvironment } from './harness/environment.ts'
import { startHarness } from './harness/gateway.ts'
import type { Harness } from './harness/gateway.ts'
import {
  COMPONENT_APPID,
  COMPONENT_TOKEN,
  CORPID,
  KINDS,
  PLATFORMS,
  platformsEnvironment,
  replaceFile,
  SIMULATED_APPS,
} from './harness/platforms.ts'
import { startGatewayProcess } from './harness/processes.ts'
import { closedHost, startWechat } from './harness/wechat.ts'
import { createClient, parse } from './simulator/client.ts'
import type { Simulator } from './simulator/server.ts'

const NONCE = 'the-nonce-of-this-client'
const WRONG_SECRET = 'a-secret-that-is-not-the-right-one'

interface Given extends NonNullable<Parameters<typeof platformsEnvironment>[1]> {
  env?: Record<string, string>
  wechat?: Simulator
}

async function setUp({ env, wechat, ...given }: Given = {}) {
  const simulator = wechat ?? (await startWechat({ apps: SIMULATED_APPS }))
  const platforms = platformsEnvironment(simulator, given)
  const harness = await startHarness({ wechat: simulator, env: { ...platforms, ...env } })
  return { ...harness, tokensFile: platforms.WECHAT_COMPONENT_TOKENS_FILE }
}

const issue = (wechat: Simulator, kind: AppKind, openid?: string) =>
  wechat.issueCode({ appid: PLATFORMS[kind].appid, ...(openid !== undefined && { openid }) })

function logIn({ login }: Pick<Harness, 'login'>, kind: AppKind, code: string) {
  return login({ appid: PLATFORMS[kind].appid, code, nonce: NONCE })
}

const tokenCalls = (wechat: Simulator) => wechat.history({ path: '/cgi-bin/gettoken' })

describe.each(KINDS)('an app of kind %s', (kind) => {
  const { appid, path } = PLATFORMS[kind]

  test('logs a user in, again as the same user, and tells nothing of session_key', async () => {
    const harness = await setUp()
    const { wechat, get } = harness
    const first = issue(wechat, kind, 'a-user')
    const reply = await logIn(harness, kind, first.code)

    expect(reply.status).toBe(200)
    expect(reply.body).toMatchObject({ openid: 'a-user', token_type: 'Bearer' })
    // A member of a corp has no unionid.
    expect('unionid' in reply.body).toBe(kind !== 'wecom')
    const session = await get('/session', reply.body.token)
    expect(session.body).toMatchObject({ sub: reply.body.sub, appid, openid: 'a-user' })

    const again = await logIn(harness, kind, issue(wechat, kind, 'a-user').code)
    expect(again.body.sub).toBe(reply.body.sub)
    expect(again.body.token).not.toBe(reply.body.token)

    const [user] = wechat.users({ appid, openid: 'a-user' })
    expect(reply.text + session.text).not.toContain(user?.sessionKey)
    expect(wechat.history({ code: first.code }).map((entry) => entry.path)).toEqual([path])
  })

  test('duplicates of one code are one exchange and one session', async () => {
    const harness = await setUp()
    const { code } = issue(harness.wechat, kind)
    const replies = await Promise.all(Array.from({ length: 20 }, () => logIn(harness, kind, code)))
    expect(replies.map(({ status }) => status)).toEqual(Array.from(replies, () => 200))
    expect(new Set(replies.map(({ body }) => body.token)).size).toBe(1)
    expect(harness.wechat.history({ code })).toHaveLength(1)
  })

  test('a code that the platform does not know, or of another app, is refused', async () => {
    const harness = await setUp()
    const other = KINDS.find((one) => one !== kind) ?? kind
    for (const code of ['0'.repeat(32), issue(harness.wechat, other).code]) {
      const reply = await logIn(harness, kind, code)
      expect(reply.status).toBe(401)
      expect(reply.body).toMatchObject({ code: 'code_invalid', retry: 'new_code' })
    }
    const errcode = kind === 'douyin' ? '40018' : '40029'
    expect(await harness.metric('wechat_errcode_total', { kind, errcode })).toBe(2)
  })

  test('a code that somebody else has used is refused, in the words the platform has for it', async () => {
    const elsewhere = await setUp()
    const { code } = issue(elsewhere.wechat, kind)
    expect((await logIn(elsewhere, kind, code)).status).toBe(200)
    const here = await setUp({ wechat: elsewhere.wechat })
    const tellsUsed = kind !== 'wecom' && kind !== 'douyin'
    expect((await logIn(here, kind, code)).body).toMatchObject({
      code: tellsUsed ? 'code_already_used' : 'code_invalid',
      retry: 'new_code',
    })
  })

  test('a busy platform is asked five times, and then the same code will do', async () => {
    const harness = await setUp()
    const { code } = issue(harness.wechat, kind)
    harness.wechat.addFault({ kind: 'errcode', errcode: -1, path, times: 5 })
    const reply = await logIn(harness, kind, code)
    expect(reply.status).toBe(503)
    expect(reply.body).toMatchObject({ code: 'wechat_busy', retry: 'same_code', errcode: -1 })
    expect(harness.wechat.history({ code })).toHaveLength(5)
    expect((await logIn(harness, kind, code)).status).toBe(200)
  })

  test('with wrong credentials is its operator to put right, and the others notice nothing', async () => {
    const harness = await setUp({
      secrets: { [kind]: [WRONG_SECRET] },
      ...(kind === 'wechat_component' && { componentToken: 'a-component-token-that-is-wrong' }),
    })
    const reply = await logIn(harness, kind, issue(harness.wechat, kind).code)
    expect(reply.status).toBe(503)
    const errcode = { wechat: 40125, wechat_component: 40001, wecom: 40001, qq: 40125, douyin: 40017 }[kind]
    expect(reply.body).toMatchObject({ code: 'app_misconfigured', retry: 'never', errcode })
    for (const other of KINDS.filter((one) => one !== kind)) {
      expect((await logIn(harness, other, issue(harness.wechat, other).code)).status).toBe(200)
    }
  })
})

// Of kind wechat: upstream-errcodes.test.ts. A component has no secret here.
test.each(['wecom', 'qq', 'douyin'] as const)(
  'a secret of kind %s is rotated without a failed login',
  async (kind) => {
    const harness = await setUp({ secrets: { [kind]: [WRONG_SECRET, PLATFORMS[kind].secret] } })
    for (let i = 0; i < 3; i += 1) {
      expect((await logIn(harness, kind, issue(harness.wechat, kind).code)).status).toBe(200)
    }
    // Which of the two works is found out once.
    expect(harness.wechat.history().filter((entry) => entry.secretRight === false)).toHaveLength(1)
  },
)

/** Sound but for what each answer below does to it. */
const SOUND = { session_key: 'tQY+38pdTVnAIWCBNiM1+A==', openid: 'a-user', unionid: '' }
const MEMBER = { errcode: 0, corpid: CORPID, userid: 'a-user', session_key: SOUND.session_key }

test.each<[AppKind, string, Record<string, unknown>, ErrorCode | 'a-user']>([
  ['wecom', 'that is sound', MEMBER, 'a-user'],
  ['wecom', 'of another corp', { ...MEMBER, corpid: 'ww-other' }, 'wechat_answer_invalid'],
  ['wecom', 'without a userid', { ...MEMBER, userid: undefined }, 'wechat_answer_invalid'],
  ['douyin', 'that is sound', { err_no: 0, data: SOUND }, 'a-user'],
  ['douyin', 'with an empty openid', { err_no: 0, data: { ...SOUND, openid: '' } }, 'wechat_answer_invalid'],
  ['douyin', 'without err_no', { data: SOUND }, 'wechat_answer_invalid'],
  ['douyin', 'without data', { err_no: 0, ...SOUND }, 'wechat_answer_invalid'],
  ['douyin', 'with an err_no that nobody knows', { err_no: 28_001_007, data: SOUND }, 'wechat_refused'],
  ['qq', 'that is sound', SOUND, 'a-user'],
  ['qq', 'with half of a session_key', { ...SOUND, session_key: 'AAAA' }, 'wechat_answer_invalid'],
  ['wechat_component', 'that is sound', SOUND, 'a-user'],
  ['wechat_component', 'that the app has not authorised us', { errcode: 61003 }, 'app_misconfigured'],
])('an answer of %s %s', async (kind, _what, body, outcome) => {
  const harness = await setUp()
  harness.wechat.addFault({ kind: 'body', body: JSON.stringify(body), path: PLATFORMS[kind].path })
  const reply = await logIn(harness, kind, issue(harness.wechat, kind).code)
  expect(reply.body.code ?? reply.body.openid).toBe(outcome)
})

describe('the access_token of WeCom', () => {
  test('is got once for many logins, also for those that come at once', async () => {
    const harness = await setUp()
    const { wechat } = harness
    const logins = async () => {
      const codes = Array.from({ length: 20 }, () => issue(wechat, 'wecom').code)
      return (await Promise.all(codes.map((code) => logIn(harness, 'wecom', code)))).map(
        ({ status }) => status,
      )
    }
    expect([...(await logins()), ...(await logins())]).toEqual(Array.from({ length: 40 }, () => 200))
    expect(tokenCalls(wechat)).toHaveLength(1)
  })

  // WeCom may end a token early, and the gateway learns it from a login.
  test.each([40014, 42001] as const)(
    'ended early (%i): renewed once, and all logins succeed',
    async (errcode) => {
      const harness = await setUp()
      const { wechat } = harness
      expect((await logIn(harness, 'wecom', issue(wechat, 'wecom').code)).status).toBe(200)
      expect(wechat.invalidateTokens({ appid: PLATFORMS.wecom.appid, errcode })).toBe(1)
      const codes = Array.from({ length: 20 }, () => issue(wechat, 'wecom').code)
      const replies = await Promise.all(codes.map((code) => logIn(harness, 'wecom', code)))
      expect(replies.map(({ status }) => status)).toEqual(codes.map(() => 200))
      expect(tokenCalls(wechat)).toHaveLength(2)
    },
  )

  test('that is refused however new it is: a few renewals, and no more', async () => {
    const harness = await setUp()
    const { wechat } = harness
    const { path } = PLATFORMS.wecom
    wechat.addFault({ kind: 'errcode', errcode: 40014, path })
    for (let i = 0; i < 15; i += 1) {
      const reply = await logIn(harness, 'wecom', issue(wechat, 'wecom').code)
      expect(reply.body).toMatchObject({ code: 'app_misconfigured', errcode: 40014 })
    }
    expect(tokenCalls(wechat).length).toBeLessThanOrEqual(6)
    // Nobody shut the app's gate over it: the next token may be a good one.
    wechat.clearFaults()
    expect((await logIn(harness, 'wecom', issue(wechat, 'wecom').code)).status).toBe(200)
  })

  test('that cannot be got leaves the code unused', async () => {
    const wechat = await startWechat({ apps: SIMULATED_APPS })
    const harness = await setUp({
      wechat,
      env: { WECOM_API_URLS: `${await closedHost()},${await closedHost()}` },
    })
    const { code } = issue(wechat, 'wecom')
    const reply = await logIn(harness, 'wecom', code)
    expect(reply.status).toBe(503)
    expect(reply.body).toMatchObject({ code: 'wechat_unreachable', retry: 'same_code' })
    expect(wechat.history({ code })).toHaveLength(0)
    expect((await logIn(await setUp({ wechat }), 'wecom', code)).status).toBe(200)
  })

  test('that does not come: the login ends by its deadline, and the same code will do', async () => {
    const harness = await setUp({ env: { LOGIN_DEADLINE_MS: '500' } })
    const { wechat } = harness
    const { code } = issue(wechat, 'wecom')
    const hold = wechat.addFault({ kind: 'hold', path: '/cgi-bin/gettoken', times: 1 })
    const startedMs = performance.now()
    const reply = await logIn(harness, 'wecom', code)
    expect(performance.now() - startedMs).toBeLessThan(1_500)
    expect(reply.body).toMatchObject({ code: 'wechat_unreachable', retry: 'same_code' })
    hold.release()
    // As a client does: a code is not tried without end.
    await pause(1_000 * Number(reply.headers['retry-after']))
    expect((await logIn(harness, 'wecom', code)).status).toBe(200)
  })

  test('that fails is not asked for again at once, whoever logs in', async () => {
    const harness = await setUp()
    const { wechat } = harness
    const fault = wechat.addFault({ kind: 'errcode', errcode: 40013, path: '/cgi-bin/gettoken' })
    const logins = () =>
      Promise.all(Array.from({ length: 5 }, () => logIn(harness, 'wecom', issue(wechat, 'wecom').code)))
    const startedMs = performance.now()
    for (let i = 0; i < 3; i += 1) {
      for (const { body } of await logins()) expect(body.code).toBe('app_misconfigured')
    }
    const pauses = Math.ceil((performance.now() - startedMs) / 1_000)
    expect(tokenCalls(wechat).length).toBeLessThanOrEqual(pauses)
    fault.remove()
  })

  test('a dead host is passed over', async () => {
    const wechat = await startWechat({ apps: SIMULATED_APPS })
    const harness = await setUp({ wechat, env: { WECOM_API_URLS: `${await closedHost()},${wechat.url}` } })
    expect((await logIn(harness, 'wecom', issue(wechat, 'wecom').code)).status).toBe(200)
  })
})

describe('the component_access_token', () => {
  const { appid } = PLATFORMS.wechat_component

  test('is taken from its file as soon as WeChat refuses the one before, in the same login', async () => {
    const harness = await setUp()
    const { wechat, tokensFile } = harness
    expect((await logIn(harness, 'wechat_component', issue(wechat, 'wechat_component').code)).status).toBe(
      200,
    )

    wechat.putApp({ appid, componentAccessTokens: ['another-component-token-0123'] })
    replaceFile(tokensFile, JSON.stringify({ [COMPONENT_APPID]: 'another-component-token-0123' }))
    expect((await logIn(harness, 'wechat_component', issue(wechat, 'wechat_component').code)).status).toBe(
      200,
    )
  })

  test('stays as it was when the file is gone, not JSON, too large or holds something else', async () => {
    const harness = await setUp()
    const { wechat, tokensFile } = harness
    const login = async () =>
      (await logIn(harness, 'wechat_component', issue(wechat, 'wechat_component').code)).status
    expect(await login()).toBe(200)
    for (const content of ['{"half', '[]', '{"a": 1}', JSON.stringify({ a: 'x'.repeat(70_000) })]) {
      replaceFile(tokensFile, content)
      // A refused token makes the gateway look at the file at once.
      wechat.addFault({ kind: 'errcode', errcode: 42001, appid, times: 1 })
      expect(await login()).toBe(503)
      expect(await login()).toBe(200)
    }
  })

  test('that is missing is the operator’s to provide', async () => {
    const harness = await setUp({ env: { WECHAT_COMPONENT_TOKENS_FILE: writeTemporary('{}') } })
    const reply = await logIn(harness, 'wechat_component', issue(harness.wechat, 'wechat_component').code)
    expect(reply.body).toMatchObject({ code: 'app_misconfigured', retry: 'never' })
    expect(harness.wechat.history()).toHaveLength(0)
  })

  test('an app that needs one needs the file: the start says so', () => {
    const entry = { appid, kind: 'wechat_component', component_appid: COMPONENT_APPID }
    const env = { WECHAT_APPS_FILE: writeTemporary(JSON.stringify([entry])) }
    expect(faultsOf(env)).toEqual([expect.stringMatching(/^WECHAT_COMPONENT_TOKENS_FILE is missing/)])
  })
})

test('nothing secret of any platform is in the log, whatever goes wrong', async () => {
  const wechat = await startWechat({ apps: SIMULATED_APPS })
  const env = gatewayEnvironment(wechat, { ...platformsEnvironment(wechat), LOG_LEVEL: 'trace' })
  const gateway = await startGatewayProcess(env)
  const codes: string[] = []
  const sessionKeys: string[] = []
  for (const kind of KINDS) {
    const { path } = PLATFORMS[kind]
    for (const fault of [undefined, 'reset', 'garbage', 'html', 'errcode'] as const) {
      if (fault === 'errcode') wechat.addFault({ kind: fault, errcode: 42001, path, times: 1 })
      else if (fault !== undefined) wechat.addFault({ kind: fault, path, times: 1 })
      const { code } = issue(wechat, kind, 'a-user')
      codes.push(code)
      const [user] = wechat.users({ appid: PLATFORMS[kind].appid, openid: 'a-user' })
      sessionKeys.push(user?.sessionKey ?? '')
      await logIn(gateway, kind, code)
      wechat.clearFaults()
    }
  }
  // While it lives, WeCom gives everybody the same.
  const client = createClient(wechat)
  onTestFinished(() => client.close())
  const credentials = { corpid: CORPID, corpsecret: PLATFORMS.wecom.secret }
  const accessToken = parse((await client.get('/cgi-bin/gettoken', credentials)).text)['access_token']
  expect(tokenCalls(wechat).length).toBeGreaterThan(1)

  const metrics = (await gateway.admin.get('/metrics')).text
  const output = gateway.output() + metrics
  expect(output).toContain('WeChat failed')
  const secrets = KINDS.flatMap((kind) => ('secret' in PLATFORMS[kind] ? [PLATFORMS[kind].secret] : []))
  expect(new Set(sessionKeys).size).toBe(codes.length)
  const planted = [...secrets, COMPONENT_TOKEN, String(accessToken), ...sessionKeys, ...codes]
  expect(planted.filter((secret) => output.includes(String(secret)))).toEqual([])
})
