/** An app that WeChat refuses for its configuration: answered for by ourselves, alone, until it is put right. */
import { describe, expect, test } from 'vitest'
import { parseAppEntry } from '../src/app-entry.ts'
import { createAppGates, GATE_REFUSALS } from '../src/wechat/app-gate.ts'
import { createAppsAdmin, newApp, newWechatApp } from './harness/apps-admin.ts'
import { APPID } from './harness/environment.ts'
import { metricIn, startHarness } from './harness/gateway.ts'
import { until } from './harness/until.ts'

/** A probe every 10 s, and what a busy machine may take. */
const PROBE_MS_MAX = 12_000

/** A gateway with one app that is sound and one whose AppSecret WeChat does not know. */
async function startWithRefusedApp() {
  const harness = await startHarness({ env: { LOG_LEVEL: 'silent' } })
  const { wechat, login } = harness
  const apps = createAppsAdmin(harness)
  const { appid, secret } = newWechatApp(wechat)
  const configured = newApp().secret
  await apps.add({ appid, secret: configured })
  const logIn = (of = appid) => login({ code: wechat.issueCode({ appid: of }).code, appid: of })
  const callsOf = (of = appid) => wechat.history({ appid: of }).length
  return { ...harness, apps, refused: { appid, secret, configured }, logIn, callsOf }
}

describe('an app that WeChat refuses', () => {
  test('is not asked for any more, while the other app notices nothing', async () => {
    const { logIn, callsOf, metric, refused, apps, wechat } = await startWithRefusedApp()
    for (let i = 0; i < 20; i += 1) {
      const reply = await logIn()
      expect(reply.status).toBe(503)
      expect(reply.body).toMatchObject({ code: 'app_misconfigured', retry: 'never', errcode: 40125 })
      expect((await logIn(APPID)).status).toBe(200)
    }
    expect(callsOf()).toBe(GATE_REFUSALS)
    expect(callsOf(APPID)).toBe(20)
    expect(await metric('wechat_breaker_state', { host: new URL(wechat.url).host })).toBe(0)
    expect(await metric('wechat_app_gated', { appid: refused.appid })).toBe(1)
    expect((await apps.list()).map((app) => app['refused_with'])).toEqual([undefined, 40125])
  })

  test('is found right by a probe within 10 s, and all its logins work again', async () => {
    const { logIn, callsOf, wechat, refused } = await startWithRefusedApp()
    wechat.putApp({ appid: refused.appid, secretFrozen: true })
    for (let i = 0; i < GATE_REFUSALS; i += 1) await logIn()
    wechat.putApp({ appid: refused.appid, secretFrozen: false, secret: refused.configured })
    const before = callsOf()
    await until('a probe', async () => (await logIn()).status === 200, PROBE_MS_MAX)
    expect(callsOf()).toBe(before + 1)
    for (let i = 0; i < 5; i += 1) expect((await logIn()).status).toBe(200)
  }, 20_000)

  test('is asked for at once when it is given a new secret', async () => {
    const { logIn, apps, refused, callsOf, admin } = await startWithRefusedApp()
    for (let i = 0; i < GATE_REFUSALS + 1; i += 1) expect((await logIn()).status).toBe(503)
    expect(callsOf()).toBe(GATE_REFUSALS)
    await apps.rotate(refused.appid, { secret: refused.secret })
    expect((await logIn()).status).toBe(200)
    const { text } = await admin.get('/metrics')
    expect(metricIn(text, 'wechat_app_gated', { appid: refused.appid })).toBe(0)
  })

  test.each([40013, 40164, 40243, 41002, 41004])('with errcode %i is gated as well', async (errcode) => {
    const { wechat, logIn, callsOf } = await startWithRefusedApp()
    wechat.addFault({ kind: 'errcode', errcode, appid: APPID })
    for (let i = 0; i < GATE_REFUSALS + 5; i += 1)
      expect((await logIn(APPID)).body).toMatchObject({ code: 'app_misconfigured', errcode })
    expect(callsOf(APPID)).toBe(GATE_REFUSALS)
  })

  // What a user can bring about must not shut the app for the others.
  test.each([40029, 40163, 40226, 45011, 50002, 41008, 48001])(
    'is not one with errcode %i',
    async (errcode) => {
      const { wechat, logIn, callsOf } = await startWithRefusedApp()
      wechat.addFault({ kind: 'errcode', errcode, appid: APPID })
      for (let i = 0; i < 3 * GATE_REFUSALS; i += 1) await logIn(APPID)
      expect(callsOf(APPID)).toBe(3 * GATE_REFUSALS)
    },
  )

  test('now and then, with good answers in between, is not gated', async () => {
    const { wechat, logIn, callsOf } = await startWithRefusedApp()
    for (let i = 0; i < 10; i += 1) {
      wechat.addFault({ kind: 'errcode', errcode: 40164, appid: APPID, times: GATE_REFUSALS - 1 })
      for (let j = 1; j < GATE_REFUSALS; j += 1) expect((await logIn(APPID)).status).toBe(503)
      expect((await logIn(APPID)).status).toBe(200)
    }
    expect(callsOf(APPID)).toBe(10 * GATE_REFUSALS)
  })
})

