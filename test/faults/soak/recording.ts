/** All samples of a soak as columns: one list of numbers for each thing that was looked at, and the times. */
import { quantile } from '../ledger.ts'
import { fitLine } from './line-fit.ts'
import type { LineFit } from './line-fit.ts'
import type { Sample } from './sampler.ts'
import type { Interval } from './traffic.ts'

const MEGABYTE = 1_000_000

export type Recording = ReturnType<typeof createRecording>

export function createRecording({ warmUpMinutes }: { warmUpMinutes: number }) {
  const minutes: number[] = []
  const columns: Record<string, number[]> = {}

  /** A kind of key, or an error, may come later than others: what is missing before it is nought. */
  function put(name: string, value: number): void {
    const column = (columns[name] ??= minutes.slice(1).map(() => 0))
    while (column.length < minutes.length - 1) column.push(0)
    column.push(value)
  }

  const last = (name: string) => columns[name]?.at(-1) ?? 0
  const pointsOf = (name: string): [number, number][] =>
    minutes.map((minute, at) => [minute, columns[name]?.[at] ?? 0])
  const settled = (name: string) => pointsOf(name).filter(([minute]) => minute >= warmUpMinutes)

  return {
    warmUpMinutes,
    add(minute: number, { processes, store }: Sample, interval: Interval): void {
      minutes.push(Math.round(minute * 1_000) / 1_000)
      for (const [name, sample] of Object.entries(processes)) {
        put(`rss MB, ${name}`, sample.rssBytes / MEGABYTE)
        put(`heap MB, ${name}`, sample.heapBytes / MEGABYTE)
        if (sample.collected !== undefined) {
          put(`live MB, ${name}`, sample.collected.liveBytes / MEGABYTE)
          put(`V8 MB, ${name}`, sample.collected.v8Bytes / MEGABYTE)
          put(`beside V8 MB, ${name}`, (sample.rssBytes - sample.collected.v8Bytes) / MEGABYTE)
        }
        put(`descriptors, ${name}`, sample.descriptors)
        put(`timers, ${name}`, sample.timers)
        put(`handles, ${name}`, sample.handles)
        put(`cpu s, ${name}`, Math.round(sample.cpuSeconds * 100) / 100)
      }
      for (const [kind, count] of Object.entries(store.keys)) put(`keys, ${kind}`, count)
      put(
        'all keys',
        Object.values(store.keys).reduce((sum, count) => sum + count, 0),
      )
      put('redis MB', store.usedBytes / MEGABYTE)
      put('redis clients', store.clients)
      for (const [what, times] of [
        ['login', interval.loginMs],
        ['validation', interval.validateMs],
      ] as const) {
        put(`ms p50, ${what}`, rounded(quantile(times, 0.5)))
        put(`ms p99, ${what}`, rounded(quantile(times, 0.99)))
      }
      for (const [kind, count] of Object.entries(interval.ok)) put(`ok, ${kind}`, count)
      for (const [what, count] of Object.entries(interval.refused)) put(`refused, ${what}`, count)
    },
    /** Names that begin so, and what comes behind. */
    named: (prefix: string): { name: string; rest: string }[] =>
      Object.keys(columns)
        .filter((name) => name.startsWith(prefix))
        .map((name) => ({ name, rest: name.slice(prefix.length) })),
    points: pointsOf,
    /** After the warm-up. x in minutes. */
    fit: (name: string): LineFit => fitLine(settled(name)),
    /**
     * The fitted line's ends, from the end of the warm-up to the last sample. `floor`: of the lowest values of each
     * minute, for what goes up and down with the load and leaves a floor that rises when something leaks.
     */
    fitEnds(name: string, floor = false): [number, number][] {
      const points = floor ? lowestOfEachMinute(settled(name)) : settled(name)
      const { at } = fitLine(points)
      return [points[0], points.at(-1)].flatMap((point): [number, number][] =>
        point === undefined ? [] : [[point[0], at(point[0])]],
      )
    },
    settledValues: (name: string): number[] => settled(name).map(([, value]) => value),
    /** For the file. */
    columns(): Record<string, number[]> {
      const filled = Object.keys(columns).map((name): [string, number[]] => [
        name,
        pointsOf(name).map(([, value]) => Math.round(value * 1_000) / 1_000),
      ])
      return { minutes, ...Object.fromEntries(filled) }
    },
    /** How it stands, in a line. */
    line(): string {
      const listed = (prefix: string, digits = 0) =>
        this.named(prefix)
          .map(({ name }) => last(name).toFixed(digits))
          .join('/')
      const refused = this.named('refused, ')
        .filter(({ name }) => columns[name]?.length === minutes.length && last(name) > 0)
        .map(({ name, rest }) => `${rest} ×${last(name)}`)
      return [
        `${(minutes.at(-1) ?? 0).toFixed(0)} min`,
        `RSS ${listed('rss MB, ')} MB`,
        `fds ${listed('descriptors, ')}`,
        `timers ${listed('timers, ')}`,
        `keys ${last('all keys')}`,
        `Redis ${last('redis MB').toFixed(1)} MB`,
        `login p50 ${last('ms p50, login')} p99 ${last('ms p99, login')} ms`,
        `validation p50 ${last('ms p50, validation')} p99 ${last('ms p99, validation')} ms`,
        refused.join(', ') || 'no refusal',
      ].join(' · ')
    },
  }
}

function lowestOfEachMinute(points: readonly [number, number][]): [number, number][] {
  const byMinute = Map.groupBy(points, ([minute]) => Math.floor(minute))
  return [...byMinute].map(([minute, group]) => [minute, Math.min(...group.map(([, value]) => value))])
}

const rounded = (value: number) => Math.round(value * 10) / 10
