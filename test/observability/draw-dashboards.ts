/**
 * `npm run dashboards:draw`: an evening with faults, in three minutes, watched by Prometheus with the shipped rules; then
 * every dashboard as a picture from the queries of its panels. Not Grafana: what one will see there.
 *
 *   npm run dashboards:draw                    docs/dashboards/*.svg
 *   npm run dashboards:draw -- --out FOLDER
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import type { Colour, Panel } from '../../deploy/grafana/dashboard.ts'
import { DASHBOARDS } from '../../deploy/grafana/dashboards.ts'
import { ANNOTATION_QUERIES } from '../../deploy/grafana/grafana-json.ts'
import { stopSharedPostgres } from '../faults/postgres.ts'
import { startSentinels } from '../faults/redis-servers.ts'
import { runRow } from '../faults/row.ts'
import type { Bench } from '../faults/row.ts'
import { fill } from './dashboards.ts'
import { drawDashboard } from './drawing/dashboard.ts'
import { spansOf } from './drawing/panel.ts'
import type { DrawnSeries, Moments } from './drawing/panel.ts'
import { startEveryday, startEverydayStand } from './everyday.ts'
import { absentPrometheus } from './prometheus.ts'
import type { Prometheus } from './prometheus.ts'

const RATES = { loginsPerSecond: 12, validationsPerSecond: 30 }
const STEP_MS = 2_000
const BYTES_MAX = 200_000
/** Rates have something to be taken of only a while after the start. */
const LEAD_MS = 12_000

const { values } = parseArgs({ options: { out: { type: 'string', default: 'docs/dashboards' } } })
const absent = absentPrometheus()
if (absent !== undefined) {
  console.error(absent)
  process.exit(1)
}
const result = await runRow(
  { id: 'evening', title: 'an evening', pass: 'it is drawn', run: drawEvening },
  (text) => console.log(text),
)
await stopSharedPostgres()
if (!result.ok) console.error(`FAILED: ${result.faults.join('; ')}`)
process.exit(result.ok ? 0 : 1)

async function drawEvening(bench: Bench): Promise<void> {
  const redis = await startSentinels()
  bench.defer(() => redis.close())
  const evening = await startEverydayStand(bench, {
    stand: { redis },
    prometheus: { configFile: 'deploy/prometheus/prometheus.yml' },
  })
  const { stand, prometheus, secondApp } = evening
  await stand.wechat.fault({ kind: 'delay', medianMs: 70, p99Ms: 240 }) // as WeChat does on a good day
  await startEveryday(bench, evening, RATES)
  await pause(LEAD_MS)

  const fromMs = Date.now()
  const told: string[] = []
  /** Waits until it is time, does it, and keeps it for the picture. */
  async function at(second: number, what: string, act: () => Promise<unknown>): Promise<void> {
    await pause(Math.max(0, fromMs + 1000 * second - Date.now()))
    told.push(`${clock(second)} ${what}`)
    bench.say(`  ${told.at(-1)}`)
    await act()
  }

  let endHang: (() => Promise<void>) | undefined
  await at(30, 'WeChat hangs', async () => {
    endHang = await stand.wechat.fault({ kind: 'hang_before' })
  })
  await at(70, 'WeChat answers again', async () => endHang?.())
  await at(100, 'the master of Redis is killed, and Sentinel makes another', async () =>
    (await redis.master()).kill(),
  )
  await at(125, 'gateway-2 is restarted', async () => {
    await stand.gateway(1).end('SIGTERM')
    await stand.gateway(1).start()
  })
  await at(135, 'the AppSecret of the second app is changed in WeChat’s console', () =>
    stand.wechat.control('PUT', '/apps', { appid: secondApp.appid, secret: 'f'.repeat(32) }),
  )
  await at(145, 'both workers are stopped', () =>
    Promise.all(stand.workers.map((worker) => worker.end('SIGTERM'))),
  )
  await at(180, 'now', async () => {})
  const toMs = Date.now()

  const moments: Moments = { fromMs, toMs, stepMs: STEP_MS, bands: await bandsOf(prometheus, fromMs, toMs) }
  const notes = [
    told.slice(0, 3).join(' · '),
    told.slice(3).join(' · '),
    `Alerts that fired: ${await alertsOf(prometheus, fromMs, toMs)}`,
    'Red: an alert fires. Blue: a process has started. Drawn by npm run dashboards:draw from the queries of the panels, put to a real Prometheus that scraped this run each second. Not Grafana itself.',
  ]
  mkdirSync(values.out, { recursive: true })
  for (const [name, dashboard] of Object.entries(DASHBOARDS)) {
    const series = new Map<Panel, DrawnSeries[]>()
    for (const panel of dashboard.rows.flatMap(({ panels }) => panels))
      series.set(panel, await seriesOf(prometheus, panel, moments))
    const svg = drawDashboard(dashboard, (panel) => series.get(panel) ?? [], moments, notes)
    writeFileSync(join(values.out, `${name}.svg`), svg)
    bench.figure(`${name}.svg`, Math.round(Buffer.byteLength(svg) / 1000), {
      unit: 'kB',
      max: BYTES_MAX / 1000,
    })
  }
}

async function seriesOf(
  prometheus: Prometheus,
  panel: Panel,
  { fromMs, toMs, stepMs }: Moments,
): Promise<DrawnSeries[]> {
  const answers = await Promise.all(
    panel.queries.map(async ({ expr, legend }) => {
      const series = await prometheus.range(fill(expr), { fromMs, toMs, stepMs })
      return series.map(({ labels, points }) => ({ name: nameOf(legend, labels), points }))
    }),
  )
  return answers.flat()
}

/** {{label}} is its value. */
function nameOf(legend: string, labels: Readonly<Record<string, string>>): string {
  return legend.replaceAll(/\{\{(\w+)\}\}/g, (_, label: string) => labels[label] ?? '').trim()
}

/** When the annotations of the dashboards are to be seen. */
async function bandsOf(prometheus: Prometheus, fromMs: number, toMs: number): Promise<Moments['bands']> {
  const bands: { fromMs: number; toMs: number; colour: Colour }[] = []
  for (const { expr, colour } of ANNOTATION_QUERIES) {
    const stepMs = 1_000
    for (const { points } of await prometheus.range(expr, { fromMs, toMs, stepMs })) {
      if (colour === 'red') {
        for (const { fromMs: from, toMs: to } of spansOf(points, stepMs))
          bands.push({ fromMs: from, toMs: to, colour })
        continue
      }
      // Of a start only its moment, and none that was before all this.
      const [startMs] = points[0] ?? []
      if (startMs !== undefined && startMs - fromMs > stepMs)
        bands.push({ fromMs: startMs, toMs: startMs, colour })
    }
  }
  return bands
}

/** "WechatCircuitOpen from 0:52", by when they began. */
async function alertsOf(prometheus: Prometheus, fromMs: number, toMs: number): Promise<string> {
  const series = await prometheus.range('max by (alertname) (ALERTS{alertstate="firing"})', { fromMs, toMs })
  return series
    .map(({ labels, points }) => ({ name: labels['alertname'], atMs: points[0]?.[0] ?? toMs }))
    .toSorted((a, b) => a.atMs - b.atMs)
    .map(({ name, atMs }) => `${name} from ${clock(Math.round((atMs - fromMs) / 1000))}`)
    .join(', ')
}

function clock(seconds: number): string {
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, '0')}`
}
