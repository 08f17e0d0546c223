/** The picture of docs/scaling.md: gateways over the peak, and Redis over the users, both logarithmic. SVG. */
import type { Measured } from './measured.ts'
import { reckon } from './reckon.ts'
import { demandOf, USERS_PER_PEAK_LOGIN } from './report.ts'

interface Point {
  readonly x: number
  readonly y: number
}

interface Panel {
  readonly title: string
  readonly xLabel: string
  readonly yLabel: string
  readonly x: readonly [min: number, max: number]
  readonly y: readonly [min: number, max: number]
  readonly lines: readonly {
    readonly name: string
    readonly color: string
    readonly points: readonly Point[]
  }[]
}

const PANEL = { width: 440, height: 300, left: 62, right: 18, top: 40, bottom: 46 }
const INK = '#334'
const GRID = '#dde'
const COLORS = ['#1a73c7', '#c2571a', '#2a8c4a'] as const
/** For each power of ten. */
const STEPS = 12
const LOADS = [
  { validationsEach: 10, wechatMs: 50 },
  { validationsEach: 10, wechatMs: 200 },
  { validationsEach: 100, wechatMs: 200 },
] as const
const SESSIONS_PER_USER = [1, 10] as const
const GIB = 2 ** 30

export function drawSizing(measured: Measured): string {
  const panels = [gatewayPanel(measured), redisPanel(measured)]
  const width = PANEL.width * panels.length
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${PANEL.height}" font-family="system-ui, sans-serif" font-size="11" fill="${INK}">
<rect width="${width}" height="${PANEL.height}" fill="#fff"/>
${panels.map((panel, at) => `<g transform="translate(${at * PANEL.width} 0)">\n${drawPanel(panel)}\n</g>`).join('\n')}
</svg>
`
}

function gatewayPanel(measured: Measured): Panel {
  const x = [10, 20_000] as const
  return {
    title: 'Gateways',
    xLabel: 'logins a second at peak',
    yLabel: 'gateways of one core',
    x,
    y: [1, 1_000],
    lines: LOADS.map(({ validationsEach, wechatMs }, at) => ({
      name: `${validationsEach} validations a login, WeChat ${wechatMs} ms`,
      color: COLORS[at] ?? INK,
      points: logarithmic(x).map((peak) => ({
        x: peak,
        y: reckon(demandOf(1, peak, { peakValidations: validationsEach * peak, wechatMs }), measured)
          .gateways,
      })),
    })),
  }
}

function redisPanel(measured: Measured): Panel {
  const x = [10_000, 100_000_000] as const
  return {
    title: 'Memory of Redis, without replicas',
    xLabel: 'users with a session',
    yLabel: 'GiB',
    x,
    y: [0.01, 1_000],
    lines: SESSIONS_PER_USER.map((sessionsPerUser, at) => ({
      name: `${sessionsPerUser} session${sessionsPerUser === 1 ? '' : 's'} a user`,
      color: COLORS[at] ?? INK,
      points: logarithmic(x).map((users) => ({
        x: users,
        y:
          reckon(demandOf(users, users / USERS_PER_PEAK_LOGIN, { sessionsPerUser }), measured)
            .redisMemoryBytes / GIB,
      })),
    })),
  }
}

function drawPanel({ title, xLabel, yLabel, x, y, lines }: Panel): string {
  const [right, bottom] = [PANEL.width - PANEL.right, PANEL.height - PANEL.bottom]
  const [atX, atY] = [scale(x, PANEL.left, right), scale(y, bottom, PANEL.top)]
  const legend = lines.map(
    ({ name, color }, at) =>
      `<rect x="${PANEL.left + 10}" y="${PANEL.top + 8 + at * 16}" width="14" height="3" fill="${color}"/>` +
      `<text x="${PANEL.left + 30}" y="${PANEL.top + 13 + at * 16}">${name}</text>`,
  )
  return [
    `<text x="${PANEL.left}" y="22" font-size="13" font-weight="600">${title}</text>`,
    ...powersOfTen(x).map(
      (value) =>
        `<path d="M${atX(value)} ${PANEL.top}V${bottom}" stroke="${GRID}"/>` +
        `<text x="${atX(value)}" y="${bottom + 15}" text-anchor="middle">${short(value)}</text>`,
    ),
    ...powersOfTen(y).map(
      (value) =>
        `<path d="M${PANEL.left} ${atY(value)}H${right}" stroke="${GRID}"/>` +
        `<text x="${PANEL.left - 6}" y="${atY(value) + 4}" text-anchor="end">${short(value)}</text>`,
    ),
    `<text x="${(PANEL.left + right) / 2}" y="${PANEL.height - 12}" text-anchor="middle">${xLabel}</text>`,
    `<text transform="translate(14 ${(PANEL.top + bottom) / 2}) rotate(-90)" text-anchor="middle">${yLabel}</text>`,
    ...lines.map(
      ({ color, points }) =>
        `<path d="M${points.map((point) => `${atX(point.x)} ${atY(point.y)}`).join('L')}" fill="none" stroke="${color}" stroke-width="2"/>`,
    ),
    ...legend,
  ].join('\n')
}

function logarithmic([min, max]: readonly [number, number]): number[] {
  const steps = Math.round(Math.log10(max / min) * STEPS)
  return Array.from({ length: steps + 1 }, (_, at) => min * (max / min) ** (at / steps))
}

function powersOfTen([min, max]: readonly [number, number]): number[] {
  const powers: number[] = []
  for (let power = Math.ceil(Math.log10(min)); power <= Math.log10(max) + 1e-9; power += 1)
    powers.push(10 ** power)
  return powers
}

function short(value: number): string {
  if (value >= 1_000_000) return `${value / 1_000_000} M`
  return value >= 1_000 ? `${value / 1_000} k` : String(value)
}

function round(value: number): number {
  return Math.round(value * 10) / 10
}

/** From a value to its place between the two ends of an axis. */
function scale([min, max]: readonly [number, number], from: number, to: number): (value: number) => number {
  return (value) => round(from + (Math.log10(value / min) / Math.log10(max / min)) * (to - from))
}
