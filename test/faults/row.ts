/**
 * What a row of the fault bench is, and what it is given. A row causes one fault on real processes, measures,
 * and says which figure passes; the catalogue's words are in its `pass`.
 */

export interface Row {
  /** As in the catalogue: R2, U11. A variant has a suffix: W4-long. */
  id: string
  /** The fault, in a line. */
  title: string
  /** What passes, in a line. */
  pass: string
  /** In the selection that the gate runs (`--short`): below half a minute, and no figure that a busy machine spoils. */
  short?: boolean
  /** Its figures want the machine for themselves: never run beside another row. */
  alone?: boolean
  /** Takes minutes; run by `--all` and by name only. */
  long?: boolean
  /** Why it cannot be run here; undefined: it can. */
  absent?(): string | undefined
  run(bench: Bench): Promise<void>
}

export interface Bound {
  unit?: string
  max?: number
  min?: number
  is?: number
}

/** What a row works with: its one run. */
export interface Bench {
  /** A progress line. */
  say(text: string): void
  /** Notes a figure; the row fails when it is out of bounds, and goes on. */
  figure(name: string, value: number, bound: Bound): void
  /** What must be so. The row fails when it is not, and goes on. */
  check(what: string, holds: boolean): void
  /** Run when the row ends, last first, whether it passed or not. */
  defer(close: () => unknown): void
}

/** One measured figure of one run. */
export interface Figure extends Bound {
  name: string
  value: number
  ok: boolean
}

export interface RunResult {
  ok: boolean
  seconds: number
  figures: Figure[]
  /** What failed beside the figures. */
  faults: string[]
}

const CLOSE_MS_MAX = 15_000

/** Runs a row once. Never rejects: whatever goes wrong is a fault of the result. */
export async function runRow(row: Row, say: (text: string) => void): Promise<RunResult> {
  const figures: Figure[] = []
  const faults: string[] = []
  const closers: (() => unknown)[] = []
  const startedMs = performance.now()
  const bench: Bench = {
    say,
    figure(name, value, bound) {
      const figure = { name, value, ...bound, ok: isWithin(value, bound) }
      figures.push(figure)
      say(`${figure.ok ? '  ' : '✗ '}${describeFigure(figure)}`)
    },
    check(what, holds) {
      if (holds) return
      faults.push(what)
      say(`✗ ${what}`)
    },
    defer: (close) => void closers.push(close),
  }
  try {
    await row.run(bench)
  } catch (error) {
    faults.push(error instanceof Error ? error.message : String(error))
    say(`✗ ${error instanceof Error ? error.stack : String(error)}`)
  }
  for (const close of closers.toReversed()) await closeInTime(close, faults)
  if (figures.length === 0) faults.push('the row has measured nothing')
  return {
    ok: faults.length === 0 && figures.every(({ ok }) => ok),
    seconds: Math.round((performance.now() - startedMs) / 100) / 10,
    figures,
    faults,
  }
}

async function closeInTime(close: () => unknown, faults: string[]): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not closed within ${CLOSE_MS_MAX} ms`)), CLOSE_MS_MAX)
  })
  try {
    await Promise.race([close(), late])
  } catch (error) {
    faults.push(`while closing: ${error instanceof Error ? error.message : String(error)}`)
  } finally {
    clearTimeout(timer)
  }
}

function isWithin(value: number, { max, min, is }: Bound): boolean {
  if (!Number.isFinite(value)) return false
  return (
    (max === undefined || value <= max) &&
    (min === undefined || value >= min) &&
    (is === undefined || value === is)
  )
}

/** "503 p99 31 ms (≤ 50)". */
export function describeFigure({ name, value, unit, ...bound }: Figure): string {
  return `${name} ${writeNumber(value)}${unit === undefined || !Number.isFinite(value) ? '' : ` ${unit}`} (${describeBound(bound)})`
}

export function describeBound({ max, min, is }: Bound): string {
  const parts = []
  if (is !== undefined) parts.push(`= ${is}`)
  if (min !== undefined) parts.push(`≥ ${min}`)
  if (max !== undefined) parts.push(`≤ ${max}`)
  return parts.join(', ') || 'reported'
}

export function writeNumber(value: number): string {
  if (!Number.isFinite(value)) return 'never'
  if (Number.isInteger(value)) return String(value)
  return value.toFixed(Math.abs(value) < 10 ? 2 : Math.abs(value) < 100 ? 1 : 0)
}
