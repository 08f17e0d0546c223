/** R1–R4: one Redis that is not there yet, is killed, or hangs. */
import { setTimeout as pause } from 'node:timers/promises'
import { checkInvariants } from '../invariants.ts'
import { deferred, exchangesWithin, REDIS_LOAD, sendRefusedAgain, statusOf, takesMs } from '../outage.ts'
import { startStandalone } from '../redis-servers.ts'
import type { Bench, Row } from '../row.ts'
import { startStand } from '../stand.ts'
import { untilWarm } from '../warm-up.ts'

const AFTERWARDS_MS = 6_000
const LATE_START_MS = 20_000
/**
 * Of a second's outage the slowest hundredth are three requests of its first 100 ms, in which all gateways run code for
 * the first time, on two cores that have 85 % to do already: 59 to 119 ms measured. Later ones take 10 to 20 ms.
 */
const SHORT_MS = 1_000

export const outageRows: readonly Row[] = [
  {
    id: 'R1',
    title: `Redis is down when gateways and workers start, and comes up ${LATE_START_MS / 1000} s later`,
    pass: 'nobody ends; /livez 200 and /readyz 503 meanwhile; ready ≤ 2 s after Redis',
    async run(bench) {
      const redis = await deferred(bench, startStandalone())
      await redis.node.kill()
      const stand = await startStand(bench, { redis, awaitReady: false })
      const urls = [...stand.gateways, ...stand.workers].map(({ url }) => url)
      const all = async (path: string, status: number) =>
        (await Promise.all(urls.map((url) => statusOf(url + path)))).every((answer) => answer === status)
      const aliveMs = await takesMs(() => all('/livez', 200), { withinMs: 20_000 })
      bench.figure('all alive without Redis', aliveMs, { unit: 'ms', max: 20_000 })
      const wrong: string[] = []
      const endsMs = performance.now() + LATE_START_MS
      while (performance.now() < endsMs) {
        for (const program of [...stand.gateways, ...stand.workers]) {
          for (const [path, status] of Object.entries({ '/livez': 200, '/readyz': 503 })) {
            const answer = await statusOf(program.url + path)
            if (answer !== status) wrong.push(`${program.name} ${path} ${answer}`)
          }
        }
        await pause(250)
      }
      if (wrong.length > 0) bench.say(`  ${[...new Set(wrong)].join(', ')}`)
      bench.figure('wrong answers of the health routes', wrong.length, { is: 0 })
      await redis.node.start()
      const readyMs = await takesMs(() => all('/readyz', 200), { withinMs: 20_000 })
      bench.figure('all ready after Redis', readyMs, { unit: 'ms', max: 2_000 })
      await checkInvariants(bench, stand)
    },
  },
  {
    id: 'R2',
    title: 'Redis is killed and back after a second, under load',
    pass: '503 p99 ≤ 150 ms, no exchange meanwhile, no session lost, service ≤ 3 s after its return, the same codes log in',
    run: (bench) => runOutage(bench, { outageMs: 1_000 }),
  },
  {
    id: 'R3',
    title: 'Redis is away for 30 s, under load',
    pass: 'as R2, but 503 p99 ≤ 50 ms; reconnected ≤ 2 s, workers at work ≤ 10 s after its return, worker heap + < 20 MB',
    run: (bench) => runOutage(bench, { outageMs: 30_000 }),
  },
  {
    id: 'R3-long',
    title: 'Redis is away for 120 s, under load',
    pass: 'as R3',
    long: true,
    run: (bench) => runOutage(bench, { outageMs: 120_000 }),
  },
  {
    id: 'R4',
    title: 'Redis hangs for 5 s (SIGSTOP), under load',
    pass: '503 p99 ≤ 350 ms, no claim is left behind 200 ms after it goes on, the same codes log in, one exchange a code',
    async run(bench) {
      const redis = await deferred(bench, startStandalone())
      const stand = await startStand(bench, { redis })
      const load = await stand.load(REDIS_LOAD)
      await untilWarm(bench, stand)
      redis.node.stop()
      const fromMs = performance.now()
      await pause(4_500)
      await load.stop()
      const toMs = performance.now()
      await pause(500)
      redis.node.resume()
      await redis.admin.ping()
      await pause(200)
      bench.say(`  ${stand.ledger.summary({ fromMs, toMs })}`)
      bench.figure('claims that nobody holds', await pendingClaims(redis.admin), { is: 0 })
      const p99 = stand.ledger.quantile(0.99, { status: 503, fromMs, toMs })
      bench.figure('503 p99', p99, { unit: 'ms', max: 350 })
      const exchanged = await exchangesWithin(stand, { fromMs, toMs })
      bench.figure('exchanges meanwhile', exchanged, { is: 0 })
      const backMs = await takesMs(async () => answersAll(stand), { withinMs: 10_000 })
      bench.figure('all answer again after it goes on', backMs + 200, { unit: 'ms', max: 3_000 })
      const { sent, lost, slowestMs } = await sendRefusedAgain(stand, { fromMs, toMs })
      bench.figure(`of ${sent} refused codes lost`, lost, { is: 0 })
      bench.figure('slowest of them', slowestMs, { unit: 'ms' })
      await checkInvariants(bench, stand)
    },
  },
  {
    id: 'R4-stalls',
    title: 'Redis stalls for 100 ms every second, under load',
    pass: 'nobody notices: no failure, one exchange a code',
    async run(bench) {
      const redis = await deferred(bench, startStandalone())
      const stand = await startStand(bench, { redis })
      const load = await stand.load(REDIS_LOAD)
      await untilWarm(bench, stand)
      const fromMs = performance.now()
      for (let i = 0; i < 10; i += 1) {
        redis.node.stop()
        await pause(100)
        redis.node.resume()
        await pause(900)
      }
      await load.stop()
      bench.say(`  ${stand.ledger.summary({ fromMs })}`)
      bench.figure('failures', stand.ledger.count({ fromMs, status: 503 }), { is: 0 })
      bench.figure('p99', stand.ledger.quantile(0.99, { fromMs }), { unit: 'ms' })
      await checkInvariants(bench, stand)
    },
  },
]

