/** Numbers as Grafana writes them, by their unit, and scales to draw them on. */
import type { Unit } from '../../../deploy/grafana/dashboard.ts'
import { niceStep } from '../../faults/soak/plot.ts'

const TICKS = 4

/** 0.25 of seconds is "250 ms". */
export function write(value: number, unit: Unit): string {
  if (value === 0) return unit === 'percentunit' ? '0 %' : unit === 's' ? '0 s' : `0${SUFFIX[unit]}`
  switch (unit) {
    case 's':
      return writeSeconds(value)
    case 'percentunit':
      return `${digits(100 * value)} %`
    case 'bytes':
      return value >= 2 ** 30 ? `${digits(value / 2 ** 30)} GiB` : `${digits(value / 2 ** 20)} MiB`
    case 'reqps':
    case 'ops':
    case 'short':
    case 'none':
      return short(value) + SUFFIX[unit]
  }
}

const SUFFIX: Record<Unit, string> = {
  reqps: ' req/s',
  ops: ' /s',
  s: '',
  percentunit: '',
  bytes: '',
  short: '',
  none: '',
}

function writeSeconds(value: number): string {
  if (value < 0.001) return `${digits(value * 1e6)} µs`
  if (value < 1) return `${digits(value * 1e3)} ms`
  if (value < 600) return `${digits(value)} s`
  return value < 7_200 ? `${digits(value / 60)} min` : `${digits(value / 3_600)} h`
}

function short(value: number): string {
  if (value >= 1e9) return `${digits(value / 1e9)} G`
  if (value >= 1e6) return `${digits(value / 1e6)} M`
  return value >= 1e4 ? `${digits(value / 1e3)} k` : digits(value)
}

/** Three of them. */
function digits(value: number): string {
  return String(Number(value.toPrecision(3)))
}

export interface Scale {
  /** The highest value on it. */
  top: number
  ticks: number[]
}

/** From nought to somewhat above the highest, with round steps of the unit. */
export function scaleFor(highest: number, unit: Unit): Scale {
  // A flat line of nothing is drawn at the bottom of something; a share does not go beyond the whole.
  const wanted = highest > 0 ? highest * 1.05 : EMPTY_TOP[unit]
  const max = unit === 'percentunit' && highest <= 1 ? Math.min(1, wanted) : wanted
  const whole = unit === 'none' && max >= 2
  const base = unit === 'bytes' ? 2 ** 20 : 1
  const step = Math.max(niceStep(max / base / TICKS) * base, whole ? 1 : 0)
  const count = Math.ceil(max / step - 1e-9)
  const top = unit === 'percentunit' && highest <= 1 ? Math.min(1, count * step) : count * step
  const ticks = Array.from({ length: count + 1 }, (_, at) => at * step).filter((tick) => tick <= top)
  return { top, ticks }
}

const EMPTY_TOP: Record<Unit, number> = {
  reqps: 1,
  ops: 1,
  s: 1,
  percentunit: 1,
  bytes: 2 ** 20,
  short: 1,
  none: 1,
}
