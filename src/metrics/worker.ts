/** The worker's metrics. docs/metrics.md lists them all. */
import { askedGauge, counter, createMetrics, exposition, histogram } from './kinds.ts'
import { describeProcess } from './process.ts'
import { oldestWaiting, provisioningQueue, queueJobs, redisMetrics, spanMetrics } from './stores.ts'
import type { QueueView } from './stores.ts'
import { webhooks } from './webhooks.ts'

/** A job is a few database round trips, and up to seconds when the database is slow. */
const JOB_BUCKETS_SECONDS = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5]
/** Up to the largest there can be (workers/batches.ts). */
const BATCH_BUCKETS_JOBS = [2, 4, 8, 16, 32, 64]
/** From "at once" to an outage of the worker that lasted a day. */
const LAG_BUCKETS_SECONDS = [0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 1800, 7200, 86_400]
/** From "at once" to the month within which a request to be forgotten has to be met. */
const ERASURE_BUCKETS_SECONDS = [1, 10, 60, 600, 3600, 21_600, 86_400, 604_800, 2_592_000]

const OUTCOMES = ['done', 'failed', 'dead']
const zero = OUTCOMES.map((outcome) => ({ outcome }))

/** The worker's metrics, in a registry of their own. */
export function createWorkerMetrics() {
  const metrics = createMetrics()
  describeProcess(metrics, 'worker')
  let lastCompletedMs: number | undefined
  askedGauge(
    metrics,
    {
      name: 'provisioning_last_completed_timestamp_seconds',
      help: 'When this worker last completed a provisioning job, unix time; absent before the first.',
    },
    () => lastCompletedMs && lastCompletedMs / 1_000,
  )
  return {
    exposition: exposition(metrics),
    catalogue: metrics.catalogue,
    ...redisMetrics(metrics),
    spans: spanMetrics(metrics),
    /** undefined: not known yet. */
    databaseUp: (isUp: () => boolean | undefined) =>
      askedGauge(
        metrics,
        {
          name: 'database_up',
          help: 'Whether the database takes what the worker writes, as far as its jobs have seen; while it does not, none are taken.',
        },
        () => {
          const up = isUp()
          return up === undefined ? undefined : Number(up)
        },
      ),
    jobs: counter(metrics, {
      name: 'provisioning_jobs_total',
      help: 'Jobs run, by outcome: done, failed (an attempt is spent), postponed (none is), dead (waits for a person).',
      labelNames: ['outcome'],
      childrenMax: 4,
      zero: [...zero, { outcome: 'postponed' }],
    }),
    completed(): void {
      lastCompletedMs = Date.now()
    },
    erasures: counter(metrics, {
      name: 'erasure_jobs_total',
      help: 'Erasures of users run, by outcome: done, failed (will be retried), dead.',
      labelNames: ['outcome'],
      childrenMax: 3,
      zero,
    }),
    erasureLagSeconds: histogram(metrics, {
      name: 'erasure_lag_seconds',
      help: 'Time from the wish to be forgotten to its fulfilment.',
      buckets: ERASURE_BUCKETS_SECONDS,
    }),
    erasureQueue({ counts, oldestWaitingAtMs }: QueueView) {
      queueJobs(metrics, 'erasure', counts)
      oldestWaiting(metrics, 'erasure', oldestWaitingAtMs)
    },
    stalled: counter(metrics, {
      name: 'provisioning_stalled_total',
      help: 'Jobs taken over from a worker that went silent.',
    }),
    jobSeconds: histogram(metrics, {
      name: 'provisioning_duration_seconds',
      help: 'Time to provision one user.',
      buckets: JOB_BUCKETS_SECONDS,
    }),
    batchJobs: histogram(metrics, {
      name: 'provisioning_batch_jobs',
      help: 'Jobs written to the database together.',
      buckets: BATCH_BUCKETS_JOBS,
    }),
    batchLeftovers: counter(metrics, {
      name: 'provisioning_batch_leftovers_total',
      help: 'Jobs of a batch that were done one by one: unusual (a unionid that links users, say), or the batch failed.',
      labelNames: ['why'],
      childrenMax: 2,
    }),
    lagSeconds: histogram(metrics, {
      name: 'provisioning_lag_seconds',
      help: 'Time from the login to the acknowledgement of its user.',
      buckets: LAG_BUCKETS_SECONDS,
    }),
    users: counter(metrics, {
      name: 'provisioned_users_total',
      help: 'Users written, by what was new.',
      labelNames: ['outcome'],
      childrenMax: 8,
    }),
    provisioningQueue: (view: QueueView) => provisioningQueue(metrics, view),
    sessionEventQueue: (counts: QueueView['counts']) => queueJobs(metrics, 'session_event', counts),
    webhooks: webhooks(metrics),
  }
}

export type WorkerMetrics = ReturnType<typeof createWorkerMetrics>
