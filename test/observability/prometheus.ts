/**
 * A real Prometheus that scrapes a stand each second. It takes the configuration and the rules that are shipped, with
 * two things changed: where the targets are, and how often they are asked.
 */
import { spawnSync } from 'node:child_process'
import { globSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { parse } from 'yaml'
import { freePort, LOOPBACK } from '../../deploy/local/ports.ts'
import { startProgram } from '../faults/program.ts'
import type { Program } from '../faults/program.ts'
import type { Bench } from '../faults/row.ts'
import { until } from '../harness/until.ts'

export interface Target {
  /** host:port */
  address: string
  /** What it is called in the label `instance`. */
  instance: string
}

/** By the name of the job that scrapes them. */
export type Targets = Readonly<Record<string, readonly Target[]>>

export interface PrometheusOptions {
  targets: Targets
  /**
   * A prometheus.yml. Jobs without targets are left out, and so are alertmanagers; all else holds. Absent: a job for
   * each key of `targets`, and no rules.
   */
  configFile?: string
  /** Instead of the configuration's own. */
  ruleFiles?: readonly string[]
  /** Changes the text of a file of rules, so that `for: 15m` need not be waited for, say. */
  rewriteRules?(text: string): string
  /** Default 1000, of scrapes and of rules. */
  everyMs?: number
}

/** One element of an instant vector; a scalar has no labels. */
export interface Sample {
  labels: Readonly<Record<string, string>>
  value: number
}

export interface RangeSeries {
  labels: Readonly<Record<string, string>>
  /** Unix milliseconds. */
  points: readonly (readonly [atMs: number, value: number])[]
}

export interface Alert {
  name: string
  state: 'pending' | 'firing'
  labels: Readonly<Record<string, string>>
  annotations: Readonly<Record<string, string>>
}

export interface Rule {
  name: string
  type: 'alerting' | 'recording'
  health: 'ok' | 'err' | 'unknown'
  lastError: string
}

export type Prometheus = Awaited<ReturnType<typeof startPrometheus>>

const SCRAPE_MS = 1_000
const API_MS_MAX = 10_000
const WAIT_MS = 30_000

/** Why there is none on this machine; undefined: there is. */
export function absentPrometheus(): string | undefined {
  return spawnSync('prometheus', ['--version']).status === 0
    ? undefined
    : 'there is no Prometheus on this machine (apt-get install prometheus)'
}

/** Resolves when it takes queries. It ends with the row. */
export async function startPrometheus(bench: Bench, options: PrometheusOptions) {
  const folder = mkdtempSync(join(tmpdir(), 'gateway-prometheus-'))
  bench.defer(() => rmSync(folder, { recursive: true, force: true }))
  const configFile = join(folder, 'prometheus.yml')
  for (const [job, targets] of Object.entries(options.targets)) setTargets(job, targets)
  writeFileSync(configFile, JSON.stringify(configuration(folder, options))) // YAML includes JSON
  const port = await freePort()
  const url = `http://${LOOPBACK}:${port}`
  const program: Program = await startProgram({
    name: 'prometheus',
    command: [
      'prometheus',
      `--config.file=${configFile}`,
      `--storage.tsdb.path=${join(folder, 'data')}`,
      `--web.listen-address=${LOOPBACK}:${port}`,
    ],
    readyText: 'Server is ready to receive web requests',
  })
  bench.defer(() => program.end('SIGKILL'))

  /** Prometheus notices the change of the file by itself. */
  function setTargets(job: string, targets: readonly Target[]): void {
    const groups = targets.map(({ address, instance }) => ({ targets: [address], labels: { instance } }))
    const file = targetsFile(folder, job)
    writeFileSync(`${file}.new`, JSON.stringify(groups))
    renameSync(`${file}.new`, file) // never half of it
  }

  /** @throws what Prometheus says of a query that it does not take */
  async function ask<T>(path: string, parameters: Record<string, string> = {}): Promise<T> {
    const answer = await fetch(`${url}/api/v1/${path}`, {
      ...(Object.keys(parameters).length > 0 && { method: 'POST', body: new URLSearchParams(parameters) }),
      signal: AbortSignal.timeout(API_MS_MAX),
    })
    const { status, data, error } = (await answer.json()) as { status: string; data: T; error?: string }
    if (status !== 'success') throw new Error(`${error}: ${JSON.stringify(parameters)}`)
    return data
  }

  async function query(expr: string, atMs?: number): Promise<Sample[]> {
    const { resultType, result } = await ask<QueryData>('query', {
      query: expr,
      ...(atMs !== undefined && { time: String(atMs / 1000) }),
    })
    if (resultType === 'scalar') return [{ labels: {}, value: Number(result[1]) }]
    if (resultType !== 'vector') throw new Error(`a ${resultType} is no answer of an instant: ${expr}`)
    return result.map(({ metric, value: [, text] }) => ({ labels: metric, value: Number(text) }))
  }

  async function range(
    expr: string,
    { fromMs, toMs, stepMs = SCRAPE_MS }: { fromMs: number; toMs: number; stepMs?: number },
  ): Promise<RangeSeries[]> {
    const { result } = await ask<{ result: { metric: Labels; values: [number, string][] }[] }>(
      'query_range',
      {
        query: expr,
        start: String(fromMs / 1000),
        end: String(toMs / 1000),
        step: String(stepMs / 1000),
      },
    )
    return result.map(({ metric, values }) => ({
      labels: metric,
      points: values.map(([seconds, text]) => [seconds * 1000, Number(text)] as const),
    }))
  }

  /** All that are pending or firing. */
  async function alerts(): Promise<Alert[]> {
    const data = await ask<{
      alerts: { labels: Labels; annotations: Labels; state: Alert['state'] }[]
    }>('alerts')
    return data.alerts.map(({ labels, annotations, state }) => ({
      name: labels['alertname'] ?? '',
      state,
      labels,
      annotations,
    }))
  }

  /** The names of the alerts that fire, each once. */
  async function firing(): Promise<string[]> {
    const names = (await alerts()).filter(({ state }) => state === 'firing').map(({ name }) => name)
    return [...new Set(names)].toSorted()
  }

  return {
    program,
    url,
    setTargets,
    query,
    range,
    alerts,
    firing,
    async rules(): Promise<Rule[]> {
      const { groups } = await ask<{
        groups: { rules: (Omit<Rule, 'lastError'> & { lastError?: string })[] }[]
      }>('rules')
      return groups.flatMap(({ rules }) =>
        rules.map(({ name, type, health, lastError = '' }) => ({ name, type, health, lastError })),
      )
    },
    /** The first answer that is not empty. */
    untilData: (expr: string, timeoutMs = WAIT_MS): Promise<Sample[]> =>
      until(
        `data of ${expr}`,
        async () => {
          const samples = await query(expr)
          return samples.length > 0 && samples
        },
        timeoutMs,
      ),
    /** Until every target has been scraped with success, those that are new among them. */
    untilScraped: (instances: readonly string[], timeoutMs = WAIT_MS) =>
      timed(
        `scrapes of ${instances.join(', ')}`,
        async () => {
          const up = new Set((await query('up == 1')).map(({ labels }) => labels['instance']))
          return instances.every((instance) => up.has(instance))
        },
        timeoutMs,
      ),
    untilFiring: (name: string, timeoutMs = WAIT_MS) =>
      timed(`the alert ${name}`, async () => (await firing()).includes(name), timeoutMs),
    untilQuiet: (name: string, timeoutMs = WAIT_MS) =>
      timed(`the end of the alert ${name}`, async () => !(await firing()).includes(name), timeoutMs),
  }
}

/** Milliseconds until it holds. @throws when it does not come to hold */
async function timed(what: string, holds: () => Promise<boolean>, timeoutMs: number): Promise<number> {
  const startedMs = performance.now()
  await until(what, holds, timeoutMs)
  return performance.now() - startedMs
}

type Labels = Record<string, string>
type QueryData =
  | { resultType: 'scalar'; result: [number, string] }
  | { resultType: 'vector'; result: { metric: Labels; value: [number, string] }[] }
  | { resultType: 'matrix' | 'string'; result: never }

interface ConfigFile {
  global?: Record<string, unknown>
  rule_files?: string[]
  scrape_configs?: Record<string, unknown>[]
}

/** Keys of a job that say where its targets are. */
const DISCOVERY = /^static_configs$|_sd_configs$/

function configuration(folder: string, options: PrometheusOptions): ConfigFile {
  const { configFile, targets, everyMs = SCRAPE_MS } = options
  const shipped: ConfigFile =
    configFile === undefined
      ? { scrape_configs: Object.keys(targets).map((job) => ({ job_name: job })) }
      : (parse(readFileSync(configFile, 'utf8')) as ConfigFile)
  const jobs = shipped.scrape_configs ?? []
  const unknown = Object.keys(targets).filter((job) => !jobs.some(({ job_name }) => job_name === job))
  if (unknown.length > 0) throw new Error(`${configFile} has no job ${unknown.join(', ')}`)
  const every = `${everyMs}ms`
  return {
    global: {
      ...shipped.global,
      scrape_interval: every,
      scrape_timeout: every,
      evaluation_interval: every,
    },
    rule_files: copyRules(folder, options, shipped.rule_files ?? []),
    scrape_configs: jobs
      .filter(({ job_name }) => targets[String(job_name)] !== undefined)
      .map((job) => ({
        ...Object.fromEntries(Object.entries(job).filter(([key]) => !DISCOVERY.test(key))),
        scrape_interval: every,
        scrape_timeout: every,
        file_sd_configs: [{ files: [targetsFile(folder, String(job['job_name']))] }],
      })),
  }
}

/** As a prometheus.yml has them, its patterns begin at its own folder. */
function copyRules(folder: string, options: PrometheusOptions, shipped: readonly string[]): string[] {
  const { configFile = '', ruleFiles, rewriteRules = (text) => text } = options
  const base = dirname(configFile)
  const files =
    ruleFiles ??
    shipped.flatMap((pattern) => globSync(pattern, { cwd: base }).map((file) => resolve(base, file)))
  mkdirSync(join(folder, 'rules'))
  return files.map((file, at) => {
    // Groups of one name in two files are two groups to Prometheus, so the files stay apart.
    const copy = join(folder, 'rules', `${at}.yml`)
    writeFileSync(copy, rewriteRules(readFileSync(file, 'utf8')))
    return copy
  })
}

function targetsFile(folder: string, job: string): string {
  return join(folder, `targets-${job}.json`)
}
