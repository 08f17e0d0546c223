/**
 * Users who are to be forgotten: the gateway's part, and the contract with the worker, which does the rest.
 *
 * The gateway ends their sessions and takes away what Redis knows of them, at once and everywhere; from then on
 * no token of theirs is valid. A durable job has the worker take their waiting jobs out of the other queues and
 * their rows out of the database (workers/erase-user.ts), as soon as it can. What was seen of the user before the
 * erasure cannot bring them back: the database remembers, by the hash `sub`, up to when a user was erased. A login
 * that begins later makes a new user.
 *
 * A block is not lifted: it holds only the hash and what the administrator noted.
 *
 * Everything may be repeated. The receipt says what was erased and when, and of whom it says nothing.
 */
import { randomUUID } from 'node:crypto'
import { openJobQueue, PATIENT_JOB } from './job-queue.ts'
import type { JobsOptions } from './job-queue.ts'
import { loadScript } from './redis/scripts.ts'
import { stored } from './redis/stored.ts'
import type { RedisClient } from './redis/connections.ts'
import type { Keys } from './redis/keys.ts'
import { subjectOf } from './subject.ts'

/** Name of the queue, part of its keys in Redis. */
export const ERASE_QUEUE = 'erase'
const ERASE_JOB = 'user'

const eraseScript = loadScript('erase-user')

/** The one job besides WeChat's own data that names a user; it is gone from Redis when it has been done. */
export interface EraseJob {
  v: 1
  receipt: string
  sub: string
  appid: string
  openid: string
  /** What was seen of the user up to here goes, unix ms of Redis. */
  erasedAtMs: number
}

/** The pauses between (job-queue.ts) add up to a lifetime: a promise to forget is not given up. */
const ATTEMPTS_MAX = 1_000_000

const JOB_OPTIONS: JobsOptions = {
  ...PATIENT_JOB,
  attempts: ATTEMPTS_MAX,
  // A job that cannot succeed is for a person to look at, however long that takes.
  removeOnFail: false,
}

/** For how long a receipt can be read: the caller keeps a copy if it wants one for longer. */
const RECEIPT_SECONDS = 30 * 24 * 3600

/** What the worker has taken away. */
interface ErasedCounts {
  jobs: number
  identities: number
  users: number
}

/** What was erased, and when; times in unix seconds of Redis. */
export interface ErasureReceipt {
  receipt: string
  state: 'pending' | 'done'
  requestedAtSeconds: number
  /** undefined until it is done. */
  doneAtSeconds: number | undefined
  sessions: number
  erased: ErasedCounts | undefined
}

export interface ErasureDeps {
  redis: RedisClient
  keys: Keys
  /** Told of every user, after Redis has forgotten them. */
  onErase(sub: string): void
}

/** The gateway's end. It uses the connection it is given and leaves it open. */
export function createErasure({ redis, keys, onErase }: ErasureDeps) {
  const queue = openJobQueue<EraseJob>({ redis, keys }, { name: ERASE_QUEUE, jobOptions: JOB_OPTIONS })

  return {
    /**
     * Resolves when the user has no session any more and the rest is certain to follow. After a failure it may
     * have begun, and has to be asked for again.
     * @param receipt of the attempt before, where this is another one at the same: its job is not queued twice
     * @throws {GatewayError} store_unavailable
     */
    async erase(
      { appid, openid }: { appid: string; openid: string },
      receipt: string = randomUUID(),
    ): Promise<ErasureReceipt> {
      const sub = subjectOf(appid, openid)
      const answer = await stored(
        eraseScript(redis, [keys.user(sub), keys.userLimit(sub)], [keys.endedChannel]),
      )
      const [erasedAtMs, sessions] = answer as [erasedAtMs: number, sessions: number]
      onErase(sub)
      const requestedAtSeconds = Math.floor(erasedAtMs / 1000)
      const key = keys.erasure(receipt)
      // The receipt first: the worker may be done before the job is acknowledged here.
      await stored(redis.hset(key, { requested: requestedAtSeconds }))
      await stored(redis.hincrby(key, 'sessions', sessions))
      await stored(redis.expire(key, RECEIPT_SECONDS))
      await stored(
        queue.add(ERASE_JOB, { v: 1, receipt, sub, appid, openid, erasedAtMs }, { jobId: receipt }),
      )
      return {
        receipt,
        state: 'pending',
        requestedAtSeconds,
        doneAtSeconds: undefined,
        sessions,
        erased: undefined,
      }
    },

    /** undefined: there is none, or no longer. @throws {GatewayError} store_unavailable */
    async find(receipt: string): Promise<ErasureReceipt | undefined> {
      const {
        requested,
        sessions,
        done,
        jobs = 0,
        identities,
        users,
      } = await stored(redis.hgetall(keys.erasure(receipt)))
      if (requested === undefined) return undefined
      return {
        receipt,
        state: done === undefined ? 'pending' : 'done',
        requestedAtSeconds: Number(requested),
        doneAtSeconds: done === undefined ? undefined : Number(done),
        sessions: Number(sessions),
        erased:
          done === undefined
            ? undefined
            : { jobs: Number(jobs), identities: Number(identities), users: Number(users) },
      }
    },

    /** For looking at it (queue-board.ts). */
    queue,

    close: () => queue.close(),
  }
}

