/** Metrics of Redis and of what waits in it for the worker; both processes have them. */
import { askedGauge, counter, histogram } from './kinds.ts'
import type { Metrics } from './kinds.ts'
import type { RedisFailure } from '../redis/watch.ts'

/** Redis takes 0.1 ms, a script of ours up to 0.3; the request path gives up after REDIS_COMMAND_TIMEOUT_MS, 250. */
const COMMAND_BUCKETS_SECONDS = [0.0005, 0.001, 0.0025, 0.01, 0.025, 0.1, 0.25]

const FAILURES: readonly RedisFailure[] = [
  'timeout',
  'silent',
  'disconnected',
  'full',
  'denied',
  'not_master',
  'not_ready',
  'disk',
  'other',
]

/** How fast Redis answers, and why it does not. */
export function redisMetrics(metrics: Metrics) {
  const commands = histogram(metrics, {
    name: 'redis_command_duration_seconds',
    help: 'Time from sending a command of Redis to its answer. command: its name, or that of our script; evalsha: the script of a library.',
    labelNames: ['command'],
    childrenMax: 20,
    buckets: COMMAND_BUCKETS_SECONDS,
  })
  return {
    redisAnswered: (command: string, seconds: number) => commands.observe(seconds, { command }),
    redisFailures: counter(metrics, {
      name: 'redis_failures_total',
      help: 'Commands of Redis that failed: timeout, silent (not sent: Redis hangs), disconnected, full (maxmemory), denied, not_master, not_ready, disk, other.',
      labelNames: ['reason'],
      childrenMax: FAILURES.length,
      zero: FAILURES.map((reason) => ({ reason })),
    }),
    redisUp: (isUp: () => boolean) =>
      askedGauge(metrics, { name: 'redis_up', help: 'Whether the connection to Redis takes commands.' }, () =>
        Number(isUp()),
      ),
  }
}

/** The queue between gateway and worker. Both tell of it, so that it is seen when one of them is away. */
export interface QueueView {
  counts(): Promise<Record<string, number>>
  /** Of the job that has waited longest, unix ms; undefined: none waits. */
  oldestWaitingAtMs(): Promise<number | undefined>
}

/** While Redis does not answer, they are absent. */
export function provisioningQueue(metrics: Metrics, { counts, oldestWaitingAtMs }: QueueView): void {
  queueJobs(metrics, 'provisioning', counts)
  oldestWaiting(metrics, 'provisioning', oldestWaitingAtMs)
}

/** Jobs of a queue by state. */
export function queueJobs(metrics: Metrics, queue: string, counts: QueueView['counts']): void {
  askedGauge(
    metrics,
    {
      name: `${queue}_queue_jobs`,
      help: `Jobs of the ${queue.replace('_', ' ')} queue by state; failed: dead, waiting for a person.`,
      labelNames: ['state'],
      childrenMax: 4,
    },
    async () => Object.entries(await counts()).map(([state, count]) => [{ state }, count] as const),
  )
}

/** How long the job of a queue that has waited longest has waited. */
export function oldestWaiting(
  metrics: Metrics,
  queue: string,
  atMs: () => Promise<number | undefined>,
): void {
  askedGauge(
    metrics,
    {
      name: `${queue}_oldest_waiting_seconds`,
      help: `Age of the ${queue.replace('_', ' ')} job that has waited longest; 0 when none waits.`,
    },
    async () => {
      const oldestMs = await atMs()
      // Another machine's clock may run ahead.
      return oldestMs === undefined ? 0 : Math.max(0, Date.now() - oldestMs) / 1_000
    },
  )
}

/** What became of the spans of traces. */
export function spanMetrics(metrics: Metrics) {
  return counter(metrics, {
    name: 'trace_spans_total',
    help: 'Spans of traces by fate: exported, failed (the collector did not take them), dropped (too many waited for it).',
    labelNames: ['fate'],
    childrenMax: 3,
  })
}
