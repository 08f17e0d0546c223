/**
 * Dead jobs of the provisioning queue: jobs that will not be run again unless a person says so. BullMQ keeps
 * them as its failed jobs, bounded by DEAD_JOBS_KEPT (provisioning.ts).
 */
import type { Job, Queue } from './job-queue.ts'
import { DEAD_JOBS_KEPT, JOB_OPTIONS, newJobId, PROVISION_JOB, readableJob } from './provisioning.ts'
import { stored } from './redis/stored.ts'

export interface DeadJob {
  readonly id: string
  readonly diedAtMs: number
  readonly queuedAtMs: number
  readonly attempts: number
  /** How often its worker was lost while it ran. */
  readonly takeovers: number
  readonly reason: string
  /** Its fields by their whole names; of any shape, for that may be what it died of. */
  readonly data: unknown
}

export type ReplayOutcome = 'replayed' | 'waiting_already' | 'not_dead'

export interface DeadJobs {
  count(): Promise<number>
  /** The latest first. */
  list(limit: number): Promise<DeadJob[]>
  /** Undefined when there is no such job, or it is not dead. */
  find(id: string): Promise<DeadJob | undefined>
  /** The ids of all of them, as they are now; at most DEAD_JOBS_KEPT.count. */
  ids(): Promise<string[]>
  /**
   * Puts its data back into the queue as a new job, which has all attempts before it; the dead one is gone.
   * `waiting_already`: one for the same user waits, so no second one was added. Should the process end in between,
   * both are there, and a second replay does no harm.
   */
  replay(id: string): Promise<ReplayOutcome>
  /** Deletes it for good; false when it is no dead job. */
  remove(id: string): Promise<boolean>
  /** Of the whole queue: jobs by state, and whether the workers take any. */
  queueStatus(): Promise<{ isPaused: boolean; counts: Record<string, number> }>
  /** Has all workers take no more jobs, until resumeQueue(). */
  pauseQueue(): Promise<void>
  resumeQueue(): Promise<void>
}

/**
 * Every function rejects with GatewayError store_unavailable when Redis does not answer.
 *
 * @param queue of provisioning, over a connection that fails fast
 */
export function createDeadJobs(queue: Queue<unknown>): DeadJobs {
  async function findJob(id: string): Promise<Job<unknown> | undefined> {
    const job = await stored(queue.getJob(id))
    return job !== undefined && (await stored(job.isFailed())) ? job : undefined
  }

  return {
    count: () => stored(queue.getFailedCount()),
    async list(limit) {
      return (await stored(queue.getFailed(0, limit - 1))).map(describe)
    },
    async find(id) {
      const job = await findJob(id)
      return job && describe(job)
    },
    // Their ids alone: ten thousand jobs would keep Redis busy for longer than others wait.
    ids: () => stored(queue.getRanges(['failed'], 0, DEAD_JOBS_KEPT.count - 1)),
    async replay(id) {
      const dead = await findJob(id)
      if (dead === undefined) return 'not_dead'
      const jobId = newJobId()
      const { deduplication } = dead.opts
      const added = await stored(
        queue.add(PROVISION_JOB, dead.data, {
          ...JOB_OPTIONS,
          jobId,
          ...(deduplication !== undefined && { deduplication }),
        }),
      )
      await stored(queue.remove(id))
      return added.id === jobId ? 'replayed' : 'waiting_already'
    },
    async remove(id) {
      if ((await findJob(id)) === undefined) return false
      return (await stored(queue.remove(id))) === 1
    },
    async queueStatus() {
      const counts = await stored(queue.getJobCounts('waiting', 'active', 'delayed', 'failed'))
      return { isPaused: await stored(queue.isPaused()), counts }
    },
    pauseQueue: () => stored(queue.pause()),
    resumeQueue: () => stored(queue.resume()),
  }
}

function describe(job: Job<unknown>): DeadJob {
  return {
    id: job.id ?? '',
    diedAtMs: job.finishedOn ?? 0,
    queuedAtMs: job.timestamp,
    attempts: job.attemptsMade,
    takeovers: job.stalledCounter,
    reason: job.failedReason,
    data: readableJob(job.data),
  }
}
