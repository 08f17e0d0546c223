/**
 * The soak: an hour of mixed traffic on three gateways and two workers, with one fault in a hundred of WeChat and of
 * clients, to see whether anything grows that should not.
 *
 *   npm run soak                              an hour
 *   npm run soak -- --minutes 3               a trial, which judges no slopes; its results go to a temporary folder
 *   npm run soak -- --logins 40 --validations 150 --out FOLDER
 *
 * It writes soak.json and soak.svg, and ends with 1 when something was out of bounds.
 */
import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs'
import { cpus, tmpdir, totalmem } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { checkInvariants } from '../invariants.ts'
import { stopSharedPostgres } from '../postgres.ts'
import { CONTAINER_MEMORY } from '../program.ts'
import { describeFigure, runRow } from '../row.ts'
import type { Bench } from '../row.ts'
import { startStand } from '../stand.ts'
import { drawSoak } from './drawing.ts'
import { judge } from './judgement.ts'
import { takePrecedence } from './precedence.ts'
import { createRecording } from './recording.ts'
import type { Recording } from './recording.ts'
import { createSampler } from './sampler.ts'
import { startTraffic } from './traffic.ts'

const SAMPLE_MS = 10_000
const SAMPLES_PER_LINE = 6
const WARM_UP_MINUTES = 15
/** In shorter runs a slope says nothing but how the processes warm up. */
const JUDGED_MINUTES = 45
const RESULTS = fileURLToPath(new URL('../soak-results', import.meta.url))

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '60' },
    logins: { type: 'string', default: '40' },
    validations: { type: 'string', default: '150' },
    out: { type: 'string' },
  },
})
const minutes = positive('minutes')
const warmUpMinutes = Math.min(WARM_UP_MINUTES, minutes / 4)
const isJudged = minutes >= JUDGED_MINUTES

/** One request in a hundred of WeChat's goes wrong, in the ways in which it does. */
const WECHAT_FAULTS = [
  { kind: 'delay', medianMs: 50, p99Ms: 150 },
  { kind: 'errcode', errcode: -1, errmsg: 'system error', probability: 0.003 },
  { kind: 'reset', when: 'before', probability: 0.002 },
  { kind: 'reset', when: 'after', probability: 0.001 },
  { kind: 'status', status: 502, probability: 0.002 },
  { kind: 'hang_before', probability: 0.001 },
  { kind: 'garbage', probability: 0.001 },
]
/** WeChat is asked again after -1 and 502, each time with what the retry budget allows, and by clients who are told to. */
const EXCHANGES_PER_CODE_MAX = 8

const ENVIRONMENT = {
  // Short lives, so that what ends by not being used comes and goes many times in the hour.
  SESSION_TTL_SECONDS: '300',
  PROVISION_REFRESH_SECONDS: '120',
  ...CONTAINER_MEMORY,
  SOAK_FOLDER: mkdtempSync(join(tmpdir(), 'soak-live-')),
  NODE_OPTIONS: `${CONTAINER_MEMORY.NODE_OPTIONS} --import ${new URL('collect.ts', import.meta.url).href}`,
}

await takePrecedence()
let recording: Recording | undefined
const result = await runRow(
  {
    id: 'soak',
    title: `${minutes} minutes of mixed traffic with 1 % faults`,
    pass: 'nothing grows',
    run: soak,
  },
  (text) => console.log(text),
)
await stopSharedPostgres()
writeResults()
console.log(`\n${result.ok ? 'Passed.' : 'FAILED.'}`)
process.exit(result.ok ? 0 : 1)

async function soak(bench: Bench): Promise<void> {
  const stand = await startStand(bench, { gateways: 3, workers: 2, env: ENVIRONMENT })
  for (const fault of WECHAT_FAULTS) await stand.wechat.fault(fault)
  const takeSample = createSampler(bench, stand, { liveFolder: ENVIRONMENT.SOAK_FOLDER })
  const traffic = startTraffic(bench, stand, {
    loginsPerSecond: positive('logins'),
    validationsPerSecond: positive('validations'),
    logoutsPerSecond: 2,
    decryptsPerSecond: 2,
  })
  const recorded = createRecording({ warmUpMinutes })
  recording = recorded

  const startedMs = performance.now()
  for (let number = 1; number * SAMPLE_MS <= minutes * 60_000; number += 1) {
    await until(startedMs + number * SAMPLE_MS)
    const sample = await takeSample()
    recorded.add((performance.now() - startedMs) / 60_000, sample, traffic.takeInterval())
    if (number % SAMPLES_PER_LINE === 0) bench.say(`  ${recorded.line()}`)
  }
  await traffic.stop()

  bench.say(
    `  ${Object.entries(traffic.acts)
      .map(([act, count]) => `${act} ×${count}`)
      .join(', ')}`,
  )
  bench.say(`  answers: ${stand.ledger.summary()}`)
  judge(bench, recorded, { wrongs: traffic.wrongs, isJudged })
  await checkInvariants(bench, stand, { exchangesPerCode: EXCHANGES_PER_CODE_MAX })
}

function writeResults(): void {
  if (recording === undefined) return
  const folder = values.out ?? (isJudged ? RESULTS : mkdtempSync(join(tmpdir(), 'soak-')))
  mkdirSync(folder, { recursive: true })
  const figures = result.figures.map(describeFigure)
  const about = {
    date: new Date().toISOString().slice(0, 10),
    minutes,
    warmUpMinutes,
    machine: `${cpus().length} cores (${cpus()[0]?.model.trim()}), ${Math.round(totalmem() / 2 ** 30)} GiB`,
    node: process.version,
    passed: result.ok,
    figures,
    faults: result.faults,
  }
  const columns = recording.columns()
  const lines = Object.entries(columns).map(
    ([name, column]) => `  ${JSON.stringify(name)}: ${JSON.stringify(column)}`,
  )
  const head = JSON.stringify(about, null, 1).slice(0, -2)
  writeFileSync(join(folder, 'soak.json'), `${head},\n "samples": {\n${lines.join(',\n')}\n }\n}\n`)
  const slopes = result.figures
    .filter(({ name }) => /RSS, gateway/.test(name))
    .map(({ value }) => value.toFixed(2))
  writeFileSync(
    join(folder, 'soak.svg'),
    drawSoak(recording, {
      title: `${minutes} minutes of mixed traffic, 3 gateways, 2 workers: ${result.ok ? 'passed' : 'failed'}`,
      notes: [
        `${values.logins} logins/s and ${values.validations} validations/s with log-outs, double taps, open data, and 1 % faults of WeChat and of clients. ${about.date}, ${about.machine}, Node ${about.node}.`,
        `Shaded: warm-up, not judged. Dashed: least squares, of counts by the lowest of each minute. Slopes of the gateways' RSS: ${slopes.join(', ')} MB/h.`,
      ],
    }),
  )
  console.log(`\nWritten: ${join(folder, 'soak.json')}, ${join(folder, 'soak.svg')}`)
}

function positive(name: 'minutes' | 'logins' | 'validations'): number {
  const value = Number(values[name])
  if (value > 0 && value <= 10_000) return value
  console.error(`--${name} must be a number above 0`)
  return process.exit(2)
}

function until(dueMs: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, Math.max(0, dueMs - performance.now()))
  })
}
