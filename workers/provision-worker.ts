/**
 * The BullMQ worker of the provisioning queue: its settings, what it reports, and when it takes no jobs.
 *
 * It takes none while the database is away: the jobs wait in the queue untouched, and are done as soon as the
 * database is back. What an outage met in the middle is postponed, without an attempt being counted; attempts
 * are for jobs that fail where others do not (job-failure.ts), and after the last a job is dead.
 */
import { DelayedError, UnrecoverableError, Worker } from 'bullmq'
import type { Job } from 'bullmq'
import type { Log } from '../src/log.ts'
import type { WorkerMetrics } from '../src/metrics/worker.ts'
import { DEAD_JOBS_KEPT, PROVISION_QUEUE, retryDelayMs } from '../src/provisioning.ts'
import type { RedisClient } from '../src/redis/connections.ts'
import { waitForDatabase } from './database-wait.ts'
import { JobFailed } from './job-failure.ts'
import type { ProvisionUser } from './provision-user.ts'
import { openQueueView } from './queue-view.ts'
import { createStuckWatch } from './stuck-watch.ts'

export interface ProvisionWorkerDeps {
  readonly provisionUser: ProvisionUser
  /** Does the same where it can harm no other job (quarantine.ts); undefined where there is no such place. */
  readonly quarantine: ProvisionUser | undefined
  /** A patient connection (redis/connections.ts); BullMQ opens a second one like it for its blocking reads. */
  readonly redis: RedisClient
  /** Resolves when the database takes writes. */
  readonly checkStore: () => Promise<void>
  readonly metrics: Pick<
    WorkerMetrics,
    'jobs' | 'completed' | 'stalled' | 'users' | 'lagSeconds' | 'jobSeconds'
  >
  readonly log: Log
  /** Jobs waiting in the queue. Must not wait for Redis. */
  readonly countWaiting: () => Promise<number>
  /** The worker is alive and does nothing (stuck-watch.ts). Only a new process helps. */
  readonly onStuck: () => void
}

export interface ProvisionWorkerSettings {
  /** BullMQ's prefix: keys.queue(PROVISION_QUEUE). */
  readonly prefix: string
  readonly concurrency: number
}

export interface ProvisionWorker {
  /** Begins to take jobs. Resolves when both connections to Redis are up. */
  start(): Promise<void>
  /** Whether it takes jobs: the database is there, and it is not closing. */
  takesJobs(): boolean
  /** Whether it waits for the database, as far as jobs have noticed. */
  isDatabaseAway(): boolean
  /**
   * Takes no further job, lets the running ones finish for at most `graceMs`, gives back what then still runs,
   * resolves. Without Redis nothing can be given back; it is taken over once its lock has expired.
   */
  close(graceMs: number): Promise<void>
}

/**
 * A job whose worker was killed is taken over once its lock has expired and the next check has come; BullMQ's
 * defaults make that 63 s (measured). A job takes milliseconds, so a lock of 10 s, renewed every 5 s, is lost only by
 * a process that hangs. The workers share one check: when the one that made the last is killed, the next comes up to
 * two intervals later. With intervals of 5 s that came to 18.5 s on a busy machine (measured); of 20 s allowed.
 */
const LOCK_MS = 10_000
const STALLED_CHECK_MS = 3_000
/**
 * Losing its worker proves nothing against a job, as up to WORKER_CONCURRENCY jobs lose it together: with a
 * limit here, one that kills workers takes its neighbours along. It is found out in quarantine, after three
 * crashes. The limit only ends what quarantine could not, and is above what restarts of the fleet come to.
 */
const STALLED_TIMES_MAX = 20
/** The embedded database admits no second process, so no quarantine: a neighbour is spared up to this many. */
const STALLED_TIMES_MAX_EMBEDDED = 5

/** A job that waits for something for ever gives its place up after this; no statement takes above 7 s. */
const JOB_MS_MAX = 30_000
/** Postponed up to 3 min each time, this is more than a day. What fails for so long alone is no outage. */
const STARTS_MAX = 600
/** For handing the jobs back that did not end in time. */
const RETURN_MS = 1_000

