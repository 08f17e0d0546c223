/**
 * Message pushes of WeChat at the front door: what they lead to, and what becomes of them while Redis
 * is in trouble. The simulated WeChat encrypts and signs by code of its own.
 */
import { describe, expect, onTestFinished, test } from 'vitest'
import { startStandalone } from './faults/redis-servers.ts'
import { createAppsAdmin, newWechatApp } from './harness/apps-admin.ts'
import { dumpRedis } from './harness/dumps.ts'
import { APPID, gatewayEnvironment, SIMULATED } from './harness/environment.ts'
import { nowSeconds, OPENID, REVOKE, sendSafe, validates } from './harness/forged-pushes.ts'
import { startHarness } from './harness/gateway.ts'
import { expectProblem, MARK } from './harness/problem.ts'
import { startGatewayProcess } from './harness/processes.ts'
import {
  doErasures,
  newAesKey,
  newPushToken,
  outcomes,
  PUSH_TIMEOUT_MS,
  queuedErasures,
  startPushHarness,
} from './harness/pushes.ts'
import { logIn } from './harness/session-values.ts'
import { until } from './harness/until.ts'
import { writeMessage } from './simulator/push-envelope.ts'
import { startSimulator } from './simulator/server.ts'

/** WeChat hangs up after this. */
const WECHAT_WAITS_MS = 5_000
const DELIVERED = { delivered: true, attempts: [expect.objectContaining({ status: 200, body: 'success' })] }

describe.each([
  ['plain', 'xml'],
  ['plain', 'json'],
  ['compatible', 'xml'],
  ['compatible', 'json'],
  ['safe', 'xml'],
  ['safe', 'json'],
] as const)('in %s mode and %s', (mode, format) => {
  test.each(['user_authorization_revoke', 'user_authorization_cancellation'])(
    '%s ends the sessions of that user, and queues their erasure as the administrator does',
    async (event) => {
      const harness = await startPushHarness({ mode, format })
      expect(await harness.wechat.checkPushUrl()).toBe(true)
      const user = await logIn(harness, { openid: OPENID })
      const bystander = await logIn(harness)
      expect(await harness.wechat.push({ event, openid: OPENID, revokeInfo: '1' })).toEqual(DELIVERED)

      expect(await validates(harness, user.token)).toBe(false)
      expect(await validates(harness, bystander.token)).toBe(true)
      const [job, ...others] = await queuedErasures(harness)
      expect(others).toEqual([])
      expect(job).toMatchObject({ v: 1, sub: user.sub, appid: APPID, openid: OPENID, receipt: job?.id })
      expect(job?.erasedAtMs).toBeGreaterThan(Date.now() - 60_000)
      const receipt = await harness.admin.send('GET', `/erasures/${job?.receipt}`, {
        headers: { authorization: `Bearer ${harness.env['ADMIN_TOKEN']}` },
      })
      expect(receipt.body).toMatchObject({ state: 'pending', sessions: 1 })
      expect(await outcomes(harness, event, 'erased')).toBe(1)
    },
  )
})

test('gateways that keep sessions in memory hear of it', async () => {
  const env = { SESSION_CACHE_SECONDS: '5' }
  const first = await startPushHarness({}, { env })
  const { TOKEN_KEYS = '', SEAL_KEYS = '', KEY_PREFIX = '' } = first.env
  const second = await startHarness({
    wechat: first.wechat,
    env: { ...env, TOKEN_KEYS, SEAL_KEYS, KEY_PREFIX },
  })
  const { token } = await logIn(first, { openid: OPENID })
  expect(await validates(second, token)).toBe(true)
  await first.wechat.push({ openid: OPENID })
  await until('the session to be gone there', async () => !(await validates(second, token)), 1_000)
})

