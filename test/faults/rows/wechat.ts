/**
 * U: what WeChat may do. The catalogue has a minute of each; 15 s are enough where nothing depends on the length, for
 * all that a row waits for (the deadline, the breaker's pause) takes less than ten.
 */
import { setTimeout as pause } from 'node:timers/promises'
import { checkInvariants } from '../invariants.ts'
import type { Row } from '../row.ts'
import type { Stand } from '../stand.ts'
import { startTcpProxy } from '../tcp-proxy.ts'
import { startTrap } from '../trap.ts'
import {
  ASKED_AGAIN,
  attemptsOf,
  bringFault,
  checkAnswers,
  checkClosed,
  checkValidations,
  DEADLINE_MS,
  FAULT_MS,
  LOGINS_PER_SECOND,
  recover,
  shareOf,
  SLOTS,
  total,
} from '../upstream-run.ts'
import { startWechat } from '../wechat.ts'

/** What a login may take beyond its deadline. */
const DEADLINE_MARGIN_MS = 100

export const wechatRows: readonly Row[] = [
  {
    id: 'U1',
    title: 'WeChat takes requests and never answers',
    pass: `every login ends by its deadline + ${DEADLINE_MARGIN_MS} ms, then 503 p99 ≤ 60 ms; sockets within the cap, none left; validation p99 ≤ 30 ms`,
    async run(bench) {
      const run = await bringFault(bench, { kind: 'hang_before' })
      const { stand, faultMs } = run
      let open = 0
      for (let passedMs = 0; passedMs < FAULT_MS; passedMs += 500) {
        await pause(500)
        open = Math.max(open, await openSockets(stand))
      }
      await recover(bench, run)
      const logins = { kind: 'login', fromMs: faultMs } as const
      bench.figure('slowest login', stand.ledger.quantile(1, logins), {
        unit: 'ms',
        max: DEADLINE_MS + DEADLINE_MARGIN_MS,
      })
      bench.figure(
        '503 p99 while the circuit is open',
        stand.ledger.quantile(0.99, { ...logins, errorCode: 'wechat_circuit_open' }),
        // The catalogue's 20 ms hold while nothing else happens (B2). Here the deadlines of some 60 logins a gateway end at
        // once as its circuit opens, and those that come just then wait for them: 22 and 45 ms measured.
        { unit: 'ms', max: 60 },
      )
      checkAnswers(bench, run, ['200', 'wechat_timeout', 'wechat_circuit_open', 'overloaded'])
      bench.figure('most sockets at WeChat', open, { max: 3 * SLOTS })
      // Connections without a request are closed after 4 s.
      await pause(6_000)
      bench.figure('sockets left at WeChat', await openSockets(stand), { max: 3 })
      checkValidations(bench, run)
      await checkInvariants(bench, stand)
    },
  },
  ...(['before', 'mid_body'] as const).map(
    (when): Row => ({
      id: `U2-${when.replace('_', '-')}`,
      title: `WeChat resets connections (${when}): one of five, then all`,
      pass: 'classified; attempts ≤ 1.1 × logins; a code that may have been used is not sent again',
      async run(bench) {
        const run = await bringFault(bench, { kind: 'reset', when, probability: 0.2 })
        const { stand, faultMs } = run
        const before = await attemptsOf(stand)
        await pause(FAULT_MS)
        await stand.wechat.fault({ kind: 'reset', when })
        await pause(FAULT_MS / 2)
        await recover(bench, run)
        const logins = stand.ledger.count({ kind: 'login', fromMs: faultMs })
        bench.figure('attempts a login', ((await attemptsOf(stand)) - before) / logins, { max: 1.1 })
        checkAnswers(bench, run, ['200', 'wechat_failed', 'wechat_circuit_open', 'code_consumed'])
        checkValidations(bench, run)
        await checkInvariants(bench, stand, ASKED_AGAIN)
      },
    }),
  ),
  {
    id: 'U2-accept',
    title: 'Connections to WeChat are cut and refused, for a tenth of each second',
    pass: 'classified; attempts ≤ 1.1 × logins',
    async run(bench) {
      const wechat = await startWechat(bench)
      const proxy = await startTcpProxy(bench, Number(new URL(wechat.url).port))
      const run = await bringFault(bench, [], { wechat, wechatUrls: `http://127.0.0.1:${proxy.port}` })
      const { stand, faultMs } = run
      const before = await attemptsOf(stand)
      for (let passedMs = 0; passedMs < FAULT_MS; passedMs += 1_000) {
        proxy.set({ refusing: true })
        proxy.cut()
        await pause(100)
        proxy.clear()
        await pause(900)
      }
      await recover(bench, run)
      const logins = stand.ledger.count({ kind: 'login', fromMs: faultMs })
      bench.figure('attempts a login', ((await attemptsOf(stand)) - before) / logins, { max: 1.1 })
      bench.figure(
        'attempts that met the fault',
        logins - stand.ledger.count({ kind: 'login', fromMs: faultMs, status: 200 }),
        {},
      )
      checkAnswers(bench, run, [
        '200',
        'wechat_failed',
        'wechat_unreachable',
        'wechat_circuit_open',
        'code_consumed',
      ])
      checkValidations(bench, run)
      await checkInvariants(bench, stand, ASKED_AGAIN)
    },
  },
  {
    id: 'U2-connect',
    title: 'The first host takes no connections',
    pass: 'every login succeeds at the second one; its circuit opens',
    short: true,
    async run(bench) {
      const dead = await startTrap(bench)
      await dead.close()
      const wechat = await startWechat(bench)
      const run = await bringFault(bench, [], { wechat, wechatUrls: `${dead.url},${wechat.url}`, warmMs: 0 })
      const { stand } = run
      await pause(FAULT_MS)
      await recover(bench, run)
      checkAnswers(bench, run, ['200'])
      const logins = { kind: 'login' } as const
      bench.figure(
        'logins that failed',
        stand.ledger.count(logins) - stand.ledger.count({ ...logins, status: 200 }),
        {
          is: 0,
        },
      )
      const host = new URL(dead.url).host
      bench.figure('attempts at the dead host', await attemptsOf(stand, { host }), {
        // 20 to open a circuit, those under way then, and a probe each 4 s.
        max: 3 * (20 + LOGINS_PER_SECOND / 3 + FAULT_MS / 4_000),
      })
      await checkInvariants(bench, stand)
    },
  },
  {
    id: 'U3',
    title: 'WeChat answers with one byte each 200 ms, for ever',
    pass: 'cut at the deadline',
    async run(bench) {
      const run = await bringFault(bench, { kind: 'trickle', ms: 200, endless: true })
      const { stand, faultMs } = run
      await pause(FAULT_MS)
      await recover(bench, run)
      bench.figure('slowest login', stand.ledger.quantile(1, { kind: 'login', fromMs: faultMs }), {
        unit: 'ms',
        max: DEADLINE_MS + DEADLINE_MARGIN_MS,
      })
      checkAnswers(bench, run, ['200', 'wechat_timeout', 'wechat_circuit_open', 'overloaded'])
      checkValidations(bench, run)
      await checkInvariants(bench, stand)
    },
  },
  {
    id: 'U10',
    title: 'WeChat says -1, "system busy", to 30 % of all calls, then to all',
    pass: '30 %: ≥ 99 % of the logins succeed; 100 %: circuits open, 503',
    async run(bench) {
      const run = await bringFault(bench, { kind: 'errcode', errcode: -1, probability: 0.3 })
      const { stand, faultMs } = run
      await pause(FAULT_MS * 2)
      await checkClosed(bench, stand)
      const allMs = performance.now()
      const before = await attemptsOf(stand)
      await stand.wechat.fault({ kind: 'errcode', errcode: -1 })
      await pause(FAULT_MS)
      const attempts = (await attemptsOf(stand)) - before
      await recover(bench, run)
      const some = { kind: 'login', fromMs: faultMs, toMs: allMs - DEADLINE_MS } as const
      const succeeded = stand.ledger.count({ ...some, status: 200 })
      bench.figure('logins that succeed at 30 %', shareOf(succeeded, stand.ledger.count(some)), {
        unit: '%',
        min: 99,
      })
      bench.figure(
        'attempts a login at 100 %',
        attempts / stand.ledger.count({ kind: 'login', fromMs: allMs }),
        {
          max: 1.1,
        },
      )
      bench.figure(
        'gateways whose circuit opened at 100 %',
        stand.gateways.filter((gateway) => gateway.output().includes('"state":"open"')).length,
        { is: 3 },
      )
      checkAnswers(bench, run, ['200', 'wechat_busy', 'wechat_circuit_open'])
      checkValidations(bench, run)
      // -1 says that the code is as good as before, and asks for a retry: up to four.
      await checkInvariants(bench, stand, { exchangesPerCode: 5 })
    },
  },
  {
    id: 'U16',
    title: 'WeChat takes 2.9 s for every answer',
    pass: `≤ ${SLOTS} exchanges at a time in a gateway; what is too much gets 503 overloaded, at once or after half a second of waiting; validation p99 ≤ 30 ms`,
    alone: true,
    async run(bench) {
      const run = await bringFault(bench, { kind: 'delay', ms: 2_900 })
      const { stand, faultMs } = run
      let most = 0
      for (let passedMs = 0; passedMs < FAULT_MS; passedMs += 250) {
        await pause(250)
        const { requests } = (await stand.wechat.stats()) as { requests: { inFlight: number } }
        most = Math.max(most, requests.inFlight)
      }
      const waitedMs = performance.now()
      await recover(bench, run)
      const excess = { kind: 'login', fromMs: faultMs, errorCode: 'overloaded' } as const
      bench.figure('most exchanges at a time', most, { max: 3 * SLOTS })
      bench.figure('logins turned away', stand.ledger.count(excess), { min: 50 })
      // Those in the first moment wait, for nothing is known of it yet; once it is, hardly anybody does.
      bench.figure('their p50', stand.ledger.quantile(0.5, excess), { unit: 'ms', max: 50 })
      bench.figure('their slowest (500 ms of waiting, and 50)', stand.ledger.quantile(1, excess), {
        unit: 'ms',
        max: 550,
      })
      bench.figure(
        'turned away after having waited',
        await total(stand, 'wechat_slots_refused_total', { why: 'waited' }),
        {},
      )
      const reached = await exchangesOf(
        stand,
        stand.ledger.find({ ...excess, toMs: waitedMs }).map(({ code = '' }) => code),
      )
      bench.figure('codes of theirs that reached WeChat', reached, { is: 0 })
      checkValidations(bench, run)
      await checkInvariants(bench, stand)
    },
  },
]

async function openSockets({ wechat }: Stand): Promise<number> {
  const { connections } = (await wechat.stats()) as { connections: { open: number } }
  return connections.open
}

/** How many of these codes WeChat has seen. */
async function exchangesOf({ wechat }: Stand, codes: readonly string[]): Promise<number> {
  const seen = new Set((await wechat.history({ limit: 100_000 })).map(({ code }) => code ?? ''))
  return codes.filter((code) => seen.has(code)).length
}
