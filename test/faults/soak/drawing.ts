/** The panels of the soak's picture. */
import { drawPlot } from './plot.ts'
import type { Panel, Series } from './plot.ts'
import type { Recording } from './recording.ts'

const KINDS_SHOWN = 7

export function drawSoak(recording: Recording, { title, notes }: { title: string; notes: string[] }): string {
  const lines = (prefix: string, fitted?: 'all' | 'floor'): Series[] =>
    recording.named(prefix).map(({ name, rest }) => ({
      name: rest,
      points: recording.points(name),
      ...(fitted ? { fit: recording.fitEnds(name, fitted === 'floor') } : {}),
    }))
  const one = (name: string, label: string, fitted = false): Series => ({
    name: label,
    points: recording.points(name),
    ...(fitted ? { fit: recording.fitEnds(name) } : {}),
  })

  const panels: Panel[] = [
    { title: 'Resident memory', unit: 'MB', series: lines('rss MB, ', 'all') },
    { title: 'Alive after a collection', unit: 'MB', series: lines('live MB, ', 'all') },
    { title: "Memory of V8's heap", unit: 'MB', series: lines('V8 MB, ', 'all') },
    { title: "Memory beside V8's heap", unit: 'MB', series: lines('beside V8 MB, ', 'all') },
    { title: 'JavaScript heap in use', unit: 'MB', series: lines('heap MB, ') },
    { title: 'Open file descriptors', unit: 'count', series: lines('descriptors, ', 'floor') },
    { title: 'Active timers', unit: 'count', series: lines('timers, ', 'floor') },
    {
      title: 'Redis keys by kind',
      unit: 'count, logarithmic',
      series: largest(lines('keys, ')),
      logarithmic: true,
    },
    { title: 'Redis keys, all', unit: 'count', series: [one('all keys', 'keys', true)] },
    { title: 'Redis memory', unit: 'MB', series: [one('redis MB', 'used_memory', true)] },
    {
      title: 'Time to the answer',
      unit: 'ms, logarithmic',
      series: [
        one('ms p50, login', 'login p50'),
        one('ms p99, login', 'login p99'),
        one('ms p50, validation', 'validation p50'),
        one('ms p99, validation', 'validation p99'),
      ],
      logarithmic: true,
    },
    { title: 'Answered with success', unit: 'per second', series: lines('ok, ').map(perSecond) },
    {
      title: 'Refused, the commonest kinds',
      unit: 'per second',
      series: largest(lines('refused, ')).slice(0, 4).map(perSecond),
    },
  ]
  return drawPlot(panels, { title, notes, xLabel: 'minutes', shadedUntil: recording.warmUpMinutes })
}

/** Those with the most, over the whole time. */
function largest(series: Series[]): Series[] {
  return series.toSorted((a, b) => totalOf(b) - totalOf(a)).slice(0, KINDS_SHOWN)
}

function totalOf({ points }: Series): number {
  return points.reduce((sum, [, y]) => sum + y, 0)
}

/** Counts of intervals, by the lengths of the intervals. */
function perSecond({ name, points }: Series): Series {
  return {
    name,
    points: points.map(([x, y], at) => [x, y / (60 * (x - (points[at - 1]?.[0] ?? 0)))]),
  }
}