export type Erasure = ReturnType<typeof createErasure>

/** @throws {TypeError} on anything that is not a job of this version; the message holds no value of it. */
export function parseEraseJob(data: unknown): EraseJob {
  const job = (data ?? {}) as Partial<Record<keyof EraseJob, unknown>>
  const faults = [
    job.v !== 1 && 'v',
    typeof job.receipt !== 'string' && 'receipt',
    typeof job.sub !== 'string' && 'sub',
    typeof job.appid !== 'string' && 'appid',
    typeof job.openid !== 'string' && 'openid',
    typeof job.erasedAtMs !== 'number' && 'erasedAtMs',
  ].filter((fault) => fault !== false)
  if (faults.length > 0) throw new TypeError(`erase job with malformed ${faults.join(', ')}`)
  return data as EraseJob
}

/** The worker's end: writes into the receipt what it has done. A receipt that has expired stays so. */
export function createReceiptWriter(redis: RedisClient, keys: Keys) {
  const exists = async (receipt: string) => (await stored(redis.exists(keys.erasure(receipt)))) === 1
  return {
    /** Adds to the jobs that were taken out of queues: that may take several goes. */
    async countJobs(receipt: string, jobs: number): Promise<void> {
      if (jobs > 0 && (await exists(receipt)))
        await stored(redis.hincrby(keys.erasure(receipt), 'jobs', jobs))
    },
    /** All is done. */
    async close(receipt: string, rows: { identities: number; users: number }): Promise<void> {
      if (!(await exists(receipt))) return
      const [seconds] = await stored(redis.time())
      await stored(redis.hset(keys.erasure(receipt), { done: Number(seconds), ...rows }))
      await stored(redis.expire(keys.erasure(receipt), RECEIPT_SECONDS))
    },
  }
}

export type ReceiptWriter = ReturnType<typeof createReceiptWriter>

/** Longer than any job of before can wait: a dead one is kept for a week. */
const REMEMBERED_SECONDS = 30 * 24 * 3600

/**
 * Remembers up to when a user was erased, by the hash alone, where no database of ours does (PROVISION_MODULE).
 * All of it rejects with store_unavailable, and may be repeated.
 */
export function createErasedMarks(redis: RedisClient, keys: Keys) {
  return {
    /** undefined: not erased, or long ago. */
    async find(sub: string): Promise<{ erasedAtMs: number; doneAtMs: number } | undefined> {
      const { at, done = 0 } = await stored(redis.hgetall(keys.erased(sub)))
      return at === undefined ? undefined : { erasedAtMs: Number(at), doneAtMs: Number(done) }
    },
    /** `at`: asked for; `done`: done as far as what was seen up to then. */
    async set(sub: string, mark: { at: number } | { done: number }): Promise<void> {
      await stored(redis.hset(keys.erased(sub), mark))
      await stored(redis.expire(keys.erased(sub), REMEMBERED_SECONDS))
    },
  }
}

export type ErasedMarks = ReturnType<typeof createErasedMarks>

/** The unionid that is known of a user who is logged in. */
export function createUnionidReader(redis: RedisClient, keys: Keys) {
  return async (sub: string): Promise<string | undefined> =>
    (await stored(redis.hget(keys.user(sub), 'u'))) ?? undefined
}

/** Whether a user has a session: one who was erased has logged in again since. */
export function createLoggedInCheck(redis: RedisClient, keys: Keys) {
  return async (sub: string): Promise<boolean> => (await stored(redis.exists(keys.user(sub)))) === 1
}
