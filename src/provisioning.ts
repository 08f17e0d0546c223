/**
 * The contract between the gateway, which enqueues a user to provision, and the worker, which does it.
 *
 * A job holds what the worker has to know and nothing more: BullMQ keeps jobs in Redis in clear text, so
 * there is never a session_key, code or token in one.
 */
import { createHash, randomBytes } from 'node:crypto'
import { GatewayError } from './errors.ts'
import { openJobQueue } from './job-queue.ts'
import type { JobsOptions, Queue } from './job-queue.ts'
import { loadScript } from './redis/scripts.ts'
import { stored } from './redis/stored.ts'
import type { StoreClock } from './redis/clock.ts'
import type { RedisClient } from './redis/connections.ts'
import type { Keys } from './redis/keys.ts'
import { subjectOf } from './subject.ts'
import { packUserId } from './user-marks.ts'

/** Name of the queue, part of its keys in Redis. */
export const PROVISION_QUEUE = 'provision'
/** The kind of job that provisions one user. */
export const PROVISION_JOB = 'user'

export interface ProvisionJob {
  sub: string
  appid: string
  openid: string
  unionid?: string
  /** When the login was seen, unix ms of Redis; an older job never undoes a newer one. */
  seenAtMs: number
  /** Its place in the trace of the login, if that is traced (tracing/trace-parent.ts). */
  tp?: string
}

/**
 * As it is queued. Redis allots in steps, and a backlog is many of them: with whole words and the subject, which
 * follows from the rest, a job takes 64 bytes more.
 */
interface QueuedJob {
  /** Version of the payload: old and new processes run side by side during an upgrade. */
  v: 2
  a: string
  o: string
  u?: string
  t: number
  tp?: string
}

type FieldNames = Readonly<Record<'appid' | 'openid' | 'unionid' | 'seenAtMs', string>>

/** What the fields of a job are called. */
const FIELDS_BY_VERSION: ReadonlyMap<unknown, FieldNames> = new Map([
  [1, { appid: 'appid', openid: 'openid', unionid: 'unionid', seenAtMs: 'seenAtMs' }],
  [2, { appid: 'a', openid: 'o', unionid: 'u', seenAtMs: 't' }],
])

/** For a job that fails where others do not: about two minutes, then a person has to look at it. */
const ATTEMPTS_MAX = 8
const RETRY_DELAY_FIRST_MS = 1_000
const RETRY_DELAY_MS_MAX = 180_000

/**
 * Dead jobs are kept for a person (`npm run jobs`), bounded in age and number: some 10 MB of Redis. The worker says
 * so for all of them; in each job it would take 64 bytes more of Redis.
 */
export const DEAD_JOBS_KEPT = { age: 7 * 24 * 3600, count: 10_000 }

/**
 * What a job says for itself; the rest (what becomes of it when it has ended) the worker says for all. Redis allots in
 * steps, and a job with a long id and five more words takes 1.2 KB instead of one.
 *
 * A job's own failures are counted in attempts; what is no fault of it costs none (workers/provision-worker.ts).
 */
export const JOB_OPTIONS: JobsOptions = {
  attempts: ATTEMPTS_MAX,
  backoff: { type: 'c' }, // of any name that is not BullMQ's: the worker has a function for it
}

const JOB_ID_BYTES = 9

/** A new id, as short as chance allows. Neither a number, which BullMQ refuses, nor like an option of a command. */
export function newJobId(): string {
  return `j${randomBytes(JOB_ID_BYTES).toString('base64url')}`
}

/** Pause after the `failures`-th failure: doubling from 1 s up to 3 min, with ± 25 % jitter. */
export function retryDelayMs(failures: number): number {
  const delayMs = Math.min(RETRY_DELAY_FIRST_MS * 2 ** (failures - 1), RETRY_DELAY_MS_MAX)
  return Math.round(delayMs * (0.75 + 0.5 * Math.random()))
}

export interface Provisioning {
  /**
   * Resolves when Redis has acknowledged the job: `false` when an equal one was waiting already.
   * @throws {GatewayError} store_unavailable
   */
  enqueue(job: ProvisionJob): Promise<boolean>
  /** Jobs by state, for the metrics. Never waits for Redis. @throws {GatewayError} store_unavailable */
  counts(): Promise<Record<string, number>>
  /** When the job that has waited longest was enqueued, unix ms; undefined: none waits. As counts(). */
  oldestWaitingAtMs(): Promise<number | undefined>
  close(): Promise<void>
}