describe('an event that comes again', () => {
  test('after it was acknowledged does nothing, also when its user has come back', async () => {
    const harness = await startPushHarness()
    await logIn(harness, { openid: OPENID })
    const event = { openid: OPENID, createTime: nowSeconds() }
    expect(await harness.wechat.push(event)).toEqual(DELIVERED)
    await doErasures(harness)
    const back = await logIn(harness, { openid: OPENID })
    expect(await harness.wechat.push(event)).toEqual(DELIVERED)
    expect(await validates(harness, back.token)).toBe(true)
    expect(await queuedErasures(harness)).toEqual([])
    expect(await outcomes(harness, 'user_authorization_revoke', 'repeated')).toBe(1)

    // Another one is another one.
    expect(await harness.wechat.push({ ...event, createTime: event.createTime + 1 })).toEqual(DELIVERED)
    expect(await validates(harness, back.token)).toBe(false)
    expect(await queuedErasures(harness)).toHaveLength(1)
  })

  test('at the same time, many times over, is one job', async () => {
    const harness = await startPushHarness()
    const { sub } = await logIn(harness, { openid: OPENID })
    const event = { openid: OPENID, createTime: nowSeconds(), attempts: 1 }
    const reports = await Promise.all(Array.from({ length: 30 }, () => harness.wechat.push(event)))
    expect(reports).toEqual(reports.map(() => DELIVERED))
    expect(await queuedErasures(harness)).toMatchObject([{ sub }])
  })

  test('before it was acknowledged is taken, and goes on where the first attempt ended', async () => {
    const harness = await startPushHarness({}, { env: { LOG_LEVEL: 'silent' } })
    await logIn(harness, { openid: OPENID })
    // The queue cannot be written: BullMQ finds a word where its count of jobs should be.
    const count = `${harness.keys.queue('erase')}:erase:id`
    await harness.redis.set(count, 'in the way')
    const report = harness.wechat.push({ openid: OPENID })
    await until('an attempt to have failed', async () =>
      outcomes(harness, 'user_authorization_revoke', 'store_unavailable').then((count) => count > 0),
    )
    await harness.redis.del(count)
    const { delivered, attempts } = await report
    expect(delivered).toBe(true)
    expect(attempts.map(({ status }) => status).slice(0, -1)).toEqual(attempts.slice(1).map(() => 503))
    const [job, ...others] = await queuedErasures(harness)
    expect([job?.openid, others]).toEqual([OPENID, []])
    // One receipt for all attempts: the sessions that the first one has ended are in it.
    expect(await harness.redis.hget(harness.keys.erasure(job?.receipt ?? ''), 'sessions')).toBe('1')
  })
})

test('where single items shall not erase anybody they log the user out, once; all of them, and a closed account, erase', async () => {
  const harness = await startPushHarness({}, { env: { WECHAT_PUSH_REVOKE_ERASES: 'false' } })
  const item = { openid: OPENID, revokeInfo: '7', createTime: nowSeconds() }
  const { token } = await logIn(harness, { openid: OPENID })
  expect(await harness.wechat.push(item)).toEqual(DELIVERED)
  expect(await validates(harness, token)).toBe(false)
  const back = await logIn(harness, { openid: OPENID })
  expect(await harness.wechat.push(item)).toEqual(DELIVERED)
  expect(await validates(harness, back.token)).toBe(true)
  expect(await queuedErasures(harness)).toEqual([])
  expect(await outcomes(harness, 'user_authorization_revoke', 'logged_out')).toBe(1)

  const event = 'user_authorization_cancellation'
  for (const own of [{ revokeInfo: '301' }, {}, { event }, { event, revokeInfo: '7' }])
    expect(await harness.wechat.push({ openid: OPENID, ...own })).toEqual(DELIVERED)
  expect(await queuedErasures(harness)).toHaveLength(4)
})

