/** One panel as SVG, in the manner of Grafana's dark theme. */
import type { Colour, Panel } from '../../../deploy/grafana/dashboard.ts'
import { escape } from '../../faults/soak/plot.ts'
import { scaleFor, write } from './values.ts'

export interface DrawnSeries {
  name: string
  /** Unix milliseconds. What is not a number is a gap. */
  points: readonly (readonly [atMs: number, value: number])[]
}

export interface Moments {
  fromMs: number
  toMs: number
  stepMs: number
  /** Alerts that fired, and starts of processes. */
  bands: readonly { fromMs: number; toMs: number; colour: Colour }[]
}

export interface Size {
  width: number
  height: number
}

export const TEXT = '#ccccdc'
export const MUTED = '#9a9ba6'
const GRID = '#2b2e36'
const PANEL = '#181b1f'
const BORDER = '#26282e'

/** Of Grafana's classic palette. */
const PALETTE = [
  '#73bf69',
  '#f2cc0c',
  '#5794f2',
  '#ff780a',
  '#f2495c',
  '#b877d9',
  '#8ab8ff',
  '#ffa6b0',
  '#96d98d',
  '#ca95e5',
]
const COLOURS: Record<Colour, string> = {
  green: '#73bf69',
  yellow: '#f2cc0c',
  orange: '#ff9830',
  red: '#f2495c',
  blue: '#5794f2',
  purple: '#b877d9',
  grey: '#8e8e99',
}
const SERIES_MAX = 9
const MARGIN = { left: 56, right: 12, top: 30 }
const LEGEND_LINE = 15
/** Measured of a sans-serif of 11 px; a little wide rather than narrow. */
const LETTER_WIDTH = 6.6

export function drawPanel(
  panel: Panel,
  series: readonly DrawnSeries[],
  size: Size,
  moments: Moments,
): string {
  const title = `<text x="10" y="19" font-size="12.5" font-weight="600" fill="${TEXT}">${escape(fit(panel.title, size.width - 20, 7))}</text>`
  return (
    `<rect width="${size.width}" height="${size.height}" rx="3" fill="${PANEL}" stroke="${BORDER}"/>${title}` +
    DRAWINGS[panel.kind](panel, series, size, moments)
  )
}

type Drawing = (panel: Panel, series: readonly DrawnSeries[], size: Size, moments: Moments) => string
const DRAWINGS: Record<Panel['kind'], Drawing> = { lines: drawLines, stat: drawStat, states: drawStates }

function drawLines(panel: Panel, all: readonly DrawnSeries[], size: Size, moments: Moments): string {
  // As in the palette of Grafana, a colour goes by the place among all; then the largest are shown.
  const coloured = all.map((one, at) => ({ ...one, colour: colourOf(panel, one.name, at) }))
  const shown = new Set(coloured.toSorted((a, b) => highest(b) - highest(a)).slice(0, SERIES_MAX))
  const series = coloured.filter((one) => shown.has(one))
  const legend = drawLegend(
    series.map(({ name, colour }) => ({ text: name, colour })),
    all.length - series.length,
    size,
  )
  const bottom = size.height - legend.height - 24
  const layers = panel.stacked ? stack(series) : series
  const { top, ticks } = scaleFor(Math.max(0, ...layers.map(highest)), panel.unit)
  const x = (atMs: number) =>
    MARGIN.left +
    ((atMs - moments.fromMs) / (moments.toMs - moments.fromMs)) * (size.width - MARGIN.left - MARGIN.right)
  const y = (value: number) => bottom - (Math.min(value, top) / top) * (bottom - MARGIN.top)

  const grid = ticks.map(
    (tick) =>
      `<path d="M${MARGIN.left} ${half(y(tick))}H${size.width - MARGIN.right}" stroke="${GRID}"/>` +
      `<text x="${MARGIN.left - 6}" y="${half(y(tick) + 4)}" text-anchor="end">${write(tick, panel.unit)}</text>`,
  )
  const limits = (panel.thresholds ?? [])
    .filter(({ from }) => from <= top)
    .map(
      ({ from, colour }) =>
        `<path d="M${MARGIN.left} ${half(y(from))}H${size.width - MARGIN.right}" stroke="${COLOURS[colour]}" stroke-dasharray="6 4" opacity=".8"/>`,
    )
  const drawn = layers.map((layer, at) => {
    const under = panel.stacked ? layers[at - 1] : undefined
    const runs = runsOf(layer.points, moments.stepMs)
    const line = runs.map((run) => path(run.map(([atMs, value]) => [x(atMs), y(value)]))).join('')
    const area = runs
      .map((run) => {
        const floor = new Map(under?.points)
        const back = run.toReversed().map(([atMs]): Point => [x(atMs), y(floor.get(atMs) || 0)])
        return `${path([...run.map(([atMs, value]): Point => [x(atMs), y(value)]), ...back])}z`
      })
      .join('')
    return (
      `<path d="${area}" fill="${layer.colour}" opacity="${panel.stacked ? 0.4 : 0.08}"/>` +
      `<path d="${line}" fill="none" stroke="${layer.colour}" stroke-width="1.3" stroke-linejoin="round"/>`
    )
  })
  return [
    `<g font-size="10.5" fill="${MUTED}">${grid.join('')}${drawTimes(x, bottom, moments)}</g>`,
    drawBands(x, MARGIN.top, bottom, moments),
    ...limits,
    ...drawn,
    legend.svg,
  ].join('')
}

