/** What passes: the figures of the soak and their bounds. */
import { quantile } from '../ledger.ts'
import type { Bench, Bound } from '../row.ts'
import type { Recording } from './recording.ts'
import type { Wrongs } from './traffic.ts'

const RSS_SLOPE_MB_PER_HOUR_MAX = 2
const LIVE_SLOPE_MB_PER_HOUR_MAX = 1
/** Of the lowest of each minute: what a request holds for a moment is gone by then, what leaks is not. */
const DESCRIPTORS_GROWTH_MAX = 5
const TIMERS_GROWTH_MAX = 5
const KEYS_GROWTH_SHARE_MAX = 0.02
const REDIS_GROWTH_SHARE_MAX = 0.03

export function judge(
  bench: Bench,
  recording: Recording,
  { wrongs, isJudged }: { wrongs: Wrongs; isJudged: boolean },
): void {
  const bound = (judged: Bound, reported: Bound = {}): Bound => (isJudged ? judged : reported)
  const growth = (name: string, floor = false) => {
    const [from, to] = recording.fitEnds(name, floor)
    return (to?.[1] ?? Number.NaN) - (from?.[1] ?? Number.NaN)
  }
  const meanOf = (name: string) => {
    const values = recording.settledValues(name)
    return values.reduce((sum, value) => sum + value, 0) / values.length
  }

  for (const { name, rest } of recording.named('rss MB, ')) {
    const { slope, slopeError } = recording.fit(name)
    const isGateway = rest.startsWith('gateway')
    const unit = 'MB/h'
    bench.figure(
      `slope of RSS, ${rest}`,
      slope * 60,
      isGateway ? bound({ unit, max: RSS_SLOPE_MB_PER_HOUR_MAX }, { unit }) : { unit },
    )
    bench.say(`    ± ${(slopeError * 60).toFixed(2)} MB/h; mean ${meanOf(name).toFixed(1)} MB`)
  }
  // Which of the two it is, should RSS grow: V8's heap, or what is beside it (libraries, buffers, malloc).
  for (const part of ['V8', 'beside V8']) {
    for (const { name, rest } of recording.named(`${part} MB, `))
      bench.figure(`slope of memory, ${part}, ${rest}`, recording.fit(name).slope * 60, { unit: 'MB/h' })
  }
  for (const { name, rest } of recording.named('live MB, ')) {
    const max = { unit: 'MB/h', max: LIVE_SLOPE_MB_PER_HOUR_MAX }
    const { slope, slopeError } = recording.fit(name)
    bench.figure(
      `slope of what is alive after a collection, ${rest}`,
      slope * 60,
      bound(max, { unit: 'MB/h' }),
    )
    bench.say(`    ± ${(slopeError * 60).toFixed(2)} MB/h; mean ${meanOf(name).toFixed(1)} MB`)
  }
  for (const { name, rest } of recording.named('descriptors, ')) {
    bench.figure(`growth of descriptors, ${rest}`, growth(name, true), bound({ max: DESCRIPTORS_GROWTH_MAX }))
  }
  for (const { name, rest } of recording.named('timers, ')) {
    bench.figure(`growth of timers, ${rest}`, growth(name, true), bound({ max: TIMERS_GROWTH_MAX }))
  }
  const keysMax = KEYS_GROWTH_SHARE_MAX * meanOf('all keys')
  bench.figure('growth of Redis keys', growth('all keys'), bound({ max: Math.round(keysMax) }))
  const redisMax = REDIS_GROWTH_SHARE_MAX * meanOf('redis MB')
  bench.figure(
    'growth of Redis memory',
    growth('redis MB'),
    bound({ unit: 'MB', max: Math.round(redisMax * 100) / 100 }, { unit: 'MB' }),
  )

  for (const what of ['login', 'validation']) {
    const name = `ms p99, ${what}`
    bench.figure(`p99 of ${what}s, median of all intervals`, quantile(recording.settledValues(name), 0.5), {
      unit: 'ms',
    })
  }
  bench.figure('living sessions refused', wrongs.aliveRefused, { is: 0 })
  bench.figure('ended sessions accepted', wrongs.endedAccepted, { is: 0 })
  bench.figure('logins given up', wrongs.loginsGivenUp, { is: 0 })
  bench.figure('open data refused', wrongs.decryptsRefused, { is: 0 })
  for (const wrong of new Set(wrongs.other)) bench.check(wrong, false)
}
