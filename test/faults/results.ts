/** What the rows have measured, kept in results.json and shown in RESULTS.md: the worst of all runs, row by row. */
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

interface RowResult {
  id: string
  title: string
  pass: string
  runs: number
  passed: number
  secondsMax: number
  figures: WorstFigure[]
  faults: string[]
  date: string
}

/** Adds the runs of one row in place of what was known of it. */
export function recordResult(row: Row, runs: readonly RunResult[]): void {
  const known = readResults()
  const { id, title, pass } = row
  known[id] = {
    id,
    title,
    pass,
    runs: runs.length,
    passed: runs.filter(({ ok }) => ok).length,
    secondsMax: Math.max(...runs.map(({ seconds }) => seconds)),
    figures: worstFigures(runs.flatMap(({ figures }) => figures)),
    faults: [...new Set(runs.flatMap(({ faults }) => faults))].map(
      (fault) => fault.split('\n')[0]?.slice(0, 300) ?? '',
    ),
    date: new Date().toISOString().slice(0, 10),
  }
  writeFileSync(JSON_FILE, `${JSON.stringify(known, null, 1)}\n`)
}

/** Writes RESULTS.md of all that is known. @param order the ids of all rows, as they are to stand there */
export function writeTable(order: readonly string[]): void {
  const known = readResults()
  const rows = order.flatMap((id) => known[id] ?? [])
  const lines = [
    '# What the fault bench measured',
    '',
    `Made by \`npm run faults -- ROW … --record\`; the worst of all runs of a row. A row that is not here has not been recorded. Machine: ${cpus().length} cores`,
    `(${cpus()[0]?.model.trim()}), ${Math.round(totalmem() / 2 ** 30)} GiB, Node ${process.version}. Load, gateways, workers, WeChat, Redis and Postgres share it.`,
    'Every row is followed by the invariants of [invariants.ts](invariants.ts); what is not within its bound is bold.',
    '',
    '| row | fault | figures: worst (bound) | passed |',
    '|---|---|---|---|',
    ...rows.map(
      ({ id, title, figures, faults, passed, runs }) =>
        `| ${id} | ${escape(title)} | ${[...figures.map(writeFigure), ...faults.map((fault) => `**${escape(fault)}**`)].join('; ')} | ${passed} of ${runs} |`,
    ),
    '',
  ]
  writeFileSync(TABLE_FILE, lines.join('\n'))
}

function readResults(): Record<string, RowResult> {
  if (!existsSync(JSON_FILE)) return {}
  return JSON.parse(readFileSync(JSON_FILE, 'utf8')) as Record<string, RowResult>
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
  const text = `${escape(name)} ${writeNumber(worst)}${unit === undefined ? '' : ` ${unit}`} (${describeBound(bound)})`
  return ok ? text : `**${text}**`
}

function escape(text: string): string {
  return text.replaceAll('|', '\\|').replaceAll('\n', ' ')
}
