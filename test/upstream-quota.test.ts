/** 45011, WeChat's quota: one user's is that user's alone; an app's shuts the app's gate until WeChat takes it again. */
import { describe, expect, test } from 'vitest'
import { createQuotaGates, GROUPS_MIN } from '../src/wechat/quota-gate.ts'
import { createAppsAdmin, newWechatApp } from './harness/apps-admin.ts'
import { APPID } from './harness/environment.ts'
import { startHarness } from './harness/gateway.ts'
import { until } from './harness/until.ts'

/** As in src/wechat/quota-gate.ts. */
const CALLS_MIN = 20
const PROBE_INTERVAL_MS = 1_000
const RETURN_SECONDS_MAX = 60

/** A gateway behind a proxy, so that every login can come from an address of its own; with two apps. */
async function start() {
  const harness = await startHarness({ env: { TRUST_PROXY: '127.0.0.1', LOG_LEVEL: 'silent' } })
  const { wechat, login, metric } = harness
  const other = newWechatApp(wechat)
  await createAppsAdmin(harness).add({ appid: other.appid, secret: other.secret })
  let count = 0
  return {
    wechat,
    other: other.appid,
    newAddress: () => `198.51.100.${(count += 1) % 250}`,
    logIn: (ip: string, { appid = APPID, openid }: { appid?: string; openid?: string } = {}) =>
      login(
        { code: wechat.issueCode({ appid, ...(openid === undefined ? {} : { openid }) }).code, appid },
        { 'x-forwarded-for': ip },
      ),
    callsOf: (appid = APPID) => wechat.history({ appid }).length,
    isGated: async () => (await metric('wechat_app_gated', { appid: APPID, why: 'rate_limited' })) === 1,
  }
}

describe('an app whose quota is used up', () => {
  test('is not asked for any more but for a probe a second; the other app notices nothing', async () => {
    const { wechat, other, newAddress, logIn, callsOf, isGated } = await start()
    wechat.addFault({ kind: 'errcode', errcode: 45011, appid: APPID })
    for (let i = 0; i < CALLS_MIN; i += 1) expect((await logIn(newAddress())).status).toBe(429)
    expect(await isGated()).toBe(true)

    const startedMs = performance.now()
    const before = callsOf()
    for (let i = 0; i < 100; i += 1) {
      const reply = await logIn(newAddress())
      expect(reply.status).toBe(429)
      expect(reply.body).toMatchObject({ code: 'wechat_rate_limited', retry: 'same_code' })
      const seconds = Number(reply.headers['retry-after'])
      expect(seconds).toBeGreaterThanOrEqual(1)
      expect(seconds).toBeLessThanOrEqual(RETURN_SECONDS_MAX)
      expect((await logIn(newAddress(), { appid: other })).status).toBe(200)
    }
    const probes = 1 + Math.floor((performance.now() - startedMs) / PROBE_INTERVAL_MS)
    expect(callsOf() - before).toBeLessThanOrEqual(probes)
    expect(callsOf(other)).toBe(100)
  })

  test('is taken again as soon as a probe says so', async () => {
    const { wechat, newAddress, logIn, callsOf, isGated } = await start()
    const rule = wechat.addFault({ kind: 'errcode', errcode: 45011, appid: APPID })
    for (let i = 0; i < CALLS_MIN; i += 1) await logIn(newAddress())
    rule.remove()
    const before = callsOf()
    await until('a probe', async () => (await logIn(newAddress())).status === 200)
    expect(callsOf()).toBe(before + 1)
    expect(await isGated()).toBe(false)
    for (let i = 0; i < 10; i += 1) expect((await logIn(newAddress())).status).toBe(200)
  })
})

describe('45011', () => {
  test('for one user in a loop, whatever the networks, is nothing to the others', async () => {
    const { wechat, newAddress, logIn, isGated } = await start()
    wechat.addFault({ kind: 'errcode', errcode: 45011, openid: 'o-in-a-loop' })
    for (let i = 0; i < 3 * CALLS_MIN; i += 1) {
      expect((await logIn(newAddress(), { openid: 'o-in-a-loop' })).status).toBe(429)
      for (let j = 0; j < 2; j += 1) expect((await logIn(newAddress())).status).toBe(200)
    }
    expect(await isGated()).toBe(false)
  })

  // An abuser has many accounts, but not many networks: here an IPv6 /64 and some addresses.
  test('for an abuser with few addresses does not gate the app', async () => {
    const { wechat, logIn, isGated } = await start()
    wechat.addFault({ kind: 'errcode', errcode: 45011 })
    const addresses = [
      ...Array.from({ length: 40 }, (_, i) => `2001:db8:1:2::${i}`),
      ...Array.from({ length: GROUPS_MIN - 2 }, (_, i) => `203.0.113.${i}`),
    ]
    for (const ip of addresses) expect((await logIn(ip)).body.errcode).toBe(45011)
    expect(await isGated()).toBe(false)
    wechat.clearFaults()
    expect((await logIn('203.0.113.200')).status).toBe(200)
  })
})

/** One with a clock to move. */
function createGate() {
  let nowMs = 0
  const told: boolean[] = []
  const gates = createQuotaGates(
    (_appid, shut) => told.push(shut),
    () => nowMs,
  )
  const answer = (count: number, limited: boolean, network = 0) => {
    for (let i = 0; i < count; i += 1) gates.answered('app', `10.0.${network}.${i}`, limited)
  }
  const isAdmitted = () => {
    try {
      gates.admit('app')
      return true
    } catch {
      return false
    }
  }
  return { gates, told, answer, isAdmitted, pass: (ms: number) => (nowMs += ms) }
}

describe('a gate', () => {
  test('shuts at the twentieth call, if more than half were limited', () => {
    const { gates, answer, isAdmitted } = createGate()
    answer(CALLS_MIN - 1, true)
    expect([gates.isShut('app'), isAdmitted()]).toEqual([false, true])
    answer(1, true, 1)
    expect([gates.isShut('app'), isAdmitted()]).toEqual([true, false])
  })

  test('does not shut for half of the calls', () => {
    const { gates, answer } = createGate()
    for (let i = 0; i < 200; i += 1) answer(1, i % 2 === 0, i % 2)
    expect(gates.isShut('app')).toBe(false)
  })

  test('forgets what is older than ten seconds', () => {
    const { gates, answer, pass } = createGate()
    answer(CALLS_MIN - 1, true)
    pass(10_000)
    answer(CALLS_MIN - 1, true)
    expect(gates.isShut('app')).toBe(false)
  })

  test('lets one through a second, and opens for no answer but a probe’s', () => {
    const { gates, told, answer, isAdmitted, pass } = createGate()
    answer(CALLS_MIN, true)
    // On its way when the gate shut.
    answer(1, false)
    expect([isAdmitted(), told]).toEqual([false, [true]])
    pass(PROBE_INTERVAL_MS)
    expect([isAdmitted(), isAdmitted()]).toEqual([true, false])
    answer(1, true)
    expect([isAdmitted(), gates.isShut('app')]).toEqual([false, true])
    pass(PROBE_INTERVAL_MS)
    expect(isAdmitted()).toBe(true)
    answer(1, false)
    expect([isAdmitted(), isAdmitted(), told]).toEqual([true, true, [true, false]])
  })

  test('is of its app alone', () => {
    const { gates, answer } = createGate()
    answer(CALLS_MIN, true)
    expect(() => gates.admit('another')).not.toThrow()
  })
})
