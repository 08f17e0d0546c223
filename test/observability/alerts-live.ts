/**
 * The alerts, live: a real Prometheus with the shipped configuration and rules, unscaled, scrapes real processes under
 * load, and faults are caused. Each has to fire its alert within 60 s, and no other; a load without a fault fires none.
 *
 *   npm run alerts:live                     all of them, one after another: some 40 minutes
 *   npm run alerts:live -- redis-hung none  by name; none: the load without a fault
 *   npm run alerts:live -- --list
 *
 * It ends with 1 when one did not.
 */
import { setTimeout as pause } from 'node:timers/promises'
import { stopSharedPostgres } from '../faults/postgres.ts'
import { runRow } from '../faults/row.ts'
import type { Bench, Row } from '../faults/row.ts'
import type { StandOptions } from '../faults/stand.ts'
import { ALERT_FAULTS } from './alert-faults.ts'
import type { AlertFault } from './alert-faults.ts'
import { absentPrometheus } from './prometheus.ts'
import { startWatchedStand } from './watched-stand.ts'

const CONFIG_FILE = new URL('../../deploy/prometheus/prometheus.yml', import.meta.url).pathname
/** As it is shipped. */
const SCRAPE_MS = 10_000
/** Before the fault: two evaluations. */
const QUIET_MS = 25_000
const FIRES_MS_MAX = 60_000
/** After the alert: what else would fire. */
const AFTER_MS = 25_000
const HEALTHY_MS = 120_000
const POLL_MS = 1_000
/** All that a stand is made of shares a few cores, and Redis' answers are late for that alone. */
const BUSY_MACHINE = { REDIS_COMMAND_TIMEOUT_MS: '1000' }
const LOAD = { loginsPerSecond: 10, validationsPerSecond: 20, loginsPerUser: 3 }

for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(130))

const HEALTHY: Row = {
  id: 'none',
  title: 'a load without a fault',
  pass: 'no alert fires',
  async run(bench) {
    const { prometheus } = await startWatched(bench, {})
    const fired = await firedWithin(prometheus, HEALTHY_MS)
    bench.figure('alerts', fired.size, { is: 0 })
    await explain(bench, prometheus, fired, [])
  },
}

const rows = [HEALTHY, ...ALERT_FAULTS.map(rowOf)]
const chosen = process.argv.slice(2)
const absent = absentPrometheus()
if (chosen[0] === '--list') {
  for (const { id, title, pass } of rows) console.log(`${id.padEnd(15)}${title}: ${pass}`)
} else if (absent !== undefined) {
  console.error(absent)
  process.exitCode = 1
} else {
  const failed = await runAll(chosen.length === 0 ? rows : rows.filter(({ id }) => chosen.includes(id)))
  console.log(failed.length === 0 ? '\nAll as they should be.' : `\nFailed: ${failed.join(', ')}.`)
  process.exit(failed.length === 0 ? 0 : 1)
}

async function runAll(all: readonly Row[]): Promise<string[]> {
  const failed: string[] = []
  for (const row of all) {
    console.log(`${row.id}: ${row.title}: ${row.pass}`)
    const result = await runRow(row, (text) => console.log(`  ${text}`))
    console.log(`  ${result.ok ? 'passed' : 'FAILED'} after ${result.seconds} s`)
    if (!result.ok) failed.push(row.id)
  }
  await stopSharedPostgres()
  return failed
}

function rowOf({ id, alert, fault, prepare }: AlertFault): Row {
  return {
    id,
    title: fault,
    pass: `${alert} fires within 60 s, and nothing else`,
    async run(bench) {
      const { parts, cause } = await prepare(bench)
      const { stand, prometheus } = await startWatched(bench, parts)
      const before = await firedWithin(prometheus, QUIET_MS)
      bench.check(`${[...before.keys()].join(', ')} fired before the fault`, before.size === 0)
      await cause(stand)
      const causedMs = performance.now()
      const fired = await firedWithin(prometheus, FIRES_MS_MAX, alert)
      for (const [name, atMs] of await firedWithin(prometheus, AFTER_MS))
        if (!fired.has(name)) fired.set(name, atMs)
      bench.figure(`${alert} fires after`, ((fired.get(alert) ?? Infinity) - causedMs) / 1_000, {
        unit: 's',
        max: FIRES_MS_MAX / 1_000,
      })
      bench.figure('alerts that fire', fired.size, { is: 1 })
      await explain(bench, prometheus, fired, [alert])
    },
  }
}

async function startWatched(bench: Bench, parts: StandOptions) {
  const watched = await startWatchedStand(bench, {
    stand: { ...parts, env: BUSY_MACHINE },
    prometheus: { configFile: CONFIG_FILE, everyMs: SCRAPE_MS },
  })
  await watched.stand.load(LOAD)
  return watched
}

/** Says which alerts fired, and what failed meanwhile, if they were others than these. */
async function explain(
  bench: Bench,
  prometheus: Prometheus,
  fired: ReadonlyMap<string, number>,
  expected: readonly string[],
): Promise<void> {
  const names = [...fired.keys()]
  const isAsExpected = names.join() === expected.join()
  bench.check(`fired: ${names.join(', ') || 'nothing'}`, isAsExpected)
  if (isAsExpected) return
  for (const what of [
    'sum by (route, status) (http_requests_total{status=~"5.."}) > 0',
    'sum by (reason) (redis_failures_total) > 0',
    'sum by (outcome) (login_total) > 0',
    'max_over_time(nodejs_eventloop_lag_p99_seconds{job="gateway"}[3m])',
  ])
    for (const { labels, value } of await prometheus.query(what))
      bench.say(`${Object.values(labels).join(' ')}: ${value}`)
}

type Prometheus = Awaited<ReturnType<typeof startWatched>>['prometheus']

/** The alerts that fire at any time within so long, and when they were first seen; or until this one does. */
async function firedWithin(
  prometheus: Prometheus,
  ms: number,
  awaited?: string,
): Promise<Map<string, number>> {
  const endMs = performance.now() + ms
  const fired = new Map<string, number>()
  while (performance.now() < endMs && !fired.has(awaited ?? '')) {
    for (const name of await prometheus.firing()) if (!fired.has(name)) fired.set(name, performance.now())
    await pause(POLL_MS)
  }
  return fired
}
