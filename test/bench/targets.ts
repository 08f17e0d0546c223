/** What must be reached, and whether it is. Ratios are of medians of one run. */
import type { Results } from './results.ts'
import { markdown } from './table.ts'

interface Target {
  what: string
  /** undefined while it has not been measured. */
  of(results: Results): number | undefined
  min?: number
  max?: number
}

const US_PER_S = 1_000_000

/** `scene/subject/figure`. */
function at(results: Results, path: string): number | undefined {
  const [scene = '', subject = '', figure = ''] = path.split('/')
  return results[scene]?.subjects[subject]?.[figure]?.median
}

/** Of two figures, each as `scene/subject/figure`; undefined while one has not been measured. */
export function ratioOf(results: Results, above: string, below: string): number | undefined {
  const [a, b] = [at(results, above), at(results, below)]
  return a === undefined || b === undefined ? undefined : a / b
}

const figure = (path: string) => (results: Results) => at(results, path)
const ratio = (above: string, below: string) => (results: Results) => ratioOf(results, above, below)

const TARGETS: readonly Target[] = [
  {
    what: 'returning login, CPU of the gateway / floor',
    of: ratio('returning/gateway/cpuUs', 'returning/upstream-only/cpuUs'),
    max: 1.8,
  },
  {
    what: 'first login, CPU of the gateway / floor',
    of: ratio('first/gateway/cpuUs', 'first/upstream-only/cpuUs'),
    max: 2.8,
  },
  {
    what: '/auth without cache / bare Fastify GET',
    of: ratio('auth/gateway/cpuUs', 'auth/bare/cpuUs'),
    max: 1.3,
  },
  {
    what: '/auth with a cache of 1 s / bare Fastify GET',
    of: ratio('auth/gateway-cache/cpuUs', 'auth/bare/cpuUs'),
    max: 1.1,
  },
  { what: 'Redis CPU of a returning login, µs', of: figure('returning/gateway/redisCpuUs'), max: 40 },
  { what: 'Redis CPU of a first login, µs', of: figure('first/gateway/redisCpuUs'), max: 110 },
  { what: 'Redis CPU of a validation, µs', of: figure('auth/gateway/redisCpuUs'), max: 4 },
  { what: 'round trips of a returning login', of: figure('returning/gateway/redisTrips'), max: 2.1 },
  { what: 'round trips of a validation', of: figure('auth/gateway/redisTrips'), max: 1.1 },
  {
    what: "returning logins a CPU second / those of a day's work (both with Redis)",
    of: ratio('returning/day/sumUs', 'returning/gateway/sumUs'),
    min: 3,
  },
  {
    what: "first logins a CPU second / those of a day's work (both with Redis)",
    of: ratio('first/day/sumUs', 'first/gateway/sumUs'),
    min: 2,
  },
  {
    what: 'returning logins a CPU second / PHP',
    of: ratio('returning/php/cpuUs', 'returning/gateway/cpuUs'),
    min: 2.5,
  },
  {
    what: 'returning logins a CPU second / node-easywechat',
    of: ratio('returning/easywechat/cpuUs', 'returning/gateway/cpuUs'),
    min: 4.5,
  },
  {
    what: 'returning logins a second and core of the gateway',
    of: (results) => {
      const us = at(results, 'returning/gateway/cpuUs')
      return us === undefined ? undefined : US_PER_S / us
    },
    min: 3_000,
  },
  { what: 'duplicate storm, right answers %', of: figure('storm/gateway/rightPercent'), min: 100 },
  { what: 'duplicate storm, exchanges a code', of: figure('storm/gateway/exchangesPerCode'), max: 1 },
  { what: 'breaker open at 5,000 requests/s, p99 ms', of: figure('wechat-down/gateway/p99Ms'), max: 20 },
  { what: 'RSS of the gateway under load, MB', of: figure('returning/gateway/rssMb'), max: 180 },
  {
    what: 'the same, with the heap of a container of 512 MB',
    of: figure('returning/gateway-512mb/rssMb'),
    max: 180,
  },
  {
    what: 'a million users / a thousand, CPU of gateway and Redis',
    of: ratio('growth/1,000,000 users/sumUs', 'growth/1,000 users/sumUs'),
    max: 1.1,
  },
  { what: '500 apps / one', of: ratio('growth/500 apps/sumUs', 'growth/1,000 users/sumUs'), max: 1.1 },
  {
    what: 'three gateways / one',
    of: ratio('growth/3 gateways/sumUs', 'growth/1,000 users/sumUs'),
    max: 1.1,
  },
]

/** As a table of all that have been measured. */
export function targetTable(results: Results): string {
  const rows = TARGETS.flatMap(({ what, of, min, max }) => {
    const found = of(results)
    if (found === undefined) return []
    const reached = found <= (max ?? Infinity) && found >= (min ?? -Infinity)
    const bound = max === undefined ? `≥ ${min?.toLocaleString('en')}` : `≤ ${max}`
    return [
      [what, bound, found.toLocaleString('en', { maximumFractionDigits: 2 }), reached ? 'yes' : '**no**'],
    ]
  })
  return markdown([['target', 'bound', 'found', 'reached'], ...rows])
}
