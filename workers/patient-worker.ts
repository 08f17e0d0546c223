/**
 * A BullMQ worker for few jobs that wait as long as it takes, beside the one that provisions users: while the database
 * is away its jobs fail and are run again. (provision-worker.ts is one of its own: what fails there may be dead.)
 */
import { setTimeout as delay } from 'node:timers/promises'
import { Worker } from 'bullmq'
import { patientRetryDelayMs } from '../src/job-queue.ts'
import type { Log } from '../src/log.ts'
import type { RedisClient } from '../src/redis/connections.ts'
import type { IncomingJob } from './provision-user.ts'

/** As in provision-worker.ts. */
const LOCK_MS = 10_000
const STALLED_CHECK_MS = 5_000

export interface PatientWorkerSettings {
  readonly name: string
  /** BullMQ's: keys.queue(name) */
  readonly prefix: string
  readonly concurrency?: number
  /** How often a job may lose its worker. */
  readonly stalledTimesMax: number
}

export interface PatientWorkerDeps {
  /** A patient connection (redis/connections.ts). */
  readonly redis: RedisClient
  readonly log: Log
  readonly run: (job: IncomingJob) => Promise<void>
  /** Told of the end of each attempt. `dead`: there will be no other. */
  readonly onEnd: (outcome: 'done' | 'failed' | 'dead', job?: FailedJob) => void
}

export interface FailedJob {
  readonly id: string | undefined
  readonly attempts: number | undefined
  readonly reason: string
}

export interface PatientWorker {
  /** Begins to take jobs. Resolves when both connections to Redis are up. */
  start(): Promise<void>
  /** Takes no further job, lets the running ones finish for at most `graceMs`, resolves. */
  close(graceMs: number): Promise<void>
}

/** Builds the worker; it takes no jobs before start(). */
export function createPatientWorker(
  { name, prefix, concurrency = 1, stalledTimesMax }: PatientWorkerSettings,
  { redis, log, run, onEnd }: PatientWorkerDeps,
): PatientWorker {
  const worker = new Worker<unknown, void>(name, run, {
    connection: redis,
    prefix,
    concurrency,
    autorun: false,
    lockDuration: LOCK_MS,
    stalledInterval: STALLED_CHECK_MS,
    maxStalledCount: stalledTimesMax,
    settings: { backoffStrategy: patientRetryDelayMs },
  })
  worker.on('error', () => {}) // of the connection, which the provisioning worker shares and reports
  worker.on('completed', () => onEnd('done'))
  worker.on('failed', (job, { message }) => {
    const isDead = job?.finishedOn !== undefined
    onEnd(isDead ? 'dead' : 'failed', { id: job?.id, attempts: job?.attemptsMade, reason: message })
  })

  return {
    async start() {
      await worker.waitUntilReady()
      void worker.run().catch((error: unknown) => log.error({ err: error }, `${name} worker ended`))
    },
    async close(graceMs) {
      await Promise.race([worker.close(), delay(graceMs, undefined, { ref: false })])
    },
  }
}
