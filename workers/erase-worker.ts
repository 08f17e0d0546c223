/**
 * The BullMQ worker of the erase queue. It runs one job at a time: there are few, and each looks through the
 * provisioning queue.
 */
import type { Job } from 'bullmq'
import { ERASE_QUEUE, parseEraseJob } from '../src/erasure.ts'
import type { EraseJob } from '../src/erasure.ts'
import type { WorkerMetrics } from '../src/worker-metrics.ts'
import type { RedisClient } from '../src/redis.ts'
import { createPatientWorker } from './patient-worker.ts'
import type { PatientWorker, PatientWorkerDeps } from './patient-worker.ts'
import type { IncomingJob } from './provision-user.ts'
import { openQueueView } from './queue-view.ts'

const STALLED_TIMES_MAX = 1_000

export interface EraseWorkerDeps extends Pick<PatientWorkerDeps, 'redis' | 'log'> {
  readonly metrics: Pick<WorkerMetrics, 'erasures' | 'erasureLagSeconds'>
}

/** Builds the worker; it takes no jobs before start(). @param prefix BullMQ's: keys.queue(ERASE_QUEUE) */
export function createEraseWorker(
  eraseUser: (job: IncomingJob) => Promise<void>,
  { redis, metrics, log }: EraseWorkerDeps,
  prefix: string,
): PatientWorker {
  return createPatientWorker(
    { name: ERASE_QUEUE, prefix, stalledTimesMax: STALLED_TIMES_MAX },
    {
      redis,
      log,
      async run(job) {
        await eraseUser(job)
        const { erasedAtMs } = parseEraseJob(job.data)
        metrics.erasureLagSeconds.observe(Math.max(0, Date.now() - erasedAtMs) / 1_000)
      },
      onEnd(outcome, job) {
        metrics.erasures.inc({ outcome })
        if (job === undefined) return
        const { id: receipt, ...fields } = job
        if (outcome === 'dead') log.error({ receipt, ...fields }, 'a user cannot be erased')
        else log.warn({ receipt, ...fields }, 'a user will be erased later')
      },
    },
  )
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
