/**
 * Overload: some are refused at once so that the others are served. The blocks of the event loop are real
 * (harness/blocked-loop.ts).
 */
import { setTimeout as pause } from 'node:timers/promises'
import { describe, expect, onTestFinished, test } from 'vitest'
import { rankOf } from '../src/http/shedding-hook.ts'
import { createShedding } from '../src/shedding.ts'
import type { Rank } from '../src/shedding.ts'
import { blockable, blockAgainAndAgain, blockBegun, occupy } from './harness/blocked-loop.ts'
import type { Reply } from './harness/client.ts'
import { codeOf, tableRows } from './harness/documents.ts'
import { gatewayEnvironment, SIMULATED } from './harness/environment.ts'
import type { TestEnvironment } from './harness/environment.ts'
import { metricIn, startHarness } from './harness/gateway.ts'
import { startGatewayProcess } from './harness/processes.ts'
import { logIn } from './harness/session-values.ts'
import { readSource } from './harness/sources.ts'
import { until } from './harness/until.ts'
import { startSimulator } from './simulator/server.ts'

/** What is refused by shedding, as opposed to by a handler that took too long. */
function expectShed(reply: Reply): void {
  expect(reply.status, reply.text).toBe(503)
  expect(reply.body).toMatchObject({ code: 'overloaded', retry: 'same_code' })
  expect(reply.headers['retry-after']).toMatch(/^[1-3]$/)
}

describe('too many requests at once', () => {
  test('leave the last fifth to sessions: logins are refused, before anything is done for them', async () => {
    const { harness, session } = await holdLogins({ SHED_IN_FLIGHT: '10' })
    const codes = harness.wechat.issueCodes(12).map(({ code }) => code)
    const held = codes.slice(0, 8).map((code) => harness.login({ code }))
    for (const code of codes.slice(0, 8)) await harness.wechat.received(code)

    const keysOf = () => harness.redis.keys(`${harness.env['KEY_PREFIX'] ?? ''}*`)
    const keysBefore = (await keysOf()).toSorted()
    for (const code of codes.slice(8)) expectShed(await harness.login({ code }))
    expect((await keysOf()).toSorted()).toEqual(keysBefore) // no claim
    for (const path of ['/auth', '/session', '/sessions'])
      expect((await harness.get(path, session.token)).status).toBe(200)
    for (const path of ['/livez', '/readyz']) expect((await harness.get(path)).status).toBe(200)
    expect(await harness.metric('http_requests_in_flight')).toBe(8)
    expect(await harness.metric('requests_shed_total', { rank: 'login', reason: 'in_flight' })).toBe(4)
    expect(await harness.metric('requests_shed_total', { rank: 'session' })).toBe(0)

    harness.wechat.clearFaults()
    harness.wechat.release()
    for (const reply of await Promise.all(held)) expect(reply.status).toBe(200)
    // Their codes were not touched.
    for (const code of codes.slice(8)) expect((await harness.login({ code })).status).toBe(200)
    for (const code of codes) expect(harness.wechat.history({ code })).toHaveLength(1)
    expect(await harness.metric('http_requests_in_flight')).toBe(0)
  })

  test('are not made room for by clients who hang up while their login goes on', async () => {
    const { harness } = await holdLogins({ SHED_IN_FLIGHT: '10' })
    const impatient = harness.wechat.issueCodes(8).map(({ code }) => code)
    for (const code of impatient) {
      const giveUp = new AbortController()
      const sent = fetch(`${harness.url}/login?code=${code}`, { signal: giveUp.signal }).catch(() => {})
      await harness.wechat.received(code)
      giveUp.abort()
      await sent
    }
    expectShed(await harness.login({ code: harness.wechat.issueCode().code }))

    harness.wechat.clearFaults()
    harness.wechat.release()
    await until('their work to be done', async () => (await harness.metric('http_requests_in_flight')) === 0)
    expect((await harness.login({ code: harness.wechat.issueCode().code })).status).toBe(200)
  })

  test('refuse even sessions when there are many more', () => {
    const shed = createShedding({ inFlightMax: 2, loopDelayMsMax: 60_000 }, silent)
    onTestFinished(shed.stop)
    const leave = [shed.enter(), shed.enter()]
    expect(shed.refuse('session')).toBe('in_flight')
    leave[0]?.()
    leave[0]?.() // a second time is no second one
    expect([shed.inFlight(), shed.refuse('session'), shed.refuse('login')]).toEqual([1, undefined, undefined])
  })
})

