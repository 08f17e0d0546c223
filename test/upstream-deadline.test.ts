/** A call of WeChat that takes too long, and what a call that failed leaves behind: nothing. */
import { inspect } from 'node:util'
import { describe, expect, onTestFinished, test } from 'vitest'
import { startDeadline } from '../src/deadline.ts'
import { CallError, createCalls } from '../src/wechat/calls.ts'
import type { Lookup } from '../src/lookup.ts'
import { APP_SECRET, APPID } from './harness/environment.ts'
import { startHarness } from './harness/gateway.ts'
import { startTcpServer } from './harness/tcp-server.ts'
import { until } from './harness/until.ts'
import { closedHost, startWechat, untrustedWechat } from './harness/wechat.ts'
import type { FaultRule } from './simulator/faults.ts'
import type { Simulator } from './simulator/server.ts'

/** For tests that are to run into it. */
const SHORT_DEADLINE_MS = 1_000
/** What an answer may take beyond its deadline, on a machine with nothing else to do. */
const DEADLINE_MARGIN_MS = 300
const TRIES = 4
/** As in src/wechat/calls.ts. */
const CONNECTIONS_PER_HOST = 64

describe('the deadline of a login', () => {
  test.each<[string, FaultRule, 'ok' | null]>([
    ['WeChat hangs before it has used the code', { kind: 'hang_before' }, null],
    ['WeChat hangs after it has used the code', { kind: 'hang_after' }, 'ok'],
    ['the answer comes drop by drop and never ends', { kind: 'trickle', ms: 20, endless: true }, 'ok'],
    ['the answer comes too slowly', { kind: 'trickle', ms: 200 }, 'ok'],
  ])('holds when %s, and the code is not tried again', async (_what, fault, decided) => {
    const { login, wechat } = await startHarness({ env: { LOGIN_DEADLINE_MS: String(SHORT_DEADLINE_MS) } })
    wechat.addFault(fault)
    const { code, reply, tookMs } = await fastestOf(TRIES, async () => {
      const { code } = wechat.issueCode()
      const startedMs = performance.now()
      const reply = await login({ code })
      return { code, reply, tookMs: performance.now() - startedMs }
    })

    expect(tookMs).toBeGreaterThan(SHORT_DEADLINE_MS - 50)
    expect(tookMs).toBeLessThan(SHORT_DEADLINE_MS + DEADLINE_MARGIN_MS)
    expect(reply.status).toBe(503)
    expect(reply.body).toMatchObject({ code: 'wechat_timeout', retry: 'new_code' })
    expect(reply.headers['retry-after']).toMatch(/^[1-3]$/)

    wechat.clearFaults()
    expect((await login({ code })).body).toEqual(reply.body)
    expect(wechat.history({ code })).toMatchObject([{ decided }])
  })

  test('ends one call and leaves the others alone', async () => {
    const deadlineMs = 2_000
    const { login, wechat } = await startHarness({ env: { LOGIN_DEADLINE_MS: String(deadlineMs) } })
    const { code: hanging } = wechat.issueCode()
    wechat.addFault({ kind: 'hang_before', code: hanging })
    const late = login({ code: hanging })
    await wechat.received(hanging)
    // Under way while the other one ends.
    const halfway = wechat.issueCodes(20)
    await until('half the deadline to pass', () => elapsedSince(wechat, hanging) > deadlineMs / 2)
    wechat.addFault({ kind: 'delay', ms: deadlineMs * 0.6 })
    const replies = await Promise.all(halfway.map(({ code }) => login({ code })))

    expect((await late).body.code).toBe('wechat_timeout')
    expect(replies.map((reply) => reply.status)).toEqual(Array(20).fill(200))
  })

  test('of many calls at once leaves no connection behind', async () => {
    const { login, wechat } = await startHarness({ env: { LOGIN_DEADLINE_MS: String(SHORT_DEADLINE_MS) } })
    wechat.addFault({ kind: 'hang_before' })
    const replies = await Promise.all(wechat.issueCodes(400).map(({ code }) => login({ code })))

    expect(new Set(replies.map((reply) => reply.status))).toEqual(new Set([503]))
    await until('WeChat to be left alone', () => {
      const { requests, connections } = wechat.stats()
      return requests.inFlight === 0 && connections.open <= CONNECTIONS_PER_HOST
    })
  })

  // They wait for a connection. Had each of them to be aborted on one, a WeChat that recovers would first
  // have to shake hands with all of them.
  test('that has passed for calls in the queue costs no connection each', async () => {
    const wechat = await startWechat()
    wechat.addFault({ kind: 'hang_before' })
    const calls = createCalls()
    onTestFinished(() => calls.close())
    const deadline = AbortSignal.timeout(300)
    const path = '/sns/jscode2session?js_code=some-code'
    const ends = await Promise.all(
      Array.from({ length: 500 }, () =>
        calls.get(wechat.url, path, deadline).catch((error: unknown) => (error as CallError).failure),
      ),
    )
    expect(ends.filter((end) => end === 'timeout')).toHaveLength(CONNECTIONS_PER_HOST)
    expect(ends.filter((end) => end === 'unreachable')).toHaveLength(500 - CONNECTIONS_PER_HOST)

    wechat.clearFaults()
    await calls.get(wechat.url, `${path}-2`, AbortSignal.timeout(5_000))
    // Those that hung, and one more at each place in the pool.
    expect(wechat.stats().connections.total).toBeLessThanOrEqual(2 * CONNECTIONS_PER_HOST)
    expect(wechat.history()).toHaveLength(CONNECTIONS_PER_HOST + 1)
  })
})

