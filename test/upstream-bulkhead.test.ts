/** Slots for the calls of WeChat: how many run, who waits, and what one app may take from the others. */
import { describe, expect, test } from 'vitest'
import { startDeadline } from '../src/deadline.ts'
import { createBulkhead, SLOTS } from '../src/wechat/bulkhead.ts'
import type { BulkheadRefusal } from '../src/wechat/bulkhead.ts'
import { createAppsAdmin, newWechatApp } from './harness/apps-admin.ts'
import { APPID } from './harness/environment.ts'
import { startHarness } from './harness/gateway.ts'
import { until } from './harness/until.ts'

/** As in src/wechat/bulkhead.ts. */
const WAIT_MS_MAX = 500
const LIVE_MS = 60_000
/** What an answer may take that waits for nothing, on a machine with other things to do. */
const AT_ONCE_MS = 250
const LOGIN_MS = 3_000

/** A bulkhead with a clock to move, whose calls end when they are told to. */
function createStage() {
  let nowMs = 0
  const refusals: BulkheadRefusal[] = []
  const bulkhead = createBulkhead(
    (why) => refusals.push(why),
    () => nowMs,
  )
  const running = new Map<string, (() => void)[]>()
  const call = (appid: string, deadline = startDeadline(LOGIN_MS)) =>
    bulkhead.run(appid, deadline, async () => {
      const { promise, resolve } = Promise.withResolvers<void>()
      running.set(appid, [...(running.get(appid) ?? []), resolve])
      await promise
    })
  return {
    bulkhead,
    refusals,
    /** Begins calls; nobody waits for their end here. */
    begin(appid: string, count: number) {
      for (let i = 0; i < count; i += 1) call(appid).catch(() => {})
    },
    call,
    runningOf: (appid: string) => running.get(appid)?.length ?? 0,
    /** Lets the oldest call of the app end. */
    async end(appid: string) {
      running.get(appid)?.shift()?.()
      await new Promise(setImmediate)
    },
    pass: (ms: number) => (nowMs += ms),
  }
}

describe('the slots', () => {
  test('are all for an app that is alone', () => {
    const { begin, runningOf, bulkhead } = createStage()
    begin('one', SLOTS)
    expect([runningOf('one'), bulkhead.counts()]).toEqual([SLOTS, { running: SLOTS, waiting: 0 }])
  })

  test('are half for an app, however much it asks, when another one is there', () => {
    const { begin, runningOf } = createStage()
    begin('other', 1)
    begin('greedy', 2 * SLOTS)
    expect(runningOf('greedy')).toBeLessThanOrEqual(SLOTS / 2)
    expect(runningOf('greedy')).toBeGreaterThan(SLOTS / 2 - 3)
    begin('other', 20)
    expect(runningOf('other')).toBeGreaterThan(10)
  })

  test('leave room for one more when several apps are greedy', async () => {
    const { begin, end, runningOf } = createStage()
    begin('modest', 1)
    await end('modest')
    for (let i = 0; i < 5; i += 1) begin(`greedy ${i}`, SLOTS)
    begin('modest', 1)
    expect(runningOf('modest')).toBe(1)
  })

  test('are all for an app again when the other one has not asked for a minute', async () => {
    const { begin, runningOf, end, pass } = createStage()
    begin('other', 1)
    await end('other')
    begin('one', SLOTS)
    expect(runningOf('one')).toBe(SLOTS / 2)
    pass(LIVE_MS + 1)
    begin('one', SLOTS)
    expect(runningOf('one')).toBe(SLOTS)
  })

  test('come back from an app that had them all when another one asks', async () => {
    const { begin, runningOf, end } = createStage()
    begin('one', SLOTS)
    begin('other', 3)
    begin('one', 3)
    expect(runningOf('other')).toBe(0)
    await end('one')
    await end('one')
    expect([runningOf('one'), runningOf('other')]).toEqual([SLOTS - 2, 1])
    for (let i = 0; i < 6; i += 1) await end('one')
    expect(runningOf('other')).toBe(3)
  })

  test('are given back by a call that fails', async () => {
    const { bulkhead } = createStage()
    const failing = bulkhead.run('one', startDeadline(LOGIN_MS), () => Promise.reject(new Error('failed')))
    await expect(failing).rejects.toThrow('failed')
    expect(bulkhead.counts()).toEqual({ running: 0, waiting: 0 })
  })
})