function drawStat(panel: Panel, [series]: readonly DrawnSeries[], size: Size, moments: Moments): string {
  const points = series?.points.filter(([, value]) => Number.isFinite(value)) ?? []
  const last = points.at(-1)?.[1]
  if (last === undefined) return centred('No data', size, MUTED)
  const { text, colour } = panel.values?.[last] ?? {
    text: write(last, panel.unit),
    colour: levelOf(panel, last),
  }
  const top = Math.max(...points.map(([, value]) => value)) || 1
  const place = ([atMs, value]: readonly [number, number]): Point => [
    1 + ((atMs - moments.fromMs) / (moments.toMs - moments.fromMs)) * (size.width - 2),
    size.height - 2 - (Math.max(0, value) / top) * (size.height * 0.3),
  ]
  const spark = path(points.map(place))
  return (
    `<path d="${spark}L${size.width - 1} ${size.height - 1}H1z" fill="${COLOURS[colour]}" opacity=".15"/>` +
    `<path d="${spark}" fill="none" stroke="${COLOURS[colour]}" opacity=".6"/>` +
    centred(text, size, COLOURS[colour])
  )
}

function drawStates(panel: Panel, series: readonly DrawnSeries[], size: Size, moments: Moments): string {
  const legend = drawLegend(
    Object.values(panel.values ?? {}).map(({ text, colour }) => ({ text, colour: COLOURS[colour] })),
    0,
    size,
  )
  const bottom = size.height - legend.height - 24
  const shown = series.slice(0, SERIES_MAX)
  const left = Math.min(
    size.width * 0.4,
    18 + LETTER_WIDTH * Math.max(0, ...shown.map(({ name }) => name.length)),
  )
  const x = (atMs: number) =>
    left + ((atMs - moments.fromMs) / (moments.toMs - moments.fromMs)) * (size.width - left - MARGIN.right)
  const height = Math.min(34, (bottom - MARGIN.top) / Math.max(1, shown.length))
  const rows = shown.map(({ name, points }, at) => {
    const y = half(MARGIN.top + at * height + height * 0.12)
    const spans = spansOf(points, moments.stepMs).map(({ fromMs, toMs, value }) => {
      const colour = COLOURS[panel.values?.[value]?.colour ?? 'grey']
      const from = x(fromMs)
      return `<rect x="${half(from)}" y="${y}" width="${half(x(Math.min(toMs, moments.toMs)) - from)}" height="${half(height * 0.76)}" fill="${colour}" opacity=".8"/>`
    })
    const label = `<text x="10" y="${half(MARGIN.top + (at + 0.5) * height + 4)}" font-size="11" fill="${TEXT}">${escape(fit(name, left - 14, LETTER_WIDTH))}</text>`
    return label + spans.join('')
  })
  return [
    ...rows,
    `<g font-size="10.5" fill="${MUTED}">${drawTimes(x, bottom, moments)}</g>`,
    legend.svg,
  ].join('')
}

/** Minutes and seconds since the beginning. */
function drawTimes(x: (atMs: number) => number, bottom: number, { fromMs, toMs }: Moments): string {
  const seconds = (toMs - fromMs) / 1000
  const step = seconds > 100 ? 30 : 10
  let times = ''
  for (let at = step; at < seconds - step / 4; at += step) {
    const clock = `${Math.floor(at / 60)}:${String(at % 60).padStart(2, '0')}`
    times += `<text x="${half(x(fromMs + at * 1000))}" y="${half(bottom + 15)}" text-anchor="middle">${clock}</text>`
  }
  return times
}

function drawBands(
  x: (atMs: number) => number,
  top: number,
  bottom: number,
  { bands, fromMs, toMs }: Moments,
): string {
  return bands
    .map((band) => {
      const from = x(Math.max(band.fromMs, fromMs))
      const width = Math.max(1, x(Math.min(band.toMs, toMs)) - from)
      return `<rect x="${half(from)}" y="${top}" width="${half(width)}" height="${half(bottom - top)}" fill="${COLOURS[band.colour]}" opacity="${width <= 1 ? 0.8 : 0.1}"/>`
    })
    .join('')
}