test('what asks for nothing is acknowledged, counted by kind, and nobody is logged out', async () => {
  const harness = await startPushHarness({ format: 'json' })
  const { token } = await logIn(harness, { openid: OPENID })
  const push = (own: object) => harness.wechat.push({ openid: OPENID, attempts: 1, ...own })
  const cases: [string, string, object][] = [
    ['user_info_modified', 'ignored', { event: 'user_info_modified' }],
    ['user_authorization_revoke', 'no_user', { fields: { OpenID: null } }],
    ['user_authorization_revoke', 'no_user', { fields: { OpenID: 'o with blanks' } }],
    ['wxa_punish_event', 'ignored', { event: 'wxa_punish_event' }],
    ['other_event', 'ignored', { event: 'event_of_next_year' }],
    ['text', 'ignored', { fields: { MsgType: 'text', Content: 'hello', Event: null } }],
    ['other_message', 'ignored', { fields: { MsgType: 'hologram', Event: null } }],
  ]
  for (const [, , own] of cases) expect(await push(own)).toEqual(DELIVERED)
  for (const [type, outcome] of cases)
    expect(await outcomes(harness, type, outcome), type).toBe(outcome === 'no_user' ? 2 : 1)
  expect(await queuedErasures(harness)).toEqual([])
  expect(await validates(harness, token)).toBe(true)
})

/** On a Redis of its own, which may be stopped and filled. */
async function startWithRedis() {
  const redis = await startStandalone()
  onTestFinished(() => redis.close())
  const env = { ...redis.env, KEY_PREFIX: '', LOG_LEVEL: 'silent', REDIS_COMMAND_TIMEOUT_MS: '2000' }
  return {
    harness: await startPushHarness({}, { env, simulator: { ...SIMULATED, pushTimeoutMs: PUSH_TIMEOUT_MS } }),
    redis,
  }
}

describe('while Redis', () => {
  test('hangs, an event is not acknowledged, in time for WeChat to hear so, and comes through afterwards', async () => {
    const { harness, redis } = await startWithRedis()
    await logIn(harness, { openid: OPENID })
    redis.node.stop()
    const startedMs = performance.now()
    const refused = await sendSafe(harness)
    expect([refused.status, refused.body.code]).toEqual([503, 'store_unavailable'])
    expect(performance.now() - startedMs).toBeLessThan(WECHAT_WAITS_MS)
    // Whoever has no token costs no command: the answer is the same.
    const hostile = await sendSafe(harness, { token: newPushToken() })
    expect(expectProblem(hostile, 'unsigned').code).toBe('push_unsigned')

    const report = harness.wechat.push({ openid: OPENID, attempts: 20 })
    redis.node.resume()
    expect(await report).toMatchObject({ delivered: true })
    expect(await queuedErasures(harness)).toMatchObject([{ openid: OPENID }])
  })

  test('is full, an event is not acknowledged, and comes through when there is room again', async () => {
    const { harness, redis } = await startWithRedis()
    await logIn(harness, { openid: OPENID })
    await redis.admin.config('SET', 'maxmemory', '1')
    const event = { openid: OPENID, createTime: nowSeconds() }
    const { delivered, attempts } = await harness.wechat.push({ ...event, attempts: 2 })
    expect([delivered, attempts.map(({ status }) => status)]).toEqual([false, [503, 503]])
    await redis.admin.config('SET', 'maxmemory', '0')
    expect(await harness.wechat.push(event)).toEqual(DELIVERED)
    expect(await queuedErasures(harness)).toMatchObject([{ openid: OPENID }])
  })
})