describe('without a free slot', () => {
  test('a call gets the next one that comes free, in its turn', async () => {
    const { begin, bulkhead, end, refusals, runningOf } = createStage()
    begin('one', SLOTS)
    const order: number[] = []
    const waiting = [1, 2].map((nth) =>
      bulkhead.run('one', startDeadline(LOGIN_MS), () => Promise.resolve(order.push(nth))),
    )
    expect(bulkhead.counts().waiting).toBe(2)
    await end('one')
    await Promise.all(waiting)
    expect([order, refusals, runningOf('one')]).toEqual([[1, 2], [], SLOTS - 1])
  })

  test('a call is turned away when none has come free', async () => {
    const { begin, call, refusals, bulkhead } = createStage()
    begin('one', SLOTS)
    const startedMs = performance.now()
    await expect(call('one')).rejects.toMatchObject({ code: 'overloaded', retry: 'same_code' })
    expect(performance.now() - startedMs).toBeLessThan(WAIT_MS_MAX + AT_ONCE_MS)
    expect([refusals, bulkhead.counts().waiting]).toEqual([['waited'], 0])
  })

  test('a call is turned away at once when its app has waited long enough for nothing', async () => {
    const { begin, call, pass, refusals } = createStage()
    begin('one', SLOTS)
    pass(WAIT_MS_MAX)
    await expect(call('one')).rejects.toMatchObject({ code: 'overloaded' })
    expect(refusals).toEqual(['hopeless'])
  })

  // A burst fills all slots at once, and none comes free before the first calls end: that is no sign of a hang.
  test('a burst waits as long as no call could have ended yet', () => {
    const { begin, pass, refusals, bulkhead } = createStage()
    begin('one', SLOTS)
    pass(WAIT_MS_MAX / 5)
    begin('one', SLOTS)
    expect([refusals, bulkhead.counts().waiting]).toEqual([[], SLOTS])
  })

  test('a call is turned away at once when calls take as long as it has left', async () => {
    const { begin, call, end, pass, refusals } = createStage()
    begin('one', SLOTS + 1)
    pass(2_900)
    await end('one')
    // The last one has just ended: another slot may come free soon, but a call takes 2.9 s.
    await expect(call('one', startDeadline(LOGIN_MS - 150))).rejects.toMatchObject({ code: 'overloaded' })
    expect(refusals).toEqual(['hopeless'])
  })

  test('a call does not wait into the time that it would need itself', async () => {
    const { begin, call, refusals } = createStage()
    begin('one', SLOTS)
    const startedMs = performance.now()
    await expect(call('one', startDeadline(600))).rejects.toMatchObject({ code: 'overloaded' })
    const tookMs = performance.now() - startedMs
    expect(refusals).toEqual(['waited'])
    expect(tookMs).toBeLessThan(WAIT_MS_MAX)
  })

  test('a call of another app waits for a slot that is not its own app’s', async () => {
    const { begin, bulkhead, end, pass, runningOf } = createStage()
    begin('one', SLOTS)
    pass(10_000)
    begin('other', 1)
    expect(bulkhead.counts().waiting).toBe(1)
    await end('one')
    expect(runningOf('other')).toBe(1)
  })
})

describe('a gateway whose WeChat is slow', () => {
  test('turns away what is too much, soon, and none of it has reached WeChat', async () => {
    const { login, wechat, metric } = await startHarness()
    wechat.addFault({ kind: 'delay', ms: 2_500 })
    const codes = wechat.issueCodes(SLOTS + 30)
    const startedMs = performance.now()
    const replies = await Promise.all(
      codes.map(async ({ code }) => {
        const reply = await login({ code })
        return { code, reply, tookMs: performance.now() - startedMs }
      }),
    )
    const refused = replies.filter(({ reply }) => reply.status === 503)
    expect(refused.length).toBeGreaterThanOrEqual(30)
    for (const { reply, code, tookMs } of refused.filter(({ reply }) => reply.body.code === 'overloaded')) {
      expect(reply.body.retry).toBe('same_code')
      expect(reply.headers['retry-after']).toMatch(/^[1-3]$/)
      expect(tookMs).toBeLessThan(WAIT_MS_MAX + 4 * AT_ONCE_MS)
      expect(wechat.history({ code })).toHaveLength(0)
    }
    expect(wechat.history()).toHaveLength(SLOTS)
    expect(await metric('wechat_breaker_state', { host: new URL(wechat.url).host })).toBe(0)
    expect(await metric('wechat_slots', { calls: 'exchange', state: 'running' })).toBe(0)

    wechat.clearFaults()
    const again = await Promise.all(refused.slice(0, 20).map(({ code }) => login({ code })))
    expect(again.map((reply) => reply.status)).toEqual(Array(20).fill(200))
  })

  test('for one app still serves the other', async () => {
    const harness = await startHarness()
    const { login, wechat, metric } = harness
    const { appid, secret } = newWechatApp(wechat)
    await createAppsAdmin(harness).add({ appid, secret })
    const logIn = (of: string) => login({ code: wechat.issueCode({ appid: of }).code, appid: of })
    expect((await logIn(appid)).status).toBe(200)
    wechat.addFault({ kind: 'hang_before', appid: APPID })

    const hanging = Array.from({ length: 100 }, () => logIn(APPID))
    const running = () => metric('wechat_slots', { calls: 'exchange', state: 'running' })
    await until('half of the slots to hang', async () => (await running()) >= SLOTS / 2)
    for (let i = 0; i < 20; i += 1) expect((await logIn(appid)).status).toBe(200)
    expect(await running()).toBe(SLOTS / 2)
    const refusals = (await Promise.all(hanging)).map((reply) => reply.body.code)
    expect(refusals.filter((code) => code === 'overloaded')).toHaveLength(100 - SLOTS / 2)
  })

  test('serves a burst that is larger than its slots', async () => {
    const { login, wechat } = await startHarness()
    wechat.addFault({ kind: 'delay', ms: 20 })
    const replies = await Promise.all(wechat.issueCodes(3 * SLOTS).map(({ code }) => login({ code })))
    expect(replies.filter((reply) => reply.status !== 200)).toEqual([])
  })
})
