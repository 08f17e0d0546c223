/** A whole dashboard as SVG: its panels in Grafana's grid, from what Prometheus answered to their queries. */
import type { Dashboard, Panel } from '../../../deploy/grafana/dashboard.ts'
import { layOut } from '../../../deploy/grafana/grafana-json.ts'
import { escape } from '../../faults/soak/plot.ts'
import { drawPanel, MUTED, TEXT } from './panel.ts'
import type { DrawnSeries, Moments } from './panel.ts'

const COLUMN = 50
const LINE = 29
const GAP = 4
const HEAD = 46
const NOTE_LINE = 17

/** @param notes below the title, line by line */
export function drawDashboard(
  { title, question, rows }: Dashboard,
  seriesOf: (panel: Panel) => readonly DrawnSeries[],
  moments: Moments,
  notes: readonly string[],
): string {
  const head = HEAD + NOTE_LINE * notes.length + 8
  const placed = layOut(rows)
  const width = 24 * COLUMN
  const height = head + Math.max(...placed.map(({ grid }) => grid.y + grid.h)) * LINE + GAP
  const parts = placed.map(({ panel, grid }) => {
    const [x, y] = [grid.x * COLUMN + GAP, head + grid.y * LINE + GAP]
    const size = { width: grid.w * COLUMN - 2 * GAP, height: grid.h * LINE - 2 * GAP }
    const inside =
      typeof panel === 'string'
        ? `<text x="4" y="16" font-size="14" font-weight="600" fill="${TEXT}">⌄ ${escape(panel)}</text>`
        : drawPanel(panel, seriesOf(panel), size, moments)
    return `<g transform="translate(${x} ${y})">${inside}</g>`
  })
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" font-family="Inter, system-ui, 'DejaVu Sans', sans-serif">`,
    `<rect width="${width}" height="${height}" fill="#111217"/>`,
    `<text x="12" y="30" font-size="19" font-weight="600" fill="${TEXT}">${escape(title)}<tspan dx="14" font-size="14" font-weight="400" fill="${MUTED}">${escape(question)}</tspan></text>`,
    ...notes.map(
      (note, at) =>
        `<text x="12" y="${HEAD + 6 + NOTE_LINE * at}" font-size="12" fill="${MUTED}">${escape(note)}</text>`,
    ),
    ...parts,
    '</svg>',
    '',
  ].join('\n')
}
