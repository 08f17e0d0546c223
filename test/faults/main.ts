/**
 * The fault bench: causes the faults of the catalogue on real processes and measures what comes of them.
 *
 *   npm run faults -- --list
 *   npm run faults -- R2 U11            rows by name
 *   npm run faults -- --short           the selection of the gate
 *   npm run faults -- --all --times 5 --parallel 3 --record
 *   npm run faults -- --mutations       rows fail when what they test is taken out; all, or those of the named rows
 *
 * It ends with 1 when a row failed. `--record` keeps the figures in results.json and RESULTS.md.
 */
import { parseArgs } from 'node:util'
import { stopSharedPostgres } from './postgres.ts'
import { recordResult, writeTable } from './results.ts'
import { describeFigure, runRow } from './row.ts'
import type { Row, RunResult } from './row.ts'
import { ROWS } from './rows.ts'
import { runMutations } from './run-mutations.ts'

const EXIT_USAGE = 2
const EXIT_SIGNAL = 130

// What was started ends with this process (program.ts).
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(EXIT_SIGNAL))

const USAGE = `npm run faults -- ROW…        those rows, by name
              -- --short     the selection of the gate
              -- --all       all
              -- --list      what they are
              -- --mutations [ROW…]   rows fail when what they test is taken out
  --times N     runs of each        --parallel N  at a time; rows with bounds of milliseconds want to be alone
  --record      keep the figures in results.json and RESULTS.md`

const { values, positionals } = parseArguments()

if (values.help) {
  console.log(USAGE)
  process.exit(0)
}
if (values.mutations) {
  process.exit((await runMutations(positionals)) === 0 ? 0 : 1)
} else if (values.list) {
  for (const { id, title, pass, short, alone, long } of ROWS) {
    const marks = [short && 'short', alone && 'alone', long && 'long'].filter(Boolean).join(', ')
    console.log(`${id.padEnd(9)}${title}${marks === '' ? '' : ` [${marks}]`}\n         passes: ${pass}`)
  }
} else {
  const rows = chooseRows()
  const failed = await runAll(rows, { times: whole('times'), parallel: whole('parallel') })
  await stopSharedPostgres()
  console.log(
    failed.length === 0
      ? `\nAll ${rows.length} rows passed.`
      : `\nFailed: ${failed.join(', ')} (of ${rows.length}).`,
  )
  process.exit(failed.length === 0 ? 0 : 1)
}

function parseArguments() {
  try {
    return parseArgs({
      allowPositionals: true,
      options: {
        help: { type: 'boolean', short: 'h' },
        list: { type: 'boolean' },
        short: { type: 'boolean' },
        all: { type: 'boolean' },
        times: { type: 'string', default: '1' },
        parallel: { type: 'string', default: '1' },
        record: { type: 'boolean' },
        mutations: { type: 'boolean' },
      },
    })
  } catch (error) {
    console.error(`${error instanceof Error ? error.message : String(error)}\n\n${USAGE}`)
    return process.exit(EXIT_USAGE)
  }
}

function whole(name: 'times' | 'parallel'): number {
  const value = Number(values[name])
  if (Number.isInteger(value) && value >= 1 && value <= 1_000) return value
  console.error(`--${name} must be a whole number from 1 to 1000`)
  return process.exit(EXIT_USAGE)
}

function chooseRows(): readonly Row[] {
  const unknown = positionals.filter((id) => !ROWS.some((row) => row.id === id))
  const chosen = ROWS.filter(
    (row) => values.all || (values.short && row.short) || positionals.includes(row.id),
  )
  if (unknown.length === 0 && chosen.length > 0) return chosen
  console.error(
    unknown.length > 0
      ? `No such row: ${unknown.join(', ')}. --list shows them.`
      : 'Name rows, or --short, --all, --list.',
  )
  return process.exit(EXIT_USAGE)
}

/** Those that bear company side by side, then those that do not. Gives the ids of those that failed. */
async function runAll(
  rows: readonly Row[],
  { times, parallel }: { times: number; parallel: number },
): Promise<string[]> {
  const startedMs = performance.now()
  const results = new Map<Row, RunResult[]>(rows.map((row) => [row, []]))
  const absent = rows.filter((row) => {
    const why = row.absent?.()
    if (why !== undefined) console.log(`[${row.id}] not run: ${why}`)
    return why !== undefined
  })
  const present = rows.filter((row) => !absent.includes(row))
  // The long ones first, so that they do not hang over at the end.
  const social = present
    .filter((row) => !row.alone)
    .toSorted((a, b) => Number(b.long ?? false) - Number(a.long ?? false))
  const hermits = present.filter((row) => row.alone)
  let left = present.length * times

  async function runOne(row: Row, nth: number): Promise<void> {
    const label = times === 1 ? `[${row.id}]` : `[${row.id} ${nth}/${times}]`
    console.log(`${label} ${row.title}`)
    const result = await runRow(row, (text) => console.log(`${label} ${text}`))
    const runs = results.get(row) ?? []
    runs.push(result)
    left -= 1
    const minutes = ((performance.now() - startedMs) / 60_000).toFixed(1)
    const broken = [...result.figures.filter(({ ok }) => !ok).map(describeFigure), ...result.faults]
    console.log(
      `${label} ${result.ok ? 'passed' : 'FAILED'} in ${result.seconds} s${broken.length > 0 ? `: ${broken.join('; ')}` : ''} — ${left} runs to go, ${minutes} min so far`,
    )
    if (!values.record) return
    recordResult(row, result)
    writeTable(ROWS.map(({ id }) => id))
  }

  // Round by round, so that a run that is broken off has measured every row about as often.
  await inParallel(roundsOf(social), parallel)
  await inParallel(roundsOf(hermits), 1)
  return rows.filter((row) => results.get(row)?.some(({ ok }) => !ok)).map(({ id }) => id)

  function roundsOf(chosen: readonly Row[]): (() => Promise<void>)[] {
    return Array.from({ length: times }).flatMap((_, at) => chosen.map((row) => () => runOne(row, at + 1)))
  }
}

async function inParallel(tasks: readonly (() => Promise<void>)[], width: number): Promise<void> {
  const queue = [...tasks]
  const lane = async () => {
    for (let task = queue.shift(); task !== undefined; task = queue.shift()) await task()
  }
  await Promise.all(Array.from({ length: width }, lane))
}
