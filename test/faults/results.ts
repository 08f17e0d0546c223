/** What the rows have measured, kept in results.json and shown in RESULTS.md: the worst of a row's last runs. */
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { cpus, totalmem } from 'node:os'
import { describeBound, writeNumber } from './row.ts'
import type { Bound, Figure, Row, RunResult } from './row.ts'

const JSON_FILE = new URL('results.json', import.meta.url)
const TABLE_FILE = new URL('RESULTS.md', import.meta.url)

interface WorstFigure extends Bound {
  name: string
  worst: number
  ok: boolean
}

interface KnownRun extends RunResult {
  date: string
  /** What was measured; with a "+" when the sources differed from it. */
  commit: string
}

interface KnownRow {
  title: string
  pass: string
  /** The last ones, oldest first. */
  runs: KnownRun[]
}

/** As many as a row is judged by. What was measured before a fault was mended is forgotten after as many that were after. */
const RUNS_KEPT = 5
const FAULT_CHARS_MAX = 300

/** Adds a run to what is known of its row. */
export function recordResult({ id, title, pass }: Row, run: RunResult): void {
  const known = readResults()
  const faults = run.faults.map((fault) => fault.split('\n')[0]?.slice(0, FAULT_CHARS_MAX) ?? '')
  const date = new Date().toISOString().slice(0, 10)
  const runs = [...(known[id]?.runs ?? []), { ...run, faults, date, commit: commitOf() }]
  known[id] = { title, pass, runs: runs.slice(-RUNS_KEPT) }
  writeFileSync(JSON_FILE, `${JSON.stringify(known, null, 1)}\n`)
}

function git(...args: string[]): string {
  return execFileSync('git', args, { cwd: new URL('.', import.meta.url), encoding: 'utf8' }).trim()
}

function commitOf(): string {
  try {
    const isChanged = git('status', '--porcelain', '--', ':/src', ':/workers', ':/deploy') !== ''
    return git('rev-parse', '--short', 'HEAD') + (isChanged ? '+' : '')
  } catch {
    return 'unknown'
  }
}

/** Writes RESULTS.md of all that is known. @param order the ids of all rows, as they are to stand there */
export function writeTable(order: readonly string[]): void {
  const known = readResults()
  const rows = order.flatMap((id) => (known[id] === undefined ? [] : [{ id, ...known[id] }]))
  const passed = rows.filter(({ runs }) => runs.every(({ ok }) => ok)).length
  const lines = [
    '# What the fault bench measured',
    '',
    `Made by \`npm run faults -- ROW … --record\`; the worst of the last ${RUNS_KEPT} runs of a row, or of fewer where it has not been`,
    `recorded as often; a row that is not here has not been recorded. ${passed} of ${rows.length} rows passed every time. Machine: ${cpus().length} cores`,
    `(${cpus()[0]?.model.trim()}), ${Math.round(totalmem() / 2 ** 30)} GiB, Node ${process.version}. Load, gateways, workers, WeChat, Redis and Postgres share it.`,
    'Every row is followed by the invariants of [invariants.ts](invariants.ts); what is not within its bound is bold.',
    '',
    '| row | fault | figures: worst (bound) | passed |',
    '|---|---|---|---|',
    ...rows.map(({ id, title, runs }) => {
      const faults = [...new Set(runs.flatMap((run) => run.faults))].map((fault) => `**${escape(fault)}**`)
      const figures = worstFigures(runs.flatMap((run) => run.figures)).map(writeFigure)
      const count = `${runs.filter(({ ok }) => ok).length} of ${runs.length}`
      return `| ${id} | ${escape(title)} | ${[...figures, ...faults].join('; ')} | ${count} |`
    }),
    '',
  ]
  writeFileSync(TABLE_FILE, lines.join('\n'))
}

function readResults(): Record<string, KnownRow> {
  if (!existsSync(JSON_FILE)) return {}
  return JSON.parse(readFileSync(JSON_FILE, 'utf8'), revive) as Record<string, KnownRow>
}

/** What never came took an infinite time, of which JSON makes null. */
function revive(key: string, value: unknown): unknown {
  return key === 'value' && value === null ? Infinity : value
}

/** The largest, or the smallest where the bound is from below. */
export function worstFigures(figures: readonly Figure[]): WorstFigure[] {
  const worst = new Map<string, WorstFigure>()
  for (const { name, value, ok, ...bound } of figures) {
    const before = worst.get(name)
    const isWorse =
      before === undefined ||
      (before.ok && !ok) ||
      (before.ok === ok && (bound.min === undefined ? value > before.worst : value < before.worst))
    if (isWorse) worst.set(name, { name, worst: value, ok, ...bound })
  }
  return [...worst.values()]
}

function writeFigure({ name, worst, unit, ok, ...bound }: WorstFigure): string {
  const text = `${escape(name)} ${writeNumber(worst)}${unit === undefined || !Number.isFinite(worst) ? '' : ` ${unit}`} (${describeBound(bound)})`
  return ok ? text : `**${text}**`
}

function escape(text: string): string {
  return text.replaceAll('|', '\\|').replaceAll('\n', ' ')
}
