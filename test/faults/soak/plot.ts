/** Line charts as one SVG: several panels over one time axis, each with its unit, its legend and its scale. */

export interface Series {
  name: string
  /** In the order of x; a y that is not a number is a gap. */
  points: readonly (readonly [x: number, y: number])[]
  /** A fitted line, drawn dashed in the same colour. */
  fit?: readonly (readonly [x: number, y: number])[] | undefined
}

export interface Panel {
  title: string
  unit: string
  series: readonly Series[]
  /** A scale by powers of ten, for what spans several of them. */
  logarithmic?: boolean
}

export interface PlotText {
  title: string
  /** Below the title, line by line. */
  notes: readonly string[]
  xLabel: string
  /** Shaded up to here: not part of what is judged. */
  shadedUntil: number
}

const COLUMNS = 2
const PANEL_WIDTH = 600
const PANEL_HEIGHT = 300
const MARGIN = { left: 62, right: 16, top: 34, bottom: 58 }
const NOTE_HEIGHT = 18
const LEGEND_LINE = 15
/** Left free beside the legend for the name of the axis. */
const UNIT_WIDTH = 60
const PLOT = {
  width: PANEL_WIDTH - MARGIN.left - MARGIN.right,
  height: PANEL_HEIGHT - MARGIN.top - MARGIN.bottom,
}
/** Of Okabe and Ito: also told apart by those who see colours differently. */
const COLOURS = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#000000', '#999933']
const TICKS = 5
/** Drawn no finer than the paper is. */
const POINTS_MAX = 600

/** The whole picture. */
export function drawPlot(panels: readonly Panel[], text: PlotText): string {
  const head = 46 + NOTE_HEIGHT * text.notes.length
  const rows = Math.ceil(panels.length / COLUMNS)
  const [width, height] = [COLUMNS * PANEL_WIDTH, head + rows * PANEL_HEIGHT]
  const parts = panels.map((panel, at) => {
    const x = (at % COLUMNS) * PANEL_WIDTH
    const y = head + Math.floor(at / COLUMNS) * PANEL_HEIGHT
    return `<g transform="translate(${x} ${y})">${drawPanel(panel, text)}</g>`
  })
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" font-family="system-ui, sans-serif" font-size="12" fill="#222">`,
    `<rect width="${width}" height="${height}" fill="#fff"/>`,
    `<text x="16" y="30" font-size="18" font-weight="600">${escape(text.title)}</text>`,
    ...text.notes.map((note, at) => `<text x="16" y="${52 + NOTE_HEIGHT * at}">${escape(note)}</text>`),
    ...parts,
    '</svg>',
    '',
  ].join('\n')
}

function drawPanel(panel: Panel, { xLabel, shadedUntil }: PlotText): string {
  const points = panel.series.flatMap(({ points }) => points.filter(([, y]) => Number.isFinite(y)))
  const xs = points.map(([x]) => x)
  const ys = points.map(([, y]) => y)
  const scaleX = linear(0, Math.max(1e-9, ...xs), PLOT.width)
  const scaleY = panel.logarithmic ? logarithmic(ys) : linearFromZero(ys)
  const [left, top] = [MARGIN.left, MARGIN.top]
  const bottom = top + PLOT.height
  const px = (x: number) => round(left + scaleX.place(x))
  const py = (y: number) => round(bottom - scaleY.place(y))
  const path = (line: Series['points']) => {
    let pen = 'M'
    return thin(line)
      .map(([x, y]) => {
        if (!Number.isFinite(y)) {
          pen = 'M'
          return ''
        }
        const step = `${pen}${px(x)} ${py(y)}`
        pen = 'L'
        return step
      })
      .join('')
  }

  const grid = scaleY.ticks.map(
    (y) =>
      `<line x1="${left}" x2="${left + PLOT.width}" y1="${py(y)}" y2="${py(y)}" stroke="#ddd"/>` +
      `<text x="${left - 6}" y="${py(y) + 4}" text-anchor="end">${writeTick(y)}</text>`,
  )
  const times = scaleX.ticks.map(
    (x) =>
      `<line x1="${px(x)}" x2="${px(x)}" y1="${bottom}" y2="${bottom + 4}" stroke="#444"/>` +
      `<text x="${px(x)}" y="${bottom + 17}" text-anchor="middle">${writeTick(x)}</text>`,
  )
  const shade =
    shadedUntil > 0
      ? `<rect x="${left}" y="${top}" width="${round(Math.min(PLOT.width, scaleX.place(shadedUntil)))}" height="${PLOT.height}" fill="#f1f1f1"/>`
      : ''
  const lines = panel.series.map((series, at) => {
    const colour = COLOURS[at % COLOURS.length] ?? '#000'
    const fit =
      series.fit === undefined
        ? ''
        : `<path d="${path(series.fit)}" fill="none" stroke="${colour}" stroke-width="1.5" stroke-dasharray="6 4"/>`
    return `<path d="${path(series.points)}" fill="none" stroke="${colour}" stroke-width="1.2" stroke-linejoin="round"/>${fit}`
  })
  return [
    shade,
    `<text x="${left}" y="20" font-size="14" font-weight="600">${escape(panel.title)}</text>`,
    `<text x="${left + PLOT.width}" y="20" text-anchor="end" fill="#666">${escape(panel.unit)}</text>`,
    ...grid,
    ...times,
    `<line x1="${left}" x2="${left}" y1="${top}" y2="${bottom}" stroke="#444"/>`,
    `<line x1="${left}" x2="${left + PLOT.width}" y1="${bottom}" y2="${bottom}" stroke="#444"/>`,
    `<text x="${left + PLOT.width}" y="${bottom + 34}" text-anchor="end" fill="#666">${escape(xLabel)}</text>`,
    ...lines,
    drawLegend(panel.series, left, bottom + 34),
  ].join('')
}

