/**
 * The BullMQ worker of the provisioning queue: its settings, what it reports, and when it takes no jobs.
 *
 * It takes none while the database is away. A job is run again a bounded number of times, with pauses up to
 * an hour, and an outage is no fault of the job: so the jobs wait in the queue untouched, and are done as
 * soon as the database is back, instead of being spent one by one.
 */
import { Queue, Worker } from 'bullmq'
import type { Job } from 'bullmq'
import type { Log } from '../src/log.ts'
import type { WorkerMetrics } from '../src/metrics.ts'
import { PROVISION_QUEUE, retryDelayMs } from '../src/provisioning.ts'
import type { RedisClient } from '../src/redis.ts'
import type { Database } from './database.ts'
import { waitForDatabase } from './database-wait.ts'
import type { IncomingJob } from './provision-user.ts'
import { createStuckWatch } from './stuck-watch.ts'

export interface ProvisionWorkerDeps {
  /** A patient connection (redis.ts); BullMQ opens a second one like it for its blocking reads. */
  readonly redis: RedisClient
  readonly database: Pick<Database, 'check'>
  readonly metrics: Pick<WorkerMetrics, 'jobs' | 'stalled'>
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
  /** Call when the database may be away: if it is, no job is taken until it is back. */
  suspectDatabase(): void
  /**
   * Takes no further job, lets the running ones finish for at most `graceMs`, resolves. What then still runs
   * is done again by another worker, once its lock has expired.
   */
  close(graceMs: number): Promise<void>
}

/**
 * A job whose worker was killed is taken over after LOCK + STALLED at most; BullMQ's defaults make that 63 s
 * (measured). A job takes milliseconds, so a lock of 10 s, renewed every 5 s, is lost only by a process that
 * hangs.
 */
const LOCK_MS = 10_000
const STALLED_CHECK_MS = 5_000
/** Losing its worker is hardly ever a job's own fault; one that really kills workers stops after this many. */
const STALLED_TIMES_MAX = 5

/** Builds the worker; it takes no jobs before start(). */
export function createProvisionWorker(
  process: (job: IncomingJob) => Promise<void>,
  { redis, database, metrics, log, countWaiting, onStuck }: ProvisionWorkerDeps,
  { prefix, concurrency }: ProvisionWorkerSettings,
): ProvisionWorker {
  const closing = new AbortController()
  let databaseIsAway = false

  const worker = new Worker<unknown, void>(PROVISION_QUEUE, (job) => process(job), {
    connection: redis,
    prefix,
    concurrency,
    autorun: false,
    lockDuration: LOCK_MS,
    stalledInterval: STALLED_CHECK_MS,
    maxStalledCount: STALLED_TIMES_MAX,
    // How long done and dead jobs are kept is the producer's to say, in provisioning.ts.
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
    metrics.jobs.inc({ outcome: 'done' })
  })
  worker.on('failed', (job, error) => {
    stuckWatch.progress()
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

  /** Nothing to be expected of it: waiting for Redis or the database, or going. */
  function isIdle(): boolean {
    return databaseIsAway || closing.signal.aborted || redis.status !== 'ready'
  }

  async function checkDatabase(): Promise<void> {
    const works = await database.check().then(
      () => true,
      () => false, // what is wrong with it is logged by the waiting
    )
    if (works) return
    log.error('the database is away: no jobs are taken')
    await worker.pause(true) // true: without waiting for the running jobs, which wait for the database
    await waitForDatabase(() => database.check(), { log, signal: closing.signal })
    await worker.resume()
    log.info('the database is back: jobs are taken')
  }

  return {
    async start() {
      await worker.waitUntilReady()
      // Never resolves while the worker lives; it reports its own errors.
      void worker.run().catch((error: unknown) => log.error({ err: error }, 'worker ended'))
      stuckWatch.start()
    },
    takesJobs: () => worker.isRunning() && !isIdle(),
    suspectDatabase() {
      if (databaseIsAway || closing.signal.aborted) return
      databaseIsAway = true
      checkDatabase()
        .catch((error: unknown) => {
          if (!closing.signal.aborted) log.error({ err: error }, 'waiting for the database failed')
        })
        .finally(() => {
          databaseIsAway = false
        })
    },
    async close(graceMs) {
      closing.abort()
      stuckWatch.stop()
      // Without Redis close() never ends (taskforcesh/bullmq#4656), nor can a job. A forced close() after
      // this one would return the same promise; the end of the process is the force.
      await Promise.race([worker.close(), timeout(graceMs)])
    },
  }
}

/**
 * Returns a function that counts the queue's jobs by state; `failed` are the dead ones. It rejects while
 * `redis`, a fail-fast connection (redis.ts), is not up.
 */
export function createJobCount(redis: RedisClient, prefix: string): () => Promise<Record<string, number>> {
  const queue = new Queue(PROVISION_QUEUE, {
    connection: redis,
    prefix,
    skipVersionCheck: true,
    skipMetasUpdate: true, // the producer's settings of the queue are not to be overwritten with defaults
  })
  queue.on('error', () => {}) // the connection's owner reports them
  return async () => {
    // Before the first contact BullMQ waits for it, whatever the connection's temper.
    if (redis.status !== 'ready') throw new Error('Redis is away')
    return queue.getJobCounts('waiting', 'active', 'delayed', 'failed')
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
