/**
 * The circuit breaker of a WeChat host, and the budget of retries: a WeChat that fails is left alone, and one
 * that works is never taken for one that fails.
 */
import { describe, expect, test } from 'vitest'
import { startHarness } from './harness/gateway.ts'
import type { Harness } from './harness/gateway.ts'
import { until } from './harness/until.ts'
import { inOrder, startWechat } from './harness/wechat.ts'
import type { FaultRule } from './simulator/faults.ts'

/** As in src/wechat/breaker.ts: calls in the window before the circuit may open. */
const VOLUME_MIN = 20
/** As there: after at most this long a call is tried again (5 s, and a fifth of jitter). */
const RESET_MS_MAX = 6_000
const STATES = { closed: 0, halfOpen: 1, open: 2 }
/** What they would take if they were waiting for WeChat. */
const DEADLINE_MS = 3_000
/** Fails at once, spares the code, and is not retried. */
const FAILING: FaultRule = { kind: 'body', body: 'no JSON', when: 'before' }

const stateOf = ({ metric }: Harness, url: string) =>
  metric('wechat_breaker_state', { host: new URL(url).host })

/** Lets calls fail until the circuit is open. The faults are cleared, WeChat's history too. */
async function openCircuit(harness: Harness): Promise<void> {
  const { wechat, login } = harness
  const rule = wechat.addFault(FAILING)
  for (const { code } of wechat.issueCodes(VOLUME_MIN)) await login({ code })
  rule.remove()
  expect(await stateOf(harness, wechat.url)).toBe(STATES.open)
  wechat.clearHistory()
}

const untilHalfOpen = (harness: Harness) =>
  until(
    'the circuit to be half open',
    async () => (await stateOf(harness, harness.wechat.url)) === STATES.halfOpen,
    RESET_MS_MAX + 2_000,
  )

describe('a WeChat that fails', () => {
  test('is asked 20 times, and then no more: 503 at once, and the code stays good', async () => {
    const harness = await startHarness()
    const { login, wechat, metric } = harness
    const { host } = new URL(wechat.url)
    wechat.addFault(FAILING)
    const codes = wechat.issueCodes(VOLUME_MIN)
    for (const [index, { code }] of codes.entries()) {
      expect(await stateOf(harness, wechat.url), `after ${index} failures`).toBe(STATES.closed)
      expect((await login({ code })).body.code).toBe('wechat_answer_invalid')
    }
    expect(await stateOf(harness, wechat.url)).toBe(STATES.open)

    const later = wechat.issueCodes(50)
    const startedMs = performance.now()
    const replies = await Promise.all(later.map(({ code }) => login({ code })))
    expect(performance.now() - startedMs).toBeLessThan(DEADLINE_MS)
    for (const reply of replies) {
      expect(reply.status).toBe(503)
      expect(reply.body).toMatchObject({ code: 'wechat_circuit_open', retry: 'same_code' })
      expect(reply.headers['retry-after']).toMatch(/^[5-7]$/)
    }
    expect(wechat.history()).toHaveLength(VOLUME_MIN)
    const seconds = 'wechat_exchange_duration_seconds_count'
    expect(await metric(seconds, { host, outcome: 'invalid' })).toBe(VOLUME_MIN)
    expect(await metric('login_total', { outcome: 'wechat_circuit_open' })).toBe(50)

    wechat.clearFaults()
    await untilHalfOpen(harness)
    expect((await login({ code: later[0]?.code ?? '' })).status).toBe(200)
    expect(await stateOf(harness, wechat.url)).toBe(STATES.closed)
    // Closed for everybody, and the codes that were turned away are as good as new.
    const again = await Promise.all(later.slice(1).map(({ code }) => login({ code })))
    expect(again.map((reply) => reply.status)).toEqual(Array(49).fill(200))
    expect(await metric(seconds, { host, outcome: 'ok' })).toBe(50)
  })

  test('is tried again by one login, while the others wait outside', async () => {
    const harness = await startHarness()
    const { login, wechat } = harness
    await openCircuit(harness)
    await untilHalfOpen(harness)
    const hold = wechat.addFault({ kind: 'hold' })
    const replies = wechat.issueCodes(30).map(({ code }) => login({ code }))
    await until('the probe to arrive', () => wechat.history().length > 0)
    await until(
      'the others to be turned away',
      async () => (await harness.metric('login_total', { outcome: 'wechat_circuit_open' })) === 29,
    )
    expect(wechat.history()).toHaveLength(1)
    hold.release()
    const statuses = (await Promise.all(replies)).map((reply) => reply.status)
    expect(statuses.filter((status) => status === 200)).toHaveLength(1)
    expect(statuses.filter((status) => status === 503)).toHaveLength(29)
    expect(await stateOf(harness, wechat.url)).toBe(STATES.closed)
  })

  test('costs Redis little while thousands ask; a retry of a settled code is answered all the same', async () => {
    const harness = await startHarness()
    const { login, wechat, metric } = harness
    const nonce = 'n'.repeat(22)
    const [settled] = wechat.issueCodes(1)
    const first = await login({ code: settled?.code ?? '', nonce })
    await openCircuit(harness)
    const before = await metric('code_claims_total', { outcome: 'lead' })

    const startedMs = performance.now()
    const replies = await Promise.all(wechat.issueCodes(1_000).map(({ code }) => login({ code })))
    const passedMs = performance.now() - startedMs
    expect(replies.map(({ body }) => body.code)).toEqual(Array(1_000).fill('wechat_circuit_open'))
    const claims = (await metric('code_claims_total', { outcome: 'lead' })) - before
    expect(claims).toBeGreaterThan(0)
    expect(claims).toBeLessThanOrEqual(50 * Math.ceil(passedMs / 100 + 1))
    expect(wechat.history()).toHaveLength(0)

    const again = await until('a retry to be looked up', async () => {
      const reply = await login({ code: settled?.code ?? '', nonce })
      return reply.status === 200 && reply
    })
    expect(again.body.token).toBe(first.body.token)
    expect(await stateOf(harness, wechat.url)).not.toBe(STATES.closed)
  })

  test('and still fails when it is tried again: closed to all for another while', async () => {
    const harness = await startHarness()
    const { login, wechat } = harness
    await openCircuit(harness)
    await untilHalfOpen(harness)
    wechat.addFault(FAILING)
    const [probe, next] = wechat.issueCodes(2)
    expect((await login({ code: probe?.code ?? '' })).body.code).toBe('wechat_answer_invalid')
    expect(await stateOf(harness, wechat.url)).toBe(STATES.open)
    expect((await login({ code: next?.code ?? '' })).body.code).toBe('wechat_circuit_open')
    expect(wechat.history()).toHaveLength(1)
  })

  test('by silence trips it like any other', async () => {
    const harness = await startHarness({ env: { LOGIN_DEADLINE_MS: '500' } })
    const { login, wechat } = harness
    wechat.addFault({ kind: 'hang_before' })
    // On a busy machine some run out of time before they get as far as WeChat.
    await until('the circuit to open', async () => {
      await Promise.all(wechat.issueCodes(VOLUME_MIN).map(({ code }) => login({ code })))
      return (await stateOf(harness, wechat.url)) === STATES.open
    })
    expect((await login({ code: wechat.issueCode().code })).body.code).toBe('wechat_circuit_open')
  })

  // The attempt that opens the circuit may have used its code up: that one must not be sent again.
  test('in the middle of a login that is about to try again: a new code is needed', async () => {
    const harness = await startHarness()
    const { login, wechat } = harness
    const rule = wechat.addFault(FAILING)
    for (const { code } of wechat.issueCodes(VOLUME_MIN - 1)) await login({ code })
    rule.remove()
    wechat.clearHistory()
    wechat.addFault({ kind: 'html', when: 'after' })
    const { code } = wechat.issueCode()
    expect((await login({ code })).body).toMatchObject({ code: 'wechat_failed', retry: 'new_code' })
    expect(wechat.history()).toHaveLength(1)
    expect(await stateOf(harness, wechat.url)).toBe(STATES.open)
  })

  test('leaves the next host to do its work', async () => {
    const [first, second] = [await startWechat(), await startWechat({ seed: 'another' })]
    const harness = await startHarness({ wechat: second, env: inOrder(first, second) })
    first.addFault(FAILING)
    for (const { code } of first.issueCodes(VOLUME_MIN)) await harness.login({ code })
    expect(await stateOf(harness, first.url)).toBe(STATES.open)

    const replies = []
    for (const { code } of second.issueCodes(20)) replies.push(await harness.login({ code }))
    expect(replies.map((reply) => reply.status)).toEqual(Array(20).fill(200))
    expect(first.history()).toHaveLength(VOLUME_MIN)
    expect(await stateOf(harness, second.url)).toBe(STATES.closed)
  })
})

