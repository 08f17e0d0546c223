/**
 * The contract between the gateway, which enqueues a user to provision, and the worker, which does it.
 *
 * A job holds what the worker has to know and nothing more: BullMQ keeps jobs in Redis in clear text, so
 * there is never a session_key, code or token in one.
 */
import { createHash, randomUUID } from 'node:crypto'
import { Queue } from 'bullmq'
import type { JobsOptions } from 'bullmq'
import { GatewayError } from './errors.ts'
import { loadScript, stored } from './redis.ts'
import type { Keys, RedisClient, StoreClock } from './redis.ts'
import { packUserId } from './user-marks.ts'

/** Name of the queue, part of its keys in Redis. */
export const PROVISION_QUEUE = 'provision'
/** The kind of job that provisions one user. */
const PROVISION_JOB = 'user'

export interface ProvisionJob {
  /** Version of the payload: old and new processes run side by side during an upgrade. */
  v: 1
  sub: string
  appid: string
  openid: string
  unionid?: string
  /** When the login was seen, unix ms of Redis; an older job never undoes a newer one. */
  seenAtMs: number
}

const ATTEMPTS_MAX = 40
const BACKOFF_FIRST_MS = 1_000
const DEAD_JOBS_MAX = 10_000
const DEAD_JOB_LIFE_SECONDS = 7 * 24 * 3600

/**
 * Retried with the pauses of retryDelayMs (below), which the worker applies; together they last more
 * than a day (27 hours), so that a database may fail for that long. Then the job stays as a dead job, bounded.
 */
const JOB_OPTIONS: JobsOptions = {
  attempts: ATTEMPTS_MAX,
  backoff: { type: 'capped' },
  removeOnComplete: true,
  removeOnFail: { age: DEAD_JOB_LIFE_SECONDS, count: DEAD_JOBS_MAX },
}

/** Pause before attempt `attemptsMade + 1`: doubling from 1 s up to 1 h, with ± 25 % jitter. */
export function retryDelayMs(attemptsMade: number): number {
  const delayMs = Math.min(BACKOFF_FIRST_MS * 2 ** (attemptsMade - 1), 3_600_000)
  return Math.round(delayMs * (0.75 + 0.5 * Math.random()))
}

export interface Provisioning {
  /**
   * Resolves when Redis has acknowledged the job: `false` when an equal one was waiting already.
   * @throws {GatewayError} store_unavailable
   */
  enqueue(job: Omit<ProvisionJob, 'v'>): Promise<boolean>
  /** Jobs by state, for the metrics. Never waits for Redis. @throws {GatewayError} store_unavailable */
  counts(): Promise<Record<string, number>>
  close(): Promise<void>
}

/** The gateway's end of the queue. It uses the connection it is given and leaves it open. */
export function createProvisioning(
  redis: RedisClient,
  keys: Keys,
  onEnqueue: (outcome: 'added' | 'waiting_already') => void,
): Provisioning {
  const queue = new Queue<ProvisionJob>(PROVISION_QUEUE, {
    connection: redis,
    prefix: keys.queue(PROVISION_QUEUE),
    defaultJobOptions: JOB_OPTIONS,
    streams: { events: { maxLen: 1_000 } },
    skipVersionCheck: true, // it asks INFO over a connection that may not be up yet
  })
  // The connection is shared; its owner reports its errors. Without a listener they would end the process.
  queue.on('error', () => {})

  return {
    async enqueue(job) {
      const jobId = randomUUID()
      const added = await stored(
        queue.add(PROVISION_JOB, { v: 1, ...job }, { jobId, deduplication: { id: deduplicationId(job) } }),
      )
      const isNew = added.id === jobId
      onEnqueue(isNew ? 'added' : 'waiting_already')
      return isNew
    },
    async counts() {
      // Before the first contact BullMQ waits for it, whatever the connection's temper.
      if (redis.status !== 'ready') throw new GatewayError('store_unavailable')
      return stored(queue.getJobCounts('waiting', 'active', 'delayed', 'failed'))
    },
    close: () => queue.close(),
  }
}

/** Users for whom healing was tried a moment ago are remembered for this long, and not more than this many. */
const HEAL_PAUSE_MS = 60_000
const HEALED_USERS_MAX = 10_000

/**
 * Enqueues users again whom the worker should have acknowledged long ago: their job was lost, or it died.
 * Runs beside a validation and never delays or fails it; a user is tried once a minute at most.
 *
 * @param onHeal a job really was missing; one that only waits for a slow worker does not count
 */
export function createSelfHeal(provisioning: Provisioning, clock: StoreClock, onHeal: () => void) {
  const triedAtMs = new Map<string, number>()

  return ({
    sub,
    appid,
    openid,
    unionid,
    seenAtMs,
  }: Omit<ProvisionJob, 'v' | 'unionid'> & { unionid: string | undefined }) => {
    const nowMs = clock.nowMs()
    if (nowMs - (triedAtMs.get(sub) ?? 0) < HEAL_PAUSE_MS) return
    if (triedAtMs.size >= HEALED_USERS_MAX) triedAtMs.clear() // crude, but bounded; a repeat does no harm
    triedAtMs.set(sub, nowMs)
    provisioning
      .enqueue({ sub, appid, openid, seenAtMs, ...(unionid === undefined ? {} : { unionid }) })
      .then((isNew) => isNew && onHeal())
      .catch(() => {}) // Redis is away; the next validation tries again
  }
}

/** Equal jobs are one job while it waits or runs. A unionid that appears makes it another one. */
function deduplicationId({ sub, unionid }: Pick<ProvisionJob, 'sub' | 'unionid'>): string {
  if (unionid === undefined) return sub
  return `${sub}.${createHash('sha256').update(unionid).digest('base64url').slice(0, 8)}`
}

/** @throws {TypeError} on anything that is not a job of this version; the message holds no value of it. */
export function parseProvisionJob(data: unknown): ProvisionJob {
  const job = (data ?? {}) as Partial<Record<keyof ProvisionJob, unknown>>
  const faults = [
    job.v !== 1 && 'v',
    typeof job.sub !== 'string' && 'sub',
    typeof job.appid !== 'string' && 'appid',
    (typeof job.openid !== 'string' || job.openid === '') && 'openid',
    job.unionid !== undefined && typeof job.unionid !== 'string' && 'unionid',
    typeof job.seenAtMs !== 'number' && 'seenAtMs',
  ].filter((fault) => fault !== false)
  if (faults.length > 0) throw new TypeError(`provision job with malformed ${faults.join(', ')}`)
  return data as ProvisionJob
}

const acknowledgeScript = loadScript('acknowledge-provisioned')

export interface Acknowledgement {
  sub: string
  userId: string
  unionid?: string | undefined
}

/**
 * The worker's answer to the gateway: writes `user_id` into the user's hash, if that still exists.
 * Resolves to whether it did. Safe to repeat.
 * @throws {GatewayError} store_unavailable
 */
export function createAcknowledge(
  redis: RedisClient,
  keys: Keys,
): (done: Acknowledgement) => Promise<boolean> {
  return async ({ sub, userId, unionid }) => {
    const answer = await stored(
      acknowledgeScript(redis, [keys.user(sub)], [packUserId(userId), unionid ?? '']),
    )
    if (typeof answer !== 'number') throw new GatewayError('internal')
    return answer > 0
  }
}
