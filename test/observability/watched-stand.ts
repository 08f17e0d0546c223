/** The stand of the fault bench with a Prometheus that watches it: see README.md. */
import type { Bench } from '../faults/row.ts'
import { startStand } from '../faults/stand.ts'
import type { Stand, StandOptions } from '../faults/stand.ts'
import { startPrometheus } from './prometheus.ts'
import type { PrometheusOptions, Target, Targets } from './prometheus.ts'

/** The jobs of prometheus.yml. */
const GATEWAY_JOB = 'gateway'
const WORKER_JOB = 'worker'

export interface WatchedStandOptions {
  /** Default: two gateways and two workers. */
  stand?: StandOptions
  prometheus?: Omit<PrometheusOptions, 'targets'>
}

/** Resolves when every process has been scraped. Everything ends with the row. */
export async function startWatchedStand(bench: Bench, options: WatchedStandOptions = {}) {
  const stand = await startStand(bench, { gateways: 2, workers: 2, ...options.stand })
  const targets = targetsOf(stand)
  const prometheus = await startPrometheus(bench, { ...options.prometheus, targets })
  await prometheus.untilScraped(Object.values(targets).flatMap((job) => job.map(({ instance }) => instance)))
  return { stand, prometheus }
}

export type WatchedStand = Awaited<ReturnType<typeof startWatchedStand>>

function targetsOf({ gateways, workers }: Stand): Targets {
  return {
    [GATEWAY_JOB]: named(
      'gateway',
      gateways.map(({ adminUrl }) => adminUrl),
    ),
    [WORKER_JOB]: named(
      'worker',
      workers.map(({ url }) => url),
    ),
  }
}

/** gateway-1, gateway-2, worker-1: they keep their ports when they are started again. */
function named(kind: string, urls: readonly string[]): Target[] {
  return urls.map((url, at) => ({ address: new URL(url).host, instance: `${kind}-${at + 1}` }))
}