function drawLegend(entries: readonly { text: string; colour: string }[], left: number, size: Size) {
  const room = size.width - 20
  let x = 10
  let lines = 1
  const more = left > 0 ? [{ text: `and ${left} smaller`, colour: 'none' }] : []
  const placed = [...entries, ...more].map(({ text, colour }) => {
    const label = fit(text, room - 18, LETTER_WIDTH)
    const width = 26 + LETTER_WIDTH * label.length
    if (x > 10 && x + width > 10 + room) {
      x = 10
      lines += 1
    }
    const at = { label, colour, x, line: lines }
    x += width
    return at
  })
  const height = LEGEND_LINE * lines
  const svg = placed
    .map(({ label, colour, x: start, line }) => {
      const y = size.height - height - 6 + LEGEND_LINE * line
      return (
        `<rect x="${half(start)}" y="${half(y - 5)}" width="12" height="3" rx="1" fill="${colour}"/>` +
        `<text x="${half(start + 17)}" y="${half(y)}">${escape(label)}</text>`
      )
    })
    .join('')
  return { height, svg: `<g font-size="11" fill="${TEXT}">${svg}</g>` }
}

function colourOf({ colours = {} }: Panel, name: string, at: number): string {
  const own = colours[name]
  if (own !== undefined) return COLOURS[own]
  const taken = new Set(Object.values(colours).map((colour) => COLOURS[colour]))
  const free = PALETTE.filter((colour) => !taken.has(colour))
  return free[at % free.length] ?? MUTED
}

function levelOf({ thresholds = [] }: Panel, value: number): Colour {
  return thresholds.findLast(({ from }) => value >= from)?.colour ?? 'green'
}

/** Each upon those before it; what has a gap adds nothing there. */
function stack<Series extends DrawnSeries>(series: readonly Series[]): Series[] {
  const sums = new Map<number, number>()
  const times = [...new Set(series.flatMap(({ points }) => points.map(([atMs]) => atMs)))].toSorted(
    (a, b) => a - b,
  )
  return series.map((one) => {
    const own = new Map(one.points)
    const points = times.map((atMs) => {
      const sum = (sums.get(atMs) ?? 0) + (own.get(atMs) || 0)
      sums.set(atMs, sum)
      return [atMs, sum] as const
    })
    return { ...one, points }
  })
}

function highest({ points }: DrawnSeries): number {
  return points.reduce((max, [, value]) => (Number.isFinite(value) ? Math.max(max, value) : max), 0)
}

type Line = (readonly [atMs: number, value: number])[]

/** Without the gaps: where nothing was scraped, and where there is no number. */
function runsOf(points: DrawnSeries['points'], stepMs: number): Line[] {
  const runs: Line[] = []
  let lastMs = -Infinity
  for (const point of points) {
    if (!Number.isFinite(point[1])) continue
    if (point[0] - lastMs > 1.5 * stepMs) runs.push([])
    runs.at(-1)?.push(point)
    lastMs = point[0]
  }
  return runs
}

/** Times of one value, without a gap. */
export function spansOf(points: DrawnSeries['points'], stepMs: number) {
  const spans: { fromMs: number; toMs: number; value: number }[] = []
  for (const [atMs, value] of points) {
    const last = spans.at(-1)
    if (last !== undefined && last.value === value && atMs - last.toMs < stepMs / 2) last.toMs = atMs + stepMs
    else spans.push({ fromMs: atMs, toMs: atMs + stepMs, value })
  }
  return spans
}

type Point = readonly [x: number, y: number]

/** Relative steps, and none in the middle of what is level: a picture of fifty charts has to be small. */
function path(points: readonly Point[]): string {
  const rounded = points.map(([x, y]): Point => [half(x), half(y)])
  const kept = rounded.filter(([, y], at) => rounded[at - 1]?.[1] !== y || rounded[at + 1]?.[1] !== y)
  const [first, ...others] = kept
  if (first === undefined) return ''
  let [atX, atY] = first
  return `M${atX} ${atY}${others
    .map(([x, y]) => {
      const step = `l${half(x - atX)} ${half(y - atY)}`
      atX = x
      atY = y
      return step
    })
    .join('')}`
}

function centred(text: string, { width, height }: Size, colour: string): string {
  const size = Math.min(30, (width - 16) / (0.6 * text.length))
  return `<text x="${width / 2}" y="${half(height * 0.62)}" text-anchor="middle" font-size="${half(size)}" font-weight="600" fill="${colour}">${escape(text)}</text>`
}

function fit(text: string, width: number, letterWidth: number): string {
  const letters = Math.floor(width / letterWidth)
  return text.length <= letters ? text : `${text.slice(0, Math.max(1, letters - 1))}…`
}

const half = (value: number) => Math.round(value * 2) / 2