const silent = { onShed() {}, onEpisode() {} }

describe('an event loop that is late', () => {
  test('refuses what is found behind a block, while it ends, and lets in who comes later', async () => {
    const { refuse } = startShedding(250)
    await pause(120)
    expect(refuse('login')).toBeUndefined()
    occupy(400)
    expect([refuse('login'), refuse('other'), refuse('session')]).toEqual([
      'loop_delay',
      undefined,
      undefined,
    ])
    occupy(300)
    expect([refuse('login'), refuse('other'), refuse('session')]).toEqual([
      'loop_delay',
      'loop_delay',
      undefined,
    ])
    // One pause, however long: what came behind it is refused, and nobody else.
    occupy(2_000)
    expect(refuse('session')).toBeUndefined()
    await pause(1) // the probe's own turn comes first, and remembers
    expect(refuse('login')).toBe('loop_delay')
    await until('logins to be let in again', () => refuse('login') === undefined, 500)
  })

  test('refuses logins altogether when it goes on, sessions last, and recovers in steps', async () => {
    const { refuse, episodes } = startShedding(100)
    await pause(60)
    await lateFor(250, 8) // over twice the limit and under four times
    await pause(120) // the loop is on time, but has not been for long
    expect([refuse('login'), refuse('session')]).toEqual(['loop_delay', undefined])
    await lateFor(700, 5)
    await pause(120)
    expect(refuse('session')).toBe('loop_delay')

    // First who is shed last; each once, for it does not flap.
    const changes: string[] = []
    let before = ''
    await until('everybody to be let in', async () => {
      const shed = (['login', 'other', 'session'] as const).filter((rank) => refuse(rank) !== undefined)
      if (shed.join() !== before) changes.push(shed.join())
      before = shed.join()
      return shed.length === 0
    })
    expect(changes).toEqual(['login,other,session', 'login,other', 'login', ''].slice(-changes.length))
    expect(changes.length).toBeGreaterThanOrEqual(3)
    expect(episodes).toEqual(['login']) // one line in the log
  })
})