/** Builds the worker; it takes no jobs before start(). */
export function createProvisionWorker(
  { provisionUser, quarantine, redis, checkStore, metrics, log, countWaiting, onStuck }: ProvisionWorkerDeps,
  { prefix, concurrency }: ProvisionWorkerSettings,
): ProvisionWorker {
  const closing = new AbortController()
  const running = new Map<string, Job<unknown, void>>()
  let checksDatabase = false
  let databaseIsAway = false

  const worker = new Worker<unknown, void>(PROVISION_QUEUE, run, {
    connection: redis,
    prefix,
    concurrency,
    autorun: false,
    lockDuration: LOCK_MS,
    stalledInterval: STALLED_CHECK_MS,
    maxStalledCount: quarantine === undefined ? STALLED_TIMES_MAX_EMBEDDED : STALLED_TIMES_MAX,
    removeOnComplete: { count: 0 },
    removeOnFail: DEAD_JOBS_KEPT,
    settings: { backoffStrategy: (attemptsMade) => retryDelayMs(attemptsMade) },
  })
  const stuckWatch = createStuckWatch({ isIdle, countWaiting, onStuck })

  const reportError = createErrorReport(log)
  worker.on('error', (error) => {
    // While Redis is away there is one at every try to reconnect, and that it is away has been said.
    if (redis.status === 'ready') reportError(error)
  })
  worker.on('completed', () => {
    stuckWatch.progress()
    metrics.completed()
    metrics.jobs.inc({ outcome: 'done' })
  })
  worker.on('failed', (job, error) => {
    if (error instanceof JobHung) stuckWatch.hung()
    else stuckWatch.progress()
    const dead = isDead(job)
    metrics.jobs.inc({ outcome: dead ? 'dead' : 'failed' })
    const fields = { job: job?.id, attempts: job?.attemptsMade, reason: error.message }
    if (dead) log.error(fields, 'job is dead')
    else log.warn(fields, 'job will be run again')
  })
  worker.on('stalled', (jobId) => {
    metrics.stalled.inc()
    log.warn({ job: jobId }, 'job taken over from a worker that went silent')
  })

  /** Runs one job. It returns nothing, because BullMQ would keep what it returns. */
  async function run(job: Job<unknown, void>): Promise<void> {
    const id = job.id ?? ''
    running.set(id, job)
    const startedMs = performance.now()
    try {
      const isSuspect = quarantine !== undefined && job.stalledCounter > 0
      const done = await (isSuspect ? quarantine(job) : inTime(provisionUser(job)))
      metrics.users.inc({ outcome: done.outcome })
      if (done.outcome === 'erased') return
      // The login was timed by Redis' clock, which may run ahead of this one.
      metrics.lagSeconds.observe(Math.max(0, Date.now() - done.seenAtMs) / 1_000)
      metrics.jobSeconds.observe((performance.now() - startedMs) / 1_000)
    } catch (error) {
      if (!(error instanceof JobFailed)) {
        // Said here, for BullMQ would keep message and stack of every attempt.
        log.error({ job: id, err: error }, 'error of the program')
        throw new JobFailed('fault', error instanceof Error ? error.name : 'unknown error')
      }
      switch (error.kind) {
        case 'fault':
          throw error
        case 'never':
          throw new UnrecoverableError(error.message)
        case 'database_away':
          suspectDatabase()
          return await postpone(job, error)
        case 'later':
          return await postpone(job, error)
      }
    } finally {
      running.delete(id)
    }
  }

  /** Back into the queue, without an attempt being counted. Always rejects, which is how BullMQ is told. */
  async function postpone(job: Job<unknown, void>, { message }: JobFailed): Promise<never> {
    if (job.attemptsStarted >= STARTS_MAX) throw new UnrecoverableError(`${message}, ${STARTS_MAX} times`)
    await job.moveToDelayed(Date.now() + retryDelayMs(job.attemptsStarted), job.token)
    metrics.jobs.inc({ outcome: 'postponed' })
    log.warn({ job: job.id, starts: job.attemptsStarted, reason: message }, 'job is postponed')
    throw new DelayedError()
  }

  /** Nothing to be expected of it: waiting for Redis or the database, or going. */
  function isIdle(): boolean {
    return databaseIsAway || closing.signal.aborted || redis.status !== 'ready'
  }

  function suspectDatabase(): void {
    if (checksDatabase || closing.signal.aborted) return
    checksDatabase = true
    checkDatabase()
      .catch((error: unknown) => {
        if (!closing.signal.aborted) log.error({ err: error }, 'waiting for the database failed')
      })
      .finally(() => {
        checksDatabase = false
        databaseIsAway = false
      })
  }

  async function checkDatabase(): Promise<void> {
    const works = await checkStore().then(
      () => true,
      () => false, // what is wrong with it is logged by the waiting
    )
    if (works) return
    databaseIsAway = true
    log.error('the database is away: no jobs are taken')
    await worker.pause(true) // true: without waiting for the running jobs, which wait for the database
    await waitForDatabase(checkStore, { log, signal: closing.signal })
    await worker.resume()
    log.info('the database is back: jobs are taken')
  }

  /** What did not end in time goes back to the head of the queue, rather than to wait until its lock expires. */
  async function giveBack(): Promise<void> {
    const given = [...running.values()].map((job) => job.moveToWait(job.token))
    const results = await Promise.allSettled(given)
    const returned = results.filter(({ status }) => status === 'fulfilled').length
    if (results.length > 0) log.warn({ returned, lost: results.length - returned }, 'jobs given back')
  }

  return {
    async start() {
      await worker.waitUntilReady()
      // Never resolves while the worker lives; it reports its own errors.
      void worker.run().catch((error: unknown) => log.error({ err: error }, 'worker ended'))
      stuckWatch.start()
    },
    takesJobs: () => worker.isRunning() && !isIdle(),
    isDatabaseAway: () => databaseIsAway,
    async close(graceMs) {
      closing.abort()
      stuckWatch.stop()
      // Without Redis close() never ends (taskforcesh/bullmq#4656), nor can a job. A forced close() after
      // this one would return the same promise; the end of the process is the force.
      await Promise.race([worker.close(), timeout(graceMs)])
      if (redis.status === 'ready') await Promise.race([giveBack(), timeout(RETURN_MS)])
    },
  }
}

