/** M and L: the process itself, its loop, its memory, and what it does when there is too much. */
import { setTimeout as pause } from 'node:timers/promises'
import { blockable, blockAgainAndAgain } from '../../harness/blocked-loop.ts'
import { newNonce } from '../client.ts'
import { checkInvariants } from '../invariants.ts'
import { quantile } from '../ledger.ts'
import { seriesIn } from '../metrics-text.ts'
import type { Bench, Row } from '../row.ts'
import { startStand } from '../stand.ts'
import type { Gateway, Stand } from '../stand.ts'
import { untilWarm } from '../warm-up.ts'

/** As it comes; a stand turns it off. */
const SHED_LOOP_DELAY_MS = '250'
const REHEARSAL_MS = 6_000
const ENVIRONMENT = { SHED_LOOP_DELAY_MS }

export const processRows: readonly Row[] = [
  {
    id: 'M1',
    title: 'the event loops of all gateways are blocked for 200 ms every second',
    pass: 'nothing but quick 503s; no circuit opens, no lease is lost',
    alone: true,
    async run(bench) {
      const stand = await startStand(bench, {
        env: { ...ENVIRONMENT, ...blockable(200) },
      })
      // Longer than a lease: it has to be renewed again and again while the loop is blocked.
      await stand.wechat.fault({ kind: 'delay', ms: 1_800 })
      const load = await stand.load({ loginsPerSecond: 40, validationsPerSecond: 150 })
      const blocks = blockAll(bench, stand, 1_000)
      let breakerMax = 0
      for (let second = 0; second < 20; second += 1) {
        await pause(1_000)
        for (const gateway of stand.gateways)
          breakerMax = Math.max(breakerMax, await gateway.metric('wechat_breaker_state'))
      }
      blocks.stop()
      await load.stop()

      const { ledger } = stand
      bench.say(`  ${ledger.summary()}`)
      bench.figure('state of a breaker, highest', breakerMax, { is: 0 })
      bench.figure('leases taken over', await sum(stand, 'code_claims_total', { outcome: 'takeover' }), {
        is: 0,
      })
      const timeouts = { outcome: 'timeout' }
      bench.figure(
        'calls of WeChat that timed out',
        await sum(stand, 'wechat_exchange_duration_seconds_count', timeouts),
        { is: 0 },
      )
      const failed = ledger.attempts.filter(
        ({ status, errorCode }) => status !== 200 && errorCode !== 'overloaded',
      )
      bench.figure('failed in another way than overloaded', failed.length, { is: 0 })
      const shedMs = ledger.find({ errorCode: 'overloaded' }).map(({ ms }) => ms)
      // It may have waited for one block and was due at its begin; that is not the answer's time.
      bench.figure('slowest 503', Math.max(0, ...shedMs), { unit: 'ms', max: 300 })
      bench.figure('validations p99', ledger.quantile(0.99, { kind: 'validate' }), { unit: 'ms', max: 300 })
      await checkInvariants(bench, stand)
    },
  },
  {
    id: 'M1-shed',
    title: 'the event loops of all gateways are blocked for 400 ms of every 500',
    pass: 'logins are shed before anything is done for them, validations never; all is well 3 s after it ends',
    alone: true,
    async run(bench) {
      const blockMs = 400
      const stand = await startStand(bench, {
        env: { ...ENVIRONMENT, ...blockable(blockMs) },
      })
      const load = await stand.load({ loginsPerSecond: 40, validationsPerSecond: 100 })
      await pause(2_000)
      const fromMs = performance.now()
      const blocks = blockAll(bench, stand, 500)
      await pause(10_000)
      blocks.stop()
      const toMs = performance.now()
      await pause(8_000)
      await load.stop()

      const { ledger } = stand
      const during = { fromMs: fromMs + 1_000, toMs }
      bench.say(`  meanwhile: ${ledger.summary(during)}`)
      bench.say(`  afterwards: ${ledger.summary({ fromMs: toMs })}`)
      const logins = ledger.count({ kind: 'login', ...during })
      const shed = ledger.count({ kind: 'login', errorCode: 'overloaded', ...during })
      bench.figure('share of logins shed', shed / logins, { min: 0.8 })
      bench.figure('validations shed', await sum(stand, 'requests_shed_total', { rank: 'session' }), {
        is: 0,
      })
      bench.figure('validations not answered with 200', notOk(stand, 'validate'), { is: 0 })
      const shedMs = ledger.find({ errorCode: 'overloaded' }).map(({ ms }) => ms)
      bench.figure('503 p99, the block that it waited for included', quantile(shedMs, 0.99), {
        unit: 'ms',
        max: blockMs + 200,
      })
      bench.figure('last failure after the end', ledger.lastFailureAfterMs(toMs), { unit: 'ms', max: 3_000 })
      const { codes } = await stand.wechat.summary()
      bench.figure(
        'codes at WeChat without a session',
        codes.exchanged - ledger.count({ kind: 'login', status: 200 }),
        { is: 0 },
      )
      await checkInvariants(bench, stand)
    },
  },
  {
    id: 'L4',
    title: 'ten times the logins for 15 s, with WeChat taking 1.5 s for each',
    pass: 'validations are never shed while logins are; 80 % of the logins that fit are served; the rest hears it at once',
    alone: true,
    async run(bench) {
      // Logins may take 60 of the 75, which is what WeChat is called with at once (bulkhead.ts).
      const [slots, gateways, secondsEach] = [75, 3, 1.5]
      const stand = await startStand(bench, {
        gateways,
        env: { ...ENVIRONMENT, SHED_IN_FLIGHT: String(slots) },
      })
      await stand.wechat.fault({ kind: 'delay', ms: secondsEach * 1_000 })
      const base = await stand.load({ loginsPerSecond: 20, validationsPerSecond: 180, loginsPerUser: 4 })
      // What turns logins away has to have run before it is timed.
      const rehearsal = await stand.load({ loginsPerSecond: 180, loginsPerUser: 4 })
      await pause(REHEARSAL_MS)
      await rehearsal.stop()
      await untilWarm(bench, stand, { kind: 'validate' })
      const fromMs = performance.now()
      const spike = await stand.load({ loginsPerSecond: 180, loginsPerUser: 4 })
      await pause(15_000)
      await spike.stop()
      const toMs = performance.now()
      await base.stop()

      const { ledger } = stand
      const during = { fromMs: fromMs + 1_500, toMs: toMs - 1_500 }
      bench.say(`  in the spike: ${ledger.summary(during)}`)
      bench.figure('validations shed', await sum(stand, 'requests_shed_total', { rank: 'session' }), {
        is: 0,
      })
      bench.figure('validations not answered with 200', notOk(stand, 'validate'), { is: 0 })
      bench.figure('validations p99', ledger.quantile(0.99, { kind: 'validate', ...during }), {
        unit: 'ms',
        max: 50,
      })
      const perSecond =
        ledger.count({ kind: 'login', status: 200, ...during }) / ((during.toMs - during.fromMs) / 1_000)
      const fitting = (0.8 * slots * gateways) / secondsEach
      bench.figure('logins served a second', perSecond, { min: 0.8 * fitting })
      bench.figure('logins shed', ledger.count({ kind: 'login', errorCode: 'overloaded', ...during }), {
        min: 1,
      })
      const refusals = { kind: 'login', errorCode: 'overloaded', ...during } as const
      bench.figure('503 p99', ledger.quantile(0.99, refusals), { unit: 'ms', max: 100 })
      await checkInvariants(bench, stand)
    },
  },
  {
    id: 'M3',
    title: '100,000 addresses, users, codes and user agents, and as many addresses of routes',
    pass: '/metrics has the same series after as before, below 2,000 and 300 KB, in 50 ms',
    alone: true,
    long: true,
    async run(bench) {
      const total = 100_000
      const stand = await startStand(bench, { gateways: 1, workers: 0 })
      const gateway = stand.gateway()
      await crowd(stand, 2_000, 0)
      await gateway.metrics() // which is a series itself from then on
      const before = ownSeries(await gateway.metrics())
      let rssSettled = 0
      for (let done = 2_000; done < total; done += 14_000) {
        await crowd(stand, 14_000, done)
        // The heap of a young process grows to its working size first, whoever comes.
        if (done === 2_000 + 14_000) rssSettled = gateway.rssBytes()
        bench.say(`  ${done + 14_000} came: ${seriesIn(await gateway.metrics())} series`)
      }

      const text = await gateway.metrics()
      bench.figure('logins', stand.ledger.count({ kind: 'login', status: 200 }), { is: total })
      const added = ownSeries(text).difference(before)
      for (const series of added) bench.say(`  new: ${series}`)
      bench.figure('series more than after the first 2,000', added.size, { is: 0 })
      bench.figure('series', seriesIn(text), { max: 1_999 })
      bench.figure('body', Buffer.byteLength(text) / 1_000, { unit: 'KB', max: 300 })
      const times = await scrapeTimes(gateway, 40)
      bench.figure('scrape p50', quantile(times, 0.5), { unit: 'ms', max: 50 })
      bench.figure('scrape, slowest', quantile(times, 1), { unit: 'ms' })
      bench.figure('RSS more than after the first 30,000', (gateway.rssBytes() - rssSettled) / 1e6, {
        unit: 'MB',
        max: 50,
      })
      await checkInvariants(bench, stand)
    },
  },
]