// A busy machine takes long to start a process.
describe('a gateway whose event loop is blocked', { timeout: 90_000 }, () => {
  test('refuses the logins that waited in their sockets, not the validations, and then goes on', async () => {
    const { wechat, gateway, metric, logInNew } = await startBlockable(1_200)
    const { token } = (await logInNew()).body
    const codes = wechat.issueCodes(5).map(({ code }) => code)

    await blockBegun(gateway.child)
    const [logins, validations, ready] = await Promise.all([
      Promise.all(codes.map((code) => gateway.login({ code }))),
      Promise.all(codes.map(() => gateway.get('/auth', token))),
      gateway.get('/livez'),
    ])
    logins.forEach(expectShed)
    for (const { status } of [...validations, ready]) expect(status).toBe(200)
    for (const code of codes) expect(wechat.history({ code })).toEqual([])

    for (const code of codes) {
      await until('the code to be taken', async () => (await gateway.login({ code })).status === 200, 2_000)
      expect(wechat.history({ code })).toHaveLength(1)
    }
    expect(await metric('requests_shed_total', { rank: 'login', reason: 'loop_delay' })).toBeGreaterThan(4)
    expect(await metric('requests_shed_total', { rank: 'session' })).toBe(0)
    expect(gateway.output().match(/requests are being shed/g)).toHaveLength(1)
  })

  // M1 of the catalogue of faults. Who is blocked that often is slow, but nothing else is the matter.
  test('for 200 ms every second keeps its leases, and blames neither WeChat nor Redis', async () => {
    const { wechat, gateway, metric, logInNew } = await startBlockable(200)
    wechat.addFault({ kind: 'delay', ms: 700, when: 'after' }) // a lease has to be renewed meanwhile
    const blocks = blockAgainAndAgain(gateway.child, 1_000)
    const logins: Promise<Reply>[] = []
    for (let wave = 0; wave < 25; wave += 1) {
      logins.push(logInNew(), logInNew())
      await pause(200)
    }
    const replies = await Promise.all(logins)
    blocks.stop()
    for (const reply of replies) if (reply.status !== 200) expectShed(reply)
    expect(replies.filter(({ status }) => status === 200).length).toBeGreaterThan(0)
    expect(Math.max(...wechat.exchangesByCode().values())).toBe(1)
    expect(await metric('code_claims_total', { outcome: 'takeover' })).toBe(0)
    expect(await metric('wechat_breaker_state')).toBe(0)
    expect(await metric('wechat_exchange_duration_seconds_count', { outcome: 'timeout' })).toBe(0)
  })

  test('reads an answer of WeChat that had come in time, although its deadline has passed', async () => {
    const { wechat, gateway, metric, logInNew } = await startBlockable(1_500, { LOGIN_DEADLINE_MS: '1000' })
    wechat.addFault({ kind: 'delay', ms: 400, when: 'after' })
    const { code } = wechat.issueCode()
    const login = gateway.login({ code })
    await wechat.received(code)
    await blockBegun(gateway.child)
    expect((await login).status).toBe(200)
    wechat.clearFaults()
    await until('logins to be let in again', async () => (await logInNew()).status === 200)
    expect(await metric('wechat_exchange_duration_seconds_count', { outcome: 'timeout' })).toBe(0)
  })
})

test('every public route has a rank, but for health; of the others those that backends ask', () => {
  const readme = readSource('README.md')
  const ofPublic = readme.slice(readme.indexOf('The public listener'), readme.indexOf('The admin listener'))
  const routes = tableRows(ofPublic).flatMap(
    ([cell]) => /^[A-Z, ]+ (\/\S*)$/.exec(codeOf(cell) ?? '')?.[1] ?? [],
  )
  expect(routes.length).toBeGreaterThan(10)
  expect(routes.filter((path) => rankOf(path) === undefined)).toEqual(['/livez', '/readyz'])
  expect(['/introspect', '/sign', '/check-session-key'].map(rankOf)).toEqual(['session', 'other', 'other'])
  expect(['/metrics', '/users/:appid/:openid', '/apps', undefined].map(rankOf)).toEqual(
    Array(4).fill(undefined),
  )
})

/** WeChat holds back its answers from now on. */
async function holdLogins(env: TestEnvironment) {
  const harness = await startHarness({ env })
  const session = await logIn(harness)
  harness.wechat.addFault({ kind: 'hold', when: 'before' })
  return { harness, session }
}

async function startBlockable(blockMs: number, env: TestEnvironment = {}) {
  const wechat = await startSimulator(SIMULATED)
  onTestFinished(() => wechat.close())
  const gateway = await startGatewayProcess({
    ...gatewayEnvironment(wechat),
    SHED_LOOP_DELAY_MS: '250',
    ...blockable(blockMs),
    ...env,
  })
  const metric = async (name: string, labels: Record<string, string> = {}) =>
    metricIn((await gateway.admin.get('/metrics')).text, name, labels)
  const logInNew = () => gateway.login({ code: wechat.issueCode().code })
  return { wechat, gateway, metric, logInNew }
}

function startShedding(loopDelayMsMax: number) {
  const episodes: Rank[] = []
  const shedding = createShedding(
    { loopDelayMsMax, inFlightMax: 1_000 },
    { onShed() {}, onEpisode: (rank) => void episodes.push(rank) },
  )
  onTestFinished(shedding.stop)
  return { ...shedding, episodes }
}

async function lateFor(blockMs: number, times: number): Promise<void> {
  for (let time = 0; time < times; time += 1) {
    occupy(blockMs)
    await pause(60)
  }
}
