/**
 * Takes out the protections of mutations.ts one after the other, in a copy of the programs, and demands that the row of
 * each passes with it and fails without it: by its figures, not because nothing started. Writes MUTATIONS.md.
 *
 * A row runs in a process of its own (this file again), for where the programs are is settled when it starts.
 */
import { fork } from 'node:child_process'
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { setTimeout as pause } from 'node:timers/promises'
import { join } from 'node:path'
import { MUTATIONS } from './mutations.ts'
import type { Mutation } from './mutations.ts'
import { stopSharedPostgres } from './postgres.ts'
import { describeFigure, runRow } from './row.ts'
import type { RunResult } from './row.ts'
import { ROWS } from './rows.ts'

const ROOT = new URL('../../', import.meta.url).pathname
const TABLE = new URL('MUTATIONS.md', import.meta.url)
/** All that a process of a stand may read. */
const COPIED = ['package.json', 'tsconfig.json', 'src', 'workers', 'deploy', 'test/simulator', 'test/harness']
/** What a figure or an invariant says; anything else, a program that does not start for instance, proves nothing. */
const INVARIANT = /^I[1-79]: /
const SOUND_RUNS_MAX = 2
/** A row may wait for ever for what does not come without its protection. */
const ROW_MS_MAX = 600_000

/**
 * Runs those of the named rows, or all of them. Resolves with the number of protections whose absence was not noticed.
 */
export async function runMutations(rows: readonly string[]): Promise<number> {
  const chosen = MUTATIONS.filter(({ row }) => rows.length === 0 || rows.includes(row))
  const sound = new Map<string, boolean>()
  let unnoticed = 0
  for (const mutation of chosen) {
    const { row } = mutation
    if (!sound.has(row)) sound.set(row, await passes(row))
    const { figures, faults } = await runIn(row, mutation)
    // Rows that go round and round measure the same thing several times.
    const broken = new Map(figures.filter(({ ok }) => !ok).map((figure) => [figure.name, figure]))
    const measured = [
      ...[...broken.values()].map(describeFigure),
      ...faults.filter((fault) => INVARIANT.test(fault)),
    ]
    const noticed = sound.get(row) === true && measured.length > 0
    if (!noticed) unnoticed += 1
    const verdict = noticed ? 'fails' : sound.get(row) ? 'NOT NOTICED' : 'fails also with it'
    console.log(
      `[${row}] without “${mutation.takenOut}”: ${verdict}: ${measured.join('; ') || faults.join('; ')}`,
    )
    if (noticed) writeLine(mutation, measured)
  }
  console.log(
    `\n${chosen.length - unnoticed} of ${chosen.length} protections were missed by their rows when they were taken out.`,
  )
  return unnoticed
}

/** A machine that was busy for a moment is given a second chance; a protection that is missing has none. */
async function passes(row: string): Promise<boolean> {
  for (let runs = 1; runs <= SOUND_RUNS_MAX; runs += 1) if ((await runIn(row, undefined)).ok) return true
  return false
}

/** One run of a row over a copy of the programs, with a protection taken out of it. */
async function runIn(row: string, mutation: Mutation | undefined): Promise<RunResult> {
  const copy = mkdtempSync(join(tmpdir(), 'gateway-mutation-'))
  try {
    for (const name of COPIED) cpSync(join(ROOT, name), join(copy, name), { recursive: true })
    symlinkSync(join(ROOT, 'node_modules'), join(copy, 'node_modules'))
    if (mutation !== undefined) mutate(copy, mutation)
    console.log(`[${row}] ${mutation === undefined ? 'as it is' : `without “${mutation.takenOut}”`}`)
    return await runApart(row, copy)
  } finally {
    rmSync(copy, { recursive: true, force: true })
  }
}

function mutate(root: string, { file, find, replace }: Mutation): void {
  const source = readFileSync(join(root, file), 'utf8')
  const [before, after, ...more] = source.split(find)
  if (after === undefined || more.length > 0) throw new Error(`${file} has not exactly once: ${find}`)
  writeFileSync(join(root, file), `${before}${replace}${after}`)
}

function runApart(row: string, root: string): Promise<RunResult> {
  return new Promise((resolve, reject) => {
    const child = fork(import.meta.filename, [row], {
      env: { ...process.env, FAULTS_ROOT: root },
      serialization: 'advanced', // JSON knows no Infinity
    })
    let result: RunResult | undefined
    child.once('message', (message) => {
      result = message as RunResult
    })
    child.once('error', reject)
    child.once('exit', (code) => {
      if (result === undefined) reject(new Error(`the row ended with ${code} and without a result`))
      else resolve(result)
    })
  })
}

const TABLE_HEAD = [
  '# Rows fail without what they test',
  '',
  'Written by `npm run faults -- --mutations`: one protection at a time is taken out of a copy of the programs, and the',
  'row, which passes with it, has to fail by its figures. What is taken out where: [mutations.ts](mutations.ts).',
  '',
  '| row | taken out | what the row measured then |',
  '|---|---|---|',
]

/** In the order of MUTATIONS; lines of mutations that were not run stay. */
function writeLine(mutation: Mutation, measured: readonly string[]): void {
  const lines = existsSync(TABLE) ? readFileSync(TABLE, 'utf8').split('\n') : []
  const text = measured.map((each) => each.replaceAll('|', String.raw`\|`).replaceAll('\n', ' ')).join('; ')
  lines.push(`${lineStart(mutation)} ${text} |`)
  const rows = MUTATIONS.flatMap((of) => lines.findLast((line) => line.startsWith(lineStart(of))) ?? [])
  writeFileSync(TABLE, `${[...TABLE_HEAD, ...rows].join('\n')}\n`)
}

function lineStart({ row, takenOut }: Mutation): string {
  return `| ${row} | ${takenOut} |`
}

if (process.send !== undefined && import.meta.main) {
  const row = ROWS.find(({ id }) => id === process.argv[2])
  if (row === undefined) throw new Error(`there is no row ${process.argv[2]}`)
  const overdue: RunResult = {
    ok: false,
    seconds: ROW_MS_MAX / 1000,
    figures: [],
    faults: ['it did not end'],
  }
  const result = await Promise.race([
    runRow(row, (text) => console.log(`[${row.id}] ${text}`)),
    pause(ROW_MS_MAX, overdue, { ref: false }),
  ])
  await stopSharedPostgres()
  process.send(result, () => process.exit())
}