/** The gateway's end of the queue. It uses the connection it is given and leaves it open. */
export function createProvisioning(
  redis: RedisClient,
  keys: Keys,
  onEnqueue: (outcome: 'added' | 'waiting_already') => void,
): Provisioning & { /** For looking at it (queue-board.ts). */ readonly queue: Queue } {
  const queue = openJobQueue<QueuedJob>(
    { redis, keys },
    { name: PROVISION_QUEUE, jobOptions: JOB_OPTIONS, eventsMax: 1_000 },
  )

  return {
    async enqueue(job) {
      const jobId = newJobId()
      const added = await stored(
        queue.add(PROVISION_JOB, queuedJob(job), { jobId, deduplication: { id: deduplicationId(job) } }),
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
    async oldestWaitingAtMs() {
      if (redis.status !== 'ready') throw new GatewayError('store_unavailable')
      const [oldest] = await stored(queue.getJobs(['waiting'], 0, 0, true))
      return oldest?.timestamp
    },
    queue,
    close: () => queue.close(),
  }
}

/** Users for whom healing was tried are remembered, but not more than this many. */
const HEALED_USERS_MAX = 10_000
const HEAL_PAUSE_FIRST_MS = 60_000
/** Where healing did not help, the job is dead, or the worker far behind: more jobs would make neither better. */
const HEAL_PAUSE_MS_MAX = 3_600_000

/**
 * Enqueues users again whom the worker should have acknowledged long ago: their job was lost, or it died.
 * Runs beside a validation and never delays or fails it; a user is tried after a minute, two, four … an hour.
 *
 * @param onHeal a job really was missing; one that only waits for a slow worker does not count
 */
export function createSelfHeal(provisioning: Provisioning, clock: StoreClock, onHeal: () => void) {
  const tries = new Map<string, { atMs: number; pauseMs: number }>()

  return ({
    sub,
    appid,
    openid,
    unionid,
    seenAtMs,
  }: Omit<ProvisionJob, 'unionid'> & { unionid: string | undefined }) => {
    const nowMs = clock.nowMs()
    const last = tries.get(sub)
    if (last !== undefined && nowMs - last.atMs < last.pauseMs) return
    if (tries.size >= HEALED_USERS_MAX) tries.clear() // crude, but bounded; a repeat does no harm
    const pauseMs = last === undefined ? HEAL_PAUSE_FIRST_MS : Math.min(last.pauseMs * 2, HEAL_PAUSE_MS_MAX)
    tries.set(sub, { atMs: nowMs, pauseMs })
    provisioning
      .enqueue({ sub, appid, openid, seenAtMs, ...(unionid === undefined ? {} : { unionid }) })
      .then((isNew) => isNew && onHeal())
      // Redis is away, or full: that it did not help proves nothing.
      .catch(() => tries.set(sub, { atMs: nowMs, pauseMs: HEAL_PAUSE_FIRST_MS }))
  }
}

/** Of 72 bits: among a million that wait, two are alike once in ten billion times. */
const DEDUPLICATION_CHARACTERS = 12

/** Equal jobs are one job while it waits or runs. A unionid that appears makes it another one. */
function deduplicationId({ sub, unionid }: Pick<ProvisionJob, 'sub' | 'unionid'>): string {
  const text =
    unionid === undefined ? sub : createHash('sha256').update(`${sub}\0${unionid}`).digest('base64url')
  return text.slice(0, DEDUPLICATION_CHARACTERS)
}

/** A job as it is queued. */
export function queuedJob({ appid, openid, unionid, seenAtMs, tp }: ProvisionJob): QueuedJob {
  return {
    v: 2,
    a: appid,
    o: openid,
    ...(unionid !== undefined && { u: unionid }),
    t: seenAtMs,
    ...(tp !== undefined && { tp }),
  }
}

/** Not a job of a version that is known. The message is kept in Redis, and holds no value of the job but its version. */
export class MalformedJob extends Error {
  override readonly name = 'MalformedJob'
}

/** Reads the payload of a job. @throws {MalformedJob} */
export function parseProvisionJob(data: unknown): ProvisionJob {
  const job = (data ?? {}) as Readonly<Record<string, unknown>>
  const names = FIELDS_BY_VERSION.get(job['v'])
  if (names === undefined) {
    if (typeof job['v'] !== 'number') throw new MalformedJob('provision job with malformed v')
    const known = [...FIELDS_BY_VERSION.keys()].join(' and ')
    throw new MalformedJob(`provision job of version ${job['v']}; this worker knows ${known}`)
  }
  const { [names.appid]: appid, [names.openid]: openid, [names.seenAtMs]: seenAtMs } = job
  const { [names.unionid]: unionid } = job
  const faults = [
    typeof appid !== 'string' && 'appid',
    (typeof openid !== 'string' || openid === '') && 'openid',
    unionid !== undefined && typeof unionid !== 'string' && 'unionid',
    (typeof seenAtMs !== 'number' || !Number.isFinite(seenAtMs)) && 'seenAtMs',
  ].filter((fault) => fault !== false)
  if (faults.length > 0) throw new MalformedJob(`provision job with malformed ${faults.join(', ')}`)
  const read = { appid, openid, seenAtMs, ...(unionid !== undefined && { unionid }) } as Omit<
    ProvisionJob,
    'sub'
  >
  return { sub: subjectOf(read.appid, read.openid), ...read }
}

/** The payload of a job with whole words, for people; what cannot be read as it is. */
export function readableJob(data: unknown): unknown {
  try {
    return parseProvisionJob(data)
  } catch {
    return data // a job of an unknown version, say: that is what it may have died of
  }
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
