/** Players that take turns under load, so that what the machine does meanwhile meets them alike. */
import type { Contender } from './contenders.ts'
import type { Load } from './load.ts'
import { countRedis, measure } from './measure.ts'
import type { Sample } from './measure.ts'
import { median } from './median.ts'
import type { Take } from './scenes.ts'
import { CONNECTIONS, TIMEOUT_MS } from './users.ts'

export interface Player {
  label: string
  contender: Contender
  take: Take
  /** How many processes it is, each of which is to be as warm and as busy as one alone. Default 1. */
  processes?: number
}

export interface Turns {
  warmUp: number
  rounds: number
  window: number
  /** For latencies; undefined: none are taken. */
  ratePerSecond?: number | undefined
}

/** A figure over its rounds; min and max are the spread. */
export interface Spread {
  median: number
  min: number
  max: number
}

export type Figures = Record<string, Spread>

const PACED_SECONDS = 4
/** One after the other, so that each of their packets is a round trip. */
const COUNTED = 300

/** How many requests each player is asked for in all. */
export function requestsOf({ warmUp, rounds, window, ratePerSecond = 0 }: Turns, processes = 1): number {
  return processes * (warmUp + rounds * window) + ratePerSecond * PACED_SECONDS + COUNTED
}

export async function takeTurns(
  load: Load,
  players: readonly Player[],
  { warmUp, rounds, window, ratePerSecond }: Turns,
): Promise<Record<string, Figures>> {
  const closed = ({ processes = 1 }: Player) => ({
    connections: processes * CONNECTIONS,
    timeoutMs: TIMEOUT_MS,
  })
  for (const player of players) {
    const { take, processes = 1 } = player
    await load.run({ ...(await take(processes * warmUp)), ...closed(player) })
  }
  const samples = new Map<Player, Sample[]>(players.map((player) => [player, []]))
  for (let round = 0; round < rounds; round += 1) {
    for (const [player, taken] of samples) {
      const { contender, take, processes = 1 } = player
      const batch = { ...(await take(processes * window)), ...closed(player) }
      taken.push(await measure(load, contender, batch))
    }
  }
  const found: Record<string, Figures> = {}
  for (const [player, taken] of samples) {
    const { label, contender, take } = player
    const figures = spreads(taken)
    if (ratePerSecond !== undefined) {
      const paced = { ...(await take(ratePerSecond * PACED_SECONDS)), ...closed(player), ratePerSecond }
      const { latencyMs, cpuUs } = await measure(load, contender, paced)
      for (const [name, ms] of Object.entries(latencyMs)) figures[`${name}Ms`] = once(ms)
      figures['pacedCpuUs'] = once(cpuUs)
    }
    if (contender.redisUrl !== undefined) {
      const counts = await countRedis(load, contender.redisUrl, {
        ...(await take(COUNTED)),
        ...closed(player),
      })
      for (const [name, count] of Object.entries(counts)) figures[name] = once(count)
    }
    found[label] = figures
  }
  return found
}

/** A figure of one run. */
export function once(value: number): Spread {
  return { median: value, min: value, max: value }
}

export function spreadOf(values: readonly number[]): Spread {
  return { median: median(values), min: Math.min(...values), max: Math.max(...values) }
}

function spreads(samples: readonly Sample[]): Figures {
  const [first] = samples
  const names = Object.keys(first ?? {}).filter((name) => name !== 'latencyMs') as Exclude<
    keyof Sample,
    'latencyMs'
  >[]
  return Object.fromEntries(names.map((name) => [name, spreadOf(samples.map((sample) => sample[name]))]))
}