// Connecting can take long: what then leaves has no time for its answer, and may use the code up all the same.
test('a call whose connection comes too late does not leave', async () => {
  const wechat = await startWechat()
  const lookup: Lookup = {
    find: (_hostname, _options, callback) =>
      void setTimeout(() => callback(null, [{ address: '127.0.0.1', family: 4 }]), 700),
    doubt: () => {},
  }
  const calls = createCalls({ lookup })
  onTestFinished(() => calls.close())
  const ask = (deadlineMs: number) =>
    calls.get(
      wechat.url.replace('127.0.0.1', 'wechat.test'),
      '/sns/jscode2session',
      startDeadline(deadlineMs),
    )
  await expect(ask(900)).rejects.toMatchObject({ failure: 'unreachable', sent: false })
  expect(wechat.history()).toHaveLength(0)
  expect((await ask(3_000)).status).toBe(200)
})

// A library's error holds its request, and the request's address holds AppSecret and code.
test('the error of a failed call tells nothing of its address', async () => {
  const wechat = await startWechat()
  const path = `/sns/jscode2session?appid=${APPID}&secret=${APP_SECRET}&js_code=a-code-that-is-secret`
  const target = async (kind: string): Promise<string> => {
    if (kind === 'closed') return closedHost()
    if (kind === 'no address') return 'http://wechat.invalid'
    if (kind === 'untrusted') return (await untrustedWechat()).url
    if (kind === 'not HTTP') return (await startTcpServer((socket) => void socket.write(path))).url
    return wechat.url
  }
  const faults: Record<string, FaultRule> = {
    reset: { kind: 'reset', when: 'before' },
    half: { kind: 'reset', when: 'mid_body' },
    huge: { kind: 'huge' },
    hang: { kind: 'hang_before' },
  }
  const kinds = ['closed', 'no address', 'untrusted', 'not HTTP', ...Object.keys(faults)]
  const seen = new Set<string>()
  for (const kind of kinds) {
    wechat.clearFaults()
    if (faults[kind]) wechat.addFault(faults[kind])
    const calls = createCalls()
    const error: unknown = await calls
      .get(await target(kind), path, AbortSignal.timeout(kind === 'hang' ? 200 : 5_000))
      .catch((reason: unknown) => reason)
    await calls.close()

    expect(error, kind).toBeInstanceOf(CallError)
    const { failure, stack, message } = error as CallError
    seen.add(failure)
    const everything = [
      JSON.stringify(error),
      inspect(error, { depth: 20, showHidden: true, getters: true }),
      stack,
      message,
      ...Reflect.ownKeys(error as CallError).map((key) => String(Reflect.get(error as CallError, key))),
    ].join('\n')
    for (const secret of [
      APP_SECRET,
      'a-code-that-is-secret',
      'jscode2session',
      APPID,
      '127.0.0.1',
      'invalid',
    ]) {
      expect(everything, `${kind}: ${secret}`).not.toContain(secret)
    }
  }
  expect(seen).toEqual(new Set(['unreachable', 'reset', 'oversize', 'timeout']))
})

/** Tries again only when a try was late: a busy machine is late at times, a gateway that is late always is. */
async function fastestOf<T extends { tookMs: number }>(tries: number, attempt: () => Promise<T>): Promise<T> {
  let fastest = await attempt()
  while (tries-- > 1 && fastest.tookMs >= SHORT_DEADLINE_MS + DEADLINE_MARGIN_MS) {
    const next = await attempt()
    if (next.tookMs < fastest.tookMs) fastest = next
  }
  return fastest
}

function elapsedSince(wechat: Simulator, code: string): number {
  return Date.now() - (wechat.history({ code })[0]?.receivedAt ?? Date.now())
}
