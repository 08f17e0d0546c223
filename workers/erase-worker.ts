/**
 * The BullMQ worker of the erase queue, and the way to find the jobs of a user in the provisioning queue. It runs many
 * at a time, for they share the reading of that queue.
 */
import type { Job } from 'bullmq'
import { ERASE_QUEUE, parseEraseJob } from '../src/erasure.ts'
import type { EraseJob } from '../src/erasure.ts'
import type { WorkerMetrics } from '../src/metrics/worker.ts'
import { readableJob } from '../src/provisioning.ts'
import type { RedisClient } from '../src/redis/connections.ts'
import { createPatientWorker } from './patient-worker.ts'
import type { PatientWorker, PatientWorkerDeps } from './patient-worker.ts'
import type { IncomingJob } from './provision-user.ts'
import { openQueueView, readJobIds } from './queue-view.ts'

const STALLED_TIMES_MAX = 1_000
/** More than there are connections to the database. */
const CONCURRENCY = 32

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
    { name: ERASE_QUEUE, prefix, concurrency: CONCURRENCY, stalledTimesMax: STALLED_TIMES_MAX },
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

/**
 * From where a job may come before where it may go: one that moves on meanwhile is met later. A worker takes jobs
 * from the end of a list and new ones come to its beginning, so a list is read from its beginning.
 */
const STATES = ['delayed', 'prioritized', 'waiting', 'failed', 'completed'] as const
const ENDED_STATES: readonly string[] = ['failed', 'completed']

interface Wanted {
  readonly user: Pick<EraseJob, 'sub' | 'openid' | 'erasedAtMs'>
  readonly found: { removed: number; running: number }
}

export interface JobRemovalDeps {
  readonly redis: RedisClient
  /** Whether the user has a session now. */
  readonly isLoggedIn: (sub: string) => Promise<boolean>
}

/**
 * Returns a function that takes the jobs of a user out of the provisioning queue, as far as they tell of a time
 * before the erasure. Those that are being run cannot be taken out; they are counted. Of a user who has logged in again
 * only those that have ended go: the login may have found a job of before waiting, and counts on it (provision-user.ts).
 *
 * Jobs cannot be found by their user, so the whole queue is read, which takes seconds when it is long. Calls that come
 * while it is read share the next reading, however many they are.
 *
 * @param prefix BullMQ's: keys.queue(PROVISION_QUEUE)
 */
export function createJobRemoval({ redis, isLoggedIn }: JobRemovalDeps, prefix: string) {
  const queue = openQueueView(redis, prefix)
  let next: { readonly wanted: Wanted[]; readonly done: Promise<void> } | undefined
  let last: Promise<void> = Promise.resolve()

  async function read(wanted: readonly Wanted[]): Promise<void> {
    const whose = createMatch(wanted)
    for (const state of STATES) {
      const hasEnded = ENDED_STATES.includes(state)
      await readJobIds(queue, state, async (id) => {
        const job = await queue.getJob(id)
        return job !== undefined && remove(job, whose(job), hasEnded)
      })
    }
    for (const job of await queue.getJobs(['active'])) {
      const theirs = whose(job)
      if (theirs !== undefined) theirs.found.running += 1
    }
  }

  /** One that cannot be removed has been taken by a worker since, and is met among those that run. */
  async function remove(job: Job<unknown>, theirs: Wanted | undefined, hasEnded: boolean): Promise<boolean> {
    if (theirs === undefined || (!hasEnded && (await isLoggedIn(theirs.user.sub)))) return false
    const isGone = await job.remove().then(
      () => true,
      () => false,
    )
    if (isGone) theirs.found.removed += 1
    return isGone
  }

  function readNext(): Exclude<typeof next, undefined> {
    const wanted: Wanted[] = []
    const done = last.then(() => {
      next = undefined
      return read(wanted)
    })
    last = done.catch(() => {}) // whoever waits for it hears of it
    return { wanted, done }
  }

  return async (user: Wanted['user']): Promise<{ removed: number; running: number }> => {
    next ??= readNext()
    const found = { removed: 0, running: 0 }
    next.wanted.push({ user, found })
    await next.done
    return found
  }
}

/** Says whose a job is, if it tells of a time before their erasure. */
function createMatch(wanted: readonly Wanted[]) {
  const bySub = Map.groupBy(wanted, ({ user }) => user.sub)
  return (job: Job<unknown> | undefined): Wanted | undefined => {
    const { sub, seenAtMs = 0 } = (readableJob(job?.data) ?? {}) as { sub?: string; seenAtMs?: number }
    if (sub === undefined) return wanted.find(({ user }) => isNamed(job, user))
    return bySub.get(sub)?.find(({ user }) => seenAtMs <= user.erasedAtMs)
  }
}

/** In a job of another release, whose form only that one knows. */
function isNamed(job: Job<unknown> | undefined, { openid }: Wanted['user']): boolean {
  return (JSON.stringify(job?.data) ?? '').includes(JSON.stringify(openid))
}