/** Side by side below the axis, in as many lines as it takes; a letter is about six units wide. */
function drawLegend(series: readonly Series[], left: number, top: number): string {
  let x = left
  let y = top
  return series
    .map(({ name }, at) => {
      const colour = COLOURS[at % COLOURS.length] ?? '#000'
      const width = 30 + 6.2 * name.length
      if (x > left && x + width > left + PLOT.width - UNIT_WIDTH) {
        x = left
        y += LEGEND_LINE
      }
      const entry =
        `<line x1="${x}" x2="${x + 16}" y1="${y - 4}" y2="${y - 4}" stroke="${colour}" stroke-width="3"/>` +
        `<text x="${x + 20}" y="${y}" font-size="11">${escape(name)}</text>`
      x += width
      return entry
    })
    .join('')
}

interface Scale {
  place(value: number): number
  ticks: number[]
}

function linear(from: number, to: number, length: number): Scale {
  const step = niceStep((to - from) / TICKS)
  const ticks: number[] = []
  for (let at = Math.ceil(from / step); at * step <= to * (1 + 1e-9); at += 1) ticks.push(at * step)
  return { place: (value) => ((value - from) / (to - from)) * length, ticks }
}

/** From nought, so that what is flat looks flat. */
function linearFromZero(values: readonly number[]): Scale {
  const max = Math.max(0, ...values) || 1
  const step = niceStep(max / TICKS)
  return linear(0, step * Math.ceil((max * 1.02) / step), PLOT.height)
}

function logarithmic(values: readonly number[]): Scale {
  const positive = values.filter((value) => value > 0)
  const low = Math.floor(Math.log10(Math.min(1, ...positive)))
  const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(1, ...positive))))
  return {
    place: (value) => ((Math.log10(Math.max(value, 10 ** low)) - low) / (high - low)) * PLOT.height,
    ticks: Array.from({ length: high - low + 1 }, (_, at) => 10 ** (low + at)),
  }
}

/** 1, 2 or 5 times a power of ten, at least as large. */
export function niceStep(rough: number): number {
  const power = 10 ** Math.floor(Math.log10(rough))
  return power * ([1, 2, 5, 10].find((factor) => factor * power >= rough) ?? 10)
}

/** Of neighbours that fall together, the highest stays: a peak is what one looks for. */
function thin(points: Series['points']): Series['points'] {
  const size = Math.ceil(points.length / POINTS_MAX)
  if (size <= 1) return points
  const kept: (readonly [number, number])[] = []
  for (let at = 0; at < points.length; at += size) {
    const [first, ...others] = points.slice(at, at + size)
    if (first !== undefined)
      kept.push(others.reduce((high, point) => (point[1] > high[1] ? point : high), first))
  }
  return kept
}

function writeTick(value: number): string {
  if (value === 0) return '0'
  if (Math.abs(value) >= 1_000_000) return `${Number((value / 1_000_000).toPrecision(3))} M`
  if (Math.abs(value) >= 10_000) return `${Number((value / 1_000).toPrecision(3))} k`
  return String(Number(value.toPrecision(3)))
}

const round = (value: number) => Math.round(value * 10) / 10

export function escape(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
}
