/**
 * The BullMQ worker of the erase queue. It runs one job at a time: there are few, and each looks through the
 * provisioning queue. While the database is away its jobs fail and are run again, for as long as it takes.
 */
import { Worker } from 'bullmq'
import type { Job } from 'bullmq'
import { ERASE_QUEUE, eraseRetryDelayMs } from '../src/erasure.ts'
import type { EraseJob } from '../src/erasure.ts'
import type { Log } from '../src/log.ts'
import type { WorkerMetrics } from '../src/metrics.ts'
import type { RedisClient } from '../src/redis.ts'
import type { IncomingJob } from './provision-user.ts'
import { openQueueView } from './queue-view.ts'

/** As in provision-worker.ts. */
const LOCK_MS = 10_000
const STALLED_CHECK_MS = 5_000
const STALLED_TIMES_MAX = 1_000

export interface EraseWorkerDeps {
  /** A patient connection (redis.ts). */
  readonly redis: RedisClient
  readonly metrics: Pick<WorkerMetrics, 'erasures'>
  readonly log: Log
}

export interface EraseWorker {
  /** Begins to take jobs. Resolves when both connections to Redis are up. */
  start(): Promise<void>
  /** Takes no further job, lets the running one finish for at most `graceMs`, resolves. */
  close(graceMs: number): Promise<void>
}

/** Builds the worker; it takes no jobs before start(). @param prefix BullMQ's: keys.queue(ERASE_QUEUE) */
export function createEraseWorker(
  eraseUser: (job: IncomingJob) => Promise<void>,
  { redis, metrics, log }: EraseWorkerDeps,
  prefix: string,
): EraseWorker {
  const worker = new Worker<unknown, void>(ERASE_QUEUE, (job) => eraseUser(job), {
    connection: redis,
    prefix,
    autorun: false,
    lockDuration: LOCK_MS,
    stalledInterval: STALLED_CHECK_MS,
    maxStalledCount: STALLED_TIMES_MAX,
    settings: { backoffStrategy: eraseRetryDelayMs },
  })
  worker.on('error', () => {}) // of the connection, which the provisioning worker shares and reports
  worker.on('completed', () => metrics.erasures.inc({ outcome: 'done' }))
  worker.on('failed', (job, error) => {
    const dead = job?.finishedOn !== undefined
    metrics.erasures.inc({ outcome: dead ? 'dead' : 'failed' })
    const fields = { receipt: job?.id, attempts: job?.attemptsMade, reason: error.message }
    if (dead) log.error(fields, 'a user cannot be erased')
    else log.warn(fields, 'a user will be erased later')
  })

  return {
    async start() {
      await worker.waitUntilReady()
      void worker.run().catch((error: unknown) => log.error({ err: error }, 'erase worker ended'))
    },
    async close(graceMs) {
      await Promise.race([worker.close(), timeout(graceMs)])
    },
  }
}

/** Jobs read at once. */
const PAGE = 500
/**
 * From where a job may come before where it may go: one that moves on meanwhile is met later. A worker takes jobs
 * from the end of a list and new ones come to its beginning, so a list is read from its beginning.
 */
const STATES = ['delayed', 'prioritized', 'waiting', 'failed', 'completed'] as const
const ENDED_STATES = ['failed', 'completed'] as const

/**
 * Returns a function that takes the jobs of a user out of the provisioning queue, as far as they tell of a time
 * before the erasure: in whatever state, or only those that have ended. Those that are being run cannot be taken out;
 * they are counted.
 *
 * @param prefix BullMQ's: keys.queue(PROVISION_QUEUE)
 */
export function createJobRemoval(redis: RedisClient, prefix: string) {
  const queue = openQueueView(redis, prefix)

  return async (
    user: Pick<EraseJob, 'sub' | 'erasedAtMs'>,
    { endedOnly }: { endedOnly: boolean },
  ): Promise<{ removed: number; running: number }> => {
    const isTheirs = (job: Job<unknown> | undefined) => {
      const { sub, seenAtMs = 0 } = (job?.data ?? {}) as { sub?: string; seenAtMs?: number }
      return sub === user.sub && seenAtMs <= user.erasedAtMs
    }
    let removed = 0
    for (const state of endedOnly ? ENDED_STATES : STATES) {
      for (let from = 0; ; ) {
        const jobs = await queue.getJobs([state], from, from + PAGE - 1)
        const results = await Promise.allSettled(jobs.filter(isTheirs).map((job) => job.remove()))
        // Those that could not be removed have been taken by a worker since, and are met among those that run.
        const gone = results.filter(({ status }) => status === 'fulfilled').length
        removed += gone
        if (jobs.length < PAGE) break
        from += PAGE - gone
      }
    }
    const running = (await queue.getJobs(['active'])).filter(isTheirs).length
    return { removed, running }
  }
}

function timeout(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms).unref()
  })
}