function blockAll(bench: Bench, { gateways }: Stand, everyMs: number): { stop(): void } {
  const blocks = gateways.map((gateway) => blockAgainAndAgain(gateway, everyMs))
  const stop = () => blocks.forEach((one) => one.stop())
  bench.defer(stop)
  return { stop }
}

async function sum(
  { gateways }: Stand,
  metric: string,
  labels: Record<string, string> = {},
): Promise<number> {
  const values = await Promise.all(gateways.map((gateway) => gateway.metric(metric, labels)))
  return values.reduce((total, value) => total + value, 0)
}

function notOk({ ledger }: Stand, kind: 'login' | 'validate'): number {
  return ledger.attempts.filter((attempt) => attempt.kind === kind && attempt.status !== 200).length
}

const AT_ONCE = 48

/** So many logins, each of a user, an address and a device of its own; and as many requests to nowhere. */
async function crowd({ wechat, client, gateway }: Stand, count: number, first: number): Promise<void> {
  const target = gateway().url
  let next = first
  const codes = (await Promise.all(Array.from({ length: count / 1_000 }, () => wechat.codes(1_000)))).flat()
  const lane = async () => {
    for (let issued = codes.pop(); issued !== undefined; issued = codes.pop()) {
      const number = next++
      const ip = `2001:db8:${(number >> 16).toString(16)}:${(number & 0xffff).toString(16)}::1`
      const agent = { 'user-agent': `Phone/${number} MicroMessenger/8.0.${number}` }
      await client.login({ target, ...issued, nonce: newNonce(), ip, headers: agent })
      const nowhere = await fetch(`${target}/nowhere/${number}?code=${issued.code}`, {
        method: number % 2 === 0 ? 'GET' : 'PUT',
      })
      await nowhere.body?.cancel()
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, lane))
}

/** Names with labels, but for what Node says of itself: kinds of handles and collections come and go. */
function ownSeries(text: string): Set<string> {
  const lines = text.split('\n').filter((line) => line !== '' && !/^(#|nodejs_|process_)/.test(line))
  return new Set(lines.map((line) => line.slice(0, line.lastIndexOf(' '))))
}

async function scrapeTimes(gateway: Gateway, times: number): Promise<number[]> {
  const taken: number[] = []
  for (let at = 0; at < times; at += 1) {
    const startedMs = performance.now()
    await gateway.metrics()
    taken.push(performance.now() - startedMs)
  }
  return taken
}
