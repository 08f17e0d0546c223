/** Results as text: what was found, beside what was found before. */
import type { SceneResult } from './results.ts'
import type { Figures } from './turns.ts'

interface Column {
  title: string
  of: keyof Figures
  digits: number
}

const COLUMNS: readonly Column[] = [
  { title: 'CPU µs', of: 'cpuUs', digits: 1 },
  { title: 'Redis µs', of: 'redisCpuUs', digits: 1 },
  { title: 'both µs', of: 'sumUs', digits: 1 },
  { title: 'paced µs', of: 'pacedCpuUs', digits: 1 },
  { title: 'req/s', of: 'perSecond', digits: 0 },
  { title: 'p50 ms', of: 'p50Ms', digits: 1 },
  { title: 'p95', of: 'p95Ms', digits: 1 },
  { title: 'p99', of: 'p99Ms', digits: 1 },
  { title: 'max', of: 'maxMs', digits: 1 },
  { title: 'Redis cmds', of: 'redisCommands', digits: 1 },
  { title: 'trips', of: 'redisTrips', digits: 1 },
  { title: 'GC µs', of: 'gcUs', digits: 1 },
  { title: 'kB alloc.', of: 'allocatedKb', digits: 1 },
  { title: 'RSS MB', of: 'rssMb', digits: 0 },
  { title: 'B client', of: 'clientBytes', digits: 0 },
  { title: 'B Redis', of: 'redisBytes', digits: 0 },
  { title: 'right %', of: 'rightPercent', digits: 1 },
  { title: 'exchanges/code', of: 'exchangesPerCode', digits: 2 },
]

/** The columns of which anything was measured; CPU with its spread, and with the change since `before`. */
export function sceneTable({ subjects }: SceneResult, before: SceneResult | undefined): string {
  const columns = COLUMNS.filter(({ of }) =>
    Object.values(subjects).some((figures) => figures[of] !== undefined),
  )
  const rows = Object.entries(subjects).map(([label, figures]) => [
    label,
    ...columns.map(({ of, digits }) => cell(figures, before?.subjects[label], of, digits)),
  ])
  return markdown([['', ...columns.map(({ title }) => title)], ...rows])
}

function cell(figures: Figures, before: Figures | undefined, of: string, digits: number): string {
  const found = figures[of]
  if (found === undefined) return '–'
  const text = found.median.toFixed(digits)
  if (of !== 'cpuUs') return text
  const spread = ` (${found.min.toFixed(digits)}–${found.max.toFixed(digits)})`
  const former = before?.[of]?.median
  return text + spread + (former === undefined ? '' : ` ${signed(found.median / former - 1)}`)
}

function signed(share: number): string {
  const percent = Math.round(100 * share)
  return `${percent < 0 ? '−' : '+'}${Math.abs(percent)} %`
}

/** The first row is the head. */
export function markdown([head = [], ...rows]: string[][]): string {
  const widths = head.map((_, at) => Math.max(...[head, ...rows].map((row) => (row[at] ?? '').length)))
  const line = (row: string[]) => `| ${row.map((text, at) => text.padEnd(widths[at] ?? 0)).join(' | ')} |`
  return [line(head), `|${widths.map((width) => '-'.repeat(width + 2)).join('|')}|`, ...rows.map(line)].join(
    '\n',
  )
}