describe('token and key', () => {
  test('are changed without losing a message: the old and the new count together', async () => {
    const [oldToken, oldKey, newToken, newKey] = [newPushToken(), newAesKey(), newPushToken(), newAesKey()]
    const env = { WECHAT_PUSH_TOKEN: `${newToken},${oldToken}`, WECHAT_PUSH_AES_KEY: `${newKey},${oldKey}` }
    const harness = await startPushHarness({}, { env })
    for (const token of [oldToken, newToken])
      for (const aesKey of [oldKey, newKey]) {
        const message = writeMessage(
          { ...REVOKE, CreateTime: nowSeconds(), OpenID: `o-${token}${aesKey}`.slice(0, 60) },
          'xml',
        )
        expect((await sendSafe(harness, { token, aesKey, message })).text).toBe('success')
      }
    expect(await outcomes(harness, 'user_authorization_revoke', 'erased')).toBe(4)
  })

  test('of an app that was added at run time are sealed in Redis, shown to nobody, changed and taken away', async () => {
    const harness = await startHarness({ simulator: { pushTimeoutMs: PUSH_TIMEOUT_MS } })
    const apps = createAppsAdmin(harness)
    const app = newWechatApp(harness.wechat)
    const own = { token: newPushToken(), aesKey: newAesKey() }
    const url = `${harness.url}/push/${app.appid}`
    const pushed = () => harness.wechat.push({ appid: app.appid, attempts: 1 })
    harness.wechat.putApp({ appid: app.appid, push: { url, mode: 'safe', format: 'xml', ...own } })

    const added = await apps.add({ ...app, push: { token: own.token, aes_key: own.aesKey } })
    expect([added.status, added.body['push']]).toEqual([201, 'encrypted'])
    expect(await pushed()).toEqual(DELIVERED)
    const shown =
      JSON.stringify(await apps.list()) + (await dumpRedis(harness.redis, `${harness.env['KEY_PREFIX']}*`))
    const bytes = Buffer.from(own.aesKey, 'base64').toString('latin1')
    for (const secret of [own.token, own.aesKey, bytes]) expect(shown).not.toContain(secret)

    const next = { token: newPushToken(), aesKey: newAesKey() }
    const both = { token: [next.token, own.token], aes_key: [next.aesKey, own.aesKey] }
    expect((await apps.call('PUT', `/apps/${app.appid}/push`, both)).body['push']).toBe('encrypted')
    expect(await pushed()).toEqual(DELIVERED)
    harness.wechat.putApp({ appid: app.appid, push: { url, mode: 'safe', format: 'xml', ...next } })
    expect(await pushed()).toEqual(DELIVERED)
    const plain = await apps.call('PUT', `/apps/${app.appid}/push`, { token: next.token })
    expect(plain.body['push']).toBe('plain')

    expect((await apps.call('DELETE', `/apps/${app.appid}/push`)).status).toBe(204)
    expect((await pushed()).attempts).toMatchObject([{ status: 404 }])
    for (const [appid, code] of [
      [APPID, 'app_static'],
      ['wxnobody', 'appid_unknown'],
    ] as const)
      expect((await apps.call('PUT', `/apps/${appid}/push`, both)).body.code).toBe(code)
    for (const faulty of [
      {},
      { token: 'x' },
      { token: own.token, aes_key: 'short' },
      { ...both, mode: MARK },
    ])
      expect(expectProblem(await apps.call('PUT', `/apps/${app.appid}/push`, faulty), 'faulty').code).toBe(
        'request_invalid',
      )
  })
})

test('nothing of a message, and neither token nor key, is in the log or the metrics', async () => {
  const wechat = await startSimulator({ ...SIMULATED, pushTimeoutMs: PUSH_TIMEOUT_MS })
  onTestFinished(() => wechat.close())
  const push = { token: newPushToken(), aesKey: newAesKey() }
  const env = gatewayEnvironment(wechat, {
    LOG_LEVEL: 'trace',
    WECHAT_PUSH_TOKEN: push.token,
    WECHAT_PUSH_AES_KEY: push.aesKey,
  })
  const gateway = await startGatewayProcess(env)
  wechat.putApp({
    appid: APPID,
    push: { url: `${gateway.url}/push/${APPID}`, mode: 'compatible', format: 'json', ...push },
  })
  expect(await wechat.push({ openid: OPENID, fields: { UnionID: 'u-of-them' } })).toEqual(DELIVERED)
  expect((await wechat.push({ openid: OPENID, mode: 'plain', attempts: 1 })).delivered).toBe(false)
  expect((await wechat.push({ openid: OPENID, fields: { AppID: 'wx-other' }, attempts: 1 })).delivered).toBe(
    false,
  )
  expect(await wechat.checkPushUrl()).toBe(true)
  const { text } = await gateway.admin.get('/metrics')
  await until('the log', () => gateway.output().split('/push/:appid').length > 4)
  for (const trace of [
    ...Object.values(push),
    OPENID,
    'u-of-them',
    'gh_870882ca4b1',
    'owAqB1v0',
    'signature',
  ])
    expect(gateway.output() + text, trace).not.toContain(trace)
})