describe('a WeChat that works', () => {
  test('is not taken for one that fails because nine of ten codes are refused', async () => {
    const harness = await startHarness()
    const { login, wechat } = harness
    const valid = []
    for (const { code } of wechat.issueCodes(20)) {
      for (let i = 0; i < 9; i += 1) {
        const refused = `${code.slice(0, 24)}refused${i}`
        expect((await login({ code: refused })).status).toBe(401)
      }
      valid.push(await login({ code }))
    }
    expect(valid.map((reply) => reply.status)).toEqual(Array(20).fill(200))
    expect(await stateOf(harness, wechat.url)).toBe(STATES.closed)
  })

  // The errcodes that shut the gate of one app are in app-gate.test.ts.
  test.each([40163, 40226, 45011, 99_999])(
    'is not taken for one that fails because it answers with errcode %i',
    async (errcode) => {
      const harness = await startHarness()
      const { login, wechat } = harness
      wechat.addFault({ kind: 'errcode', errcode, times: 2 * VOLUME_MIN })
      for (const { code } of wechat.issueCodes(2 * VOLUME_MIN)) await login({ code })
      expect((await login({ code: wechat.issueCode().code })).status).toBe(200)
      expect(await stateOf(harness, wechat.url)).toBe(STATES.closed)
    },
  )

  test('most of the time stays in use', async () => {
    const harness = await startHarness()
    const { login, wechat } = harness
    for (const [index, { code }] of wechat.issueCodes(100).entries()) {
      if (index % 5 < 2) wechat.addFault({ ...FAILING, code })
      const { status } = await login({ code })
      expect(status).toBe(index % 5 < 2 ? 503 : 200)
    }
    expect(wechat.history()).toHaveLength(100)
    expect(await stateOf(harness, wechat.url)).toBe(STATES.closed)
  })
})

// Ten in hand, and a tenth of the calls: with one login of four failing, there is not enough for all.
test('retries are at most ten and a tenth of the logins', async () => {
  const { login, wechat } = await startHarness()
  const codes = wechat.issueCodes(160)
  let failing = 0
  for (const [index, { code }] of codes.entries()) {
    if (index % 4 === 0) {
      wechat.addFault({ kind: 'html', when: 'before', code })
      failing += 1
    }
    await login({ code })
  }
  const retries = wechat.history().length - codes.length
  expect(retries).toBeLessThan(failing)
  expect(retries).toBeGreaterThanOrEqual(10)
  expect(retries).toBeLessThanOrEqual(10 + codes.length / 10)
})