describe('a gate', () => {
  const app = parseAppEntry({ ...newApp() })

  function createGate() {
    let nowMs = 0
    const told: (number | undefined)[] = []
    const gates = createAppGates(
      (_appid, errcode) => told.push(errcode),
      () => nowMs,
    )
    const admitted = () => {
      try {
        gates.admit(app)
        return true
      } catch (error) {
        return (error as { retryAfterSeconds: number }).retryAfterSeconds
      }
    }
    return { gates, told, admitted, pass: (ms: number) => (nowMs += ms) }
  }

  test('lets one probe through every 10 s, and says when', () => {
    const { gates, told, admitted, pass } = createGate()
    for (let i = 0; i < GATE_REFUSALS; i += 1) gates.refused(app, 40125)
    expect([admitted(), told]).toEqual([10, [40125]])
    pass(9_500)
    expect(admitted()).toBe(1)
    pass(500)
    expect([admitted(), admitted()]).toEqual([true, 10])
    // The probe has brought no answer at all: the next one is due.
    pass(10_000)
    expect(admitted()).toBe(true)
    gates.refused(app, 40164)
    expect([admitted(), gates.shutBy(app)]).toEqual([10, 40164])
    pass(10_000)
    expect(admitted()).toBe(true)
    gates.accepted(app)
    expect([admitted(), admitted(), gates.shutBy(app)]).toEqual([true, true, undefined])
    expect(told).toEqual([40125, undefined])
  })

  test('lets the next one through when its probe has not asked, and only then', () => {
    const { gates, admitted, pass } = createGate()
    gates.unasked(app)
    for (let i = 0; i < GATE_REFUSALS; i += 1) gates.refused(app, 40125)
    gates.unasked(app) // was admitted before it shut
    expect(admitted()).toBe(10)
    pass(10_000)
    expect([admitted(), admitted()]).toEqual([true, 10])
    gates.unasked(app)
    expect([admitted(), admitted()]).toEqual([true, 10])
    gates.refused(app, 40125)
    gates.unasked(app)
    expect(admitted()).toBe(10)
  })

  test('is open for an app that has changed', () => {
    const { gates } = createGate()
    for (let i = 0; i < GATE_REFUSALS; i += 1) gates.refused(app, 40125)
    const changed = { ...app }
    expect(() => gates.admit(changed)).not.toThrow()
    expect(() => gates.admit(app)).toThrow('refuses this app')
    expect(gates.shutBy(changed)).toBeUndefined()
  })

  test('is shut for an app whose secret is not to be had', () => {
    const { gates } = createGate()
    expect(() => gates.admit({ ...app, secrets: [] })).toThrow('refuses this app')
    expect(() => gates.admit({ ...app, kind: 'wechat_component', secrets: [] })).not.toThrow()
  })
})