/** A job that waited for something in vain. What it waited for may still come; that does no harm. */
class JobHung extends JobFailed {
  constructor() {
    super('fault', `it did not end within ${JOB_MS_MAX / 1_000} s`)
  }
}

async function inTime<T>(job: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const hung = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new JobHung()), JOB_MS_MAX)
  })
  try {
    return await Promise.race([job, hung])
  } finally {
    clearTimeout(timer)
  }
}

/**
 * Returns a function that counts the queue's jobs by state; `failed` are the dead ones. It rejects while
 * `redis`, a fail-fast connection (redis/connections.ts), is not up.
 */
export function createJobCount(
  redis: RedisClient,
  prefix: string,
  name?: string,
): () => Promise<Record<string, number>> {
  const queue = openQueueView(redis, prefix, name)
  return async () => {
    // Before the first contact BullMQ waits for it, whatever the connection's temper.
    if (redis.status !== 'ready') throw new Error('Redis is away')
    return queue.getJobCounts('waiting', 'active', 'delayed', 'failed')
  }
}

/**
 * Returns a function that says when the job was enqueued that has waited longest in these states, unix ms. As above.
 * Cheap for `waiting` alone; of other states so many are looked at.
 */
export function createOldestWaiting(
  redis: RedisClient,
  prefix: string,
  { name, states = ['waiting'] }: { name?: string; states?: JobState[] } = {},
): () => Promise<number | undefined> {
  const queue = openQueueView(redis, prefix, name)
  return async () => {
    if (redis.status !== 'ready') throw new Error('Redis is away')
    const jobs = await queue.getJobs(states, 0, states.length === 1 ? 0 : JOBS_LOOKED_AT_MAX, true)
    const oldestMs = Math.min(...jobs.map((job) => job?.timestamp ?? Infinity))
    return Number.isFinite(oldestMs) ? oldestMs : undefined
  }
}

type JobState = 'waiting' | 'delayed' | 'active'
const JOBS_LOOKED_AT_MAX = 200

/** Returns a function that counts the jobs that a worker could take: none while the queue is paused. As above. */
export function createWaitingCount(redis: RedisClient, prefix: string): () => Promise<number> {
  const queue = openQueueView(redis, prefix)
  return async () => {
    if (redis.status !== 'ready') throw new Error('Redis is away')
    return (await queue.isPaused()) ? 0 : queue.getWaitingCount()
  }
}

/** The job will not be run again: its attempts are used up, or it can never succeed. */
function isDead(job: Job | undefined): boolean {
  return job?.finishedOn !== undefined
}

const ERROR_REPORT_MS = 10_000

/** Logs the first of a burst of errors, and then how many more there were: a reconnect makes two for every job. */
function createErrorReport(log: Log): (error: Error) => void {
  let further = 0
  let timer: NodeJS.Timeout | undefined
  return (error) => {
    if (timer !== undefined) {
      further += 1
      return
    }
    log.warn({ err: error }, 'worker error')
    timer = setTimeout(() => {
      timer = undefined
      if (further > 0) log.warn({ further }, 'further worker errors')
      further = 0
    }, ERROR_REPORT_MS)
    timer.unref()
  }
}

function timeout(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms).unref()
  })
}