async function runOutage(bench: Bench, { outageMs }: { outageMs: number }): Promise<void> {
  const redis = await deferred(bench, startStandalone())
  const stand = await startStand(bench, { redis })
  const { ledger } = stand
  const load = await stand.load(REDIS_LOAD)
  await untilWarm(bench, stand)
  const heapBefore = await heapOf(stand)
  await redis.node.kill()
  const fromMs = performance.now()
  await pause(outageMs)
  const heapDuring = outageMs > 10_000 ? await heapOf(stand) : 0
  const toMs = performance.now()
  const doneBefore = await stand.worker().metric('provisioning_jobs_total', { outcome: 'done' })
  await redis.node.start()
  const backMs = performance.now()
  const workerMs = takesMs(
    async () => (await stand.worker().metric('provisioning_jobs_total', { outcome: 'done' })) > doneBefore,
    { withinMs: 30_000 },
  )
  await pause(AFTERWARDS_MS)
  await load.stop()

  bench.say(`  meanwhile ${ledger.summary({ fromMs, toMs })}`)
  bench.say(`  afterwards ${ledger.summary({ fromMs: backMs })}`)
  bench.figure('503 p99', ledger.quantile(0.99, { status: 503, fromMs, toMs }), {
    unit: 'ms',
    max: outageMs > SHORT_MS ? 50 : 150,
  })
  bench.figure('answers 401', ledger.count({ status: 401 }), { is: 0 })
  const exchanged = await exchangesWithin(stand, { fromMs, toMs })
  bench.figure('exchanges meanwhile', exchanged, { is: 0 })
  const firstMs = stand.gateways.map(({ url }) =>
    Math.min(...ledger.find({ target: url, status: 200, fromMs: backMs }).map(({ atMs, ms }) => atMs + ms)),
  )
  bench.figure('last gateway reconnected', Math.max(...firstMs) - backMs, { unit: 'ms', max: 2_000 })
  bench.figure('full service after the return', ledger.lastFailureAfterMs(backMs), { unit: 'ms', max: 3_000 })
  bench.figure('worker at work after the return', await workerMs, { unit: 'ms', max: 10_000 })
  if (outageMs > 10_000)
    bench.figure('worker heap, more', (heapDuring - heapBefore) / 1e6, { unit: 'MB', max: 20 })
  const { sent, lost } = await sendRefusedAgain(stand, { fromMs, toMs })
  bench.figure(`of ${sent} refused codes lost`, lost, { is: 0 })
  await checkInvariants(bench, stand)
}

/** What the worker's heap falls to between two collections, about. */
async function heapOf({ worker }: Awaited<ReturnType<typeof startStand>>): Promise<number> {
  let least = Infinity
  for (let i = 0; i < 5; i += 1) {
    least = Math.min(least, await worker().metric('nodejs_heap_size_used_bytes'))
    await pause(100)
  }
  return least
}

async function answersAll({ gateways, client, ledger }: Awaited<ReturnType<typeof startStand>>) {
  const [token = ''] = ledger.sessions.keys()
  const answers = await Promise.all(gateways.map(({ url }) => client.validate(url, token)))
  return answers.every(({ status }) => status === 200)
}

/** Claims with a lease that has not run out, when nobody is logging in: their clients would wait for it in vain. */
async function pendingClaims(admin: Awaited<ReturnType<typeof startStandalone>>['admin']): Promise<number> {
  const [seconds, microseconds] = await admin.time()
  const nowMs = Number(seconds) * 1_000 + Number(microseconds) / 1_000
  let pending = 0
  let cursor = '0'
  do {
    const [next, keys] = await admin.scan(cursor, 'MATCH', 'code:*', 'COUNT', 1_000)
    cursor = next
    const records = await Promise.all(keys.map((key) => admin.hmget(key, 'st', 'lease')))
    pending += records.filter(([state, lease]) => state === 'P' && Number(lease) > nowMs).length
  } while (cursor !== '0')
  return pending
}
