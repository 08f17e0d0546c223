/** What the gateway's queues have in common: its end of a BullMQ queue, and the pauses of jobs that wait for better times. */
import { Queue } from 'bullmq'
import type { JobsOptions } from 'bullmq'
import type { RedisClient } from './redis/connections.ts'
import type { Keys } from './redis/keys.ts'

export type { Job, JobsOptions, Queue } from 'bullmq'

export interface JobQueueSettings {
  /** Part of its keys in Redis. */
  readonly name: string
  /** Of every job that says nothing else. */
  readonly jobOptions: JobsOptions
  /** Of BullMQ's stream of events, which nobody here reads: it is bounded. Default 100. */
  readonly eventsMax?: number
}

/** Opens it over the connection it is given, which it leaves open, and whose owner reports its errors. */
export function openJobQueue<Job>(
  { redis, keys }: { redis: RedisClient; keys: Keys },
  { name, jobOptions, eventsMax = 100 }: JobQueueSettings,
): Queue<Job> {
  const queue = new Queue<Job>(name, {
    connection: redis,
    prefix: keys.queue(name),
    defaultJobOptions: jobOptions,
    streams: { events: { maxLen: eventsMax } },
    skipVersionCheck: true, // it asks INFO over a connection that may not be up yet
  })
  queue.on('error', () => {}) // without a listener they would end the process
  return queue
}

/** Of jobs that wait as long as it takes. */
export const PATIENT_JOB: JobsOptions = {
  backoff: { type: 'capped' },
  // BullMQ would keep one of every attempt, in Redis: of a job that fails for a day that is more than a megabyte.
  stackTraceLimit: 1,
  removeOnComplete: true,
}

const PATIENT_RETRY_MS_MAX = 60_000

/** Pause before attempt `attemptsMade + 1` of a job that is not given up: doubling from 1 s up to a minute. */
export function patientRetryDelayMs(attemptsMade: number): number {
  return Math.min(1_000 * 2 ** Math.min(attemptsMade - 1, 10), PATIENT_RETRY_MS_MAX)
}
