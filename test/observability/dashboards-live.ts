/**
 * `npm run dashboards:live`: every query of every panel is put to a Prometheus that has watched a day in a minute, with a
 * fault of WeChat in it, and has to have an answer with numbers in it. Ends with 1 when one has none.
 */
import { setTimeout as pause } from 'node:timers/promises'
import { stopSharedPostgres } from '../faults/postgres.ts'
import { runRow } from '../faults/row.ts'
import type { Bench } from '../faults/row.ts'
import { annotationQueries, panelQueries, shippedDashboards } from './dashboards.ts'
import type { ShippedQuery } from './dashboards.ts'
import { startEveryday, startEverydayStand } from './everyday.ts'
import { absentPrometheus } from './prometheus.ts'
import type { Prometheus } from './prometheus.ts'

/** With the recording rules that some panels draw. */
const CONFIG_FILE = new URL('../../deploy/prometheus/prometheus.yml', import.meta.url).pathname
/** Before the fault, of it, and after it. */
const [HEALTHY_MS, FAULT_MS, AFTER_MS] = [25_000, 8_000, 15_000]
const RATES = { loginsPerSecond: 10, validationsPerSecond: 20 }

const absent = absentPrometheus()
if (absent !== undefined) {
  console.error(absent)
  process.exit(1)
}
const result = await runRow(
  { id: 'dashboards', title: 'every panel', pass: 'every query has data', run: askEverything },
  (text) => console.log(text),
)
await stopSharedPostgres()
console.log(result.ok ? 'Passed.' : `FAILED: ${result.faults.join('; ')}`)
process.exit(result.ok ? 0 : 1)

async function askEverything(bench: Bench): Promise<void> {
  const watched = await startEverydayStand(bench, { prometheus: { configFile: CONFIG_FILE } })
  const { stand, prometheus } = watched
  const fromMs = Date.now()
  const day = await startEveryday(bench, watched, RATES)
  await pause(HEALTHY_MS) // here time is what is wanted: rates are of what has been
  const endFault = await stand.wechat.fault({ kind: 'hang_before' })
  await pause(FAULT_MS)
  await endFault()
  await pause(AFTER_MS)
  await day.stop()
  bench.say(
    `  ${Object.entries(day.done)
      .map(([deed, times]) => `${deed} ×${times}`)
      .join(', ')}`,
  )

  const during = { fromMs, toMs: Date.now() }
  const queries = panelQueries()
  const silent = await withoutData(prometheus, queries, during)
  for (const { where, expr } of silent) bench.say(`✗ no data: ${where}\n    ${expr}`)
  bench.figure('queries of panels', queries.length, { min: 140 })
  bench.figure('queries without data', silent.length, { is: 0 })
  for (const { filled } of annotationQueries()) await prometheus.range(filled, during)

  const unanswered = []
  for (const { file, templating } of shippedDashboards()) {
    for (const { name, definition } of templating.list) {
      const [, metric, label] = /^label_values\((\w+), (\w+)\)$/.exec(definition ?? '') ?? []
      if (metric === undefined || label === undefined) continue
      const series = await prometheus.query(metric)
      if (!series.some(({ labels }) => labels[label] !== undefined)) unanswered.push(`${file}: ${name}`)
    }
  }
  bench.check(`every variable has values (${unanswered.join(', ')})`, unanswered.length === 0)
}

async function withoutData(
  prometheus: Prometheus,
  queries: readonly ShippedQuery[],
  during: { fromMs: number; toMs: number },
): Promise<ShippedQuery[]> {
  const silent = []
  for (const query of queries) {
    const series = await prometheus.range(query.filled, during)
    if (!series.some(({ points }) => points.some(([, value]) => Number.isFinite(value)))) silent.push(query)
  }
  return silent
}
