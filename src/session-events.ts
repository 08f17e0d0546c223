/**
 * Log-outs, for the worker's webhooks (session.revoked): the gateway's part, and the contract with the worker.
 *
 * The gateway alone knows of them, and the worker alone tells. What is between is a small queue; a job holds no more
 * than an id of the user and of the session, neither of which names anybody. A log-out neither waits for it nor
 * fails with it: what Redis does not take is counted and lost.
 */
import { randomUUIDv7 } from 'node:crypto'
import { openJobQueue, PATIENT_JOB } from './job-queue.ts'
import type { JobsOptions } from './job-queue.ts'
import type { StoreClock } from './redis/clock.ts'
import type { RedisClient } from './redis/connections.ts'
import type { Keys } from './redis/keys.ts'
import { readMarks } from './user-marks.ts'

/** Name of the queue, part of its keys in Redis. */
export const SESSION_EVENTS_QUEUE = 'events'
const SESSION_EVENT_JOB = 'session'

/** one: a session; all: all of a user; others: all but one; blocked: all, and no login until the block is lifted. */
export type RevokeScope = 'one' | 'all' | 'others' | 'blocked'

export interface SessionEventJob {
  v: 1
  /** Of the event; a UUIDv7. */
  id: string
  sub: string
  /** Absent when the worker had not provisioned the user yet. */
  userId?: string
  scope: RevokeScope
  /** The session that was ended (one), or the one that was kept (others), as it is listed. */
  sid?: string
  /** Unix ms of Redis. */
  endedAtMs: number
}

/** About four hours of a database that is away; a log-out that is told of later helps nobody. */
const ATTEMPTS_MAX = 250
/** Without a worker that takes them they would fill Redis: some 40 MB. */
const WAITING_MAX = 100_000
const COUNT_INTERVAL_MS = 10_000

const JOB_OPTIONS: JobsOptions = {
  ...PATIENT_JOB,
  attempts: ATTEMPTS_MAX,
  removeOnFail: { age: 24 * 3600, count: 1_000 },
}

export interface SessionEvents {
  /**
   * To be called right before the command that ends sessions of a user: what it reads of them is gone behind that,
   * and travels with it. To be told by what it returns once they have ended.
   * @param fields of the session that is ended, or kept
   */
  beforeEnd(sub: string, fields: readonly string[]): (scope: RevokeScope) => void
  close(): Promise<void>
}

/** The gateway's end. It uses the connection it is given and leaves it open. */
export function createSessionEvents(
  { redis, keys, clock }: { redis: RedisClient; keys: Keys; clock: StoreClock },
  onEvent: (outcome: 'queued' | 'lost' | 'dropped') => void,
): SessionEvents {
  const queue = openJobQueue<SessionEventJob>(
    { redis, keys },
    { name: SESSION_EVENTS_QUEUE, jobOptions: JOB_OPTIONS },
  )
  const underway = new Set<Promise<void>>()
  let isFull = false
  let countAtMs = 0

  async function enqueue(job: Omit<SessionEventJob, 'v' | 'id'>): Promise<void> {
    if (performance.now() >= countAtMs) {
      countAtMs = performance.now() + COUNT_INTERVAL_MS
      const counts = await queue.getJobCounts('waiting', 'delayed')
      isFull = Object.values(counts).reduce((sum, count) => sum + count, 0) >= WAITING_MAX
    }
    if (isFull) return onEvent('dropped')
    const id = randomUUIDv7()
    await queue.add(SESSION_EVENT_JOB, { v: 1, id, ...job }, { jobId: id })
    onEvent('queued')
  }

  return {
    beforeEnd(sub, fields) {
      const read = redis.hmgetBuffer(keys.user(sub), 'a', 'm', 'g', 'i', ...fields)
      read.catch(() => {}) // looked at below, or of no interest when nothing was ended
      return (scope) => {
        const told = tell(sub, scope, { read, fields }).catch(() => onEvent('lost'))
        underway.add(told)
        void told.finally(() => underway.delete(told))
      }
    },
    async close() {
      await Promise.all(underway)
      await queue.close()
    },
  }

  async function tell(
    sub: string,
    scope: RevokeScope,
    { read, fields }: { read: Promise<(Buffer | null)[]>; fields: readonly string[] },
  ): Promise<void> {
    const [appid, m, g, i, ...sessions] = await read
    if (!appid) return // a user without sessions was blocked
    const { userId } = readMarks(m, g, i)
    const field = fields[sessions.findIndex((session) => session !== null)]
    await enqueue({
      sub,
      scope,
      endedAtMs: Math.round(clock.nowMs()),
      ...(userId !== undefined && { userId }),
      ...(field !== undefined && { sid: field.slice(field.lastIndexOf(':') + 1) }),
    })
  }
}

const isOptionalText = (value: unknown) => value === undefined || typeof value === 'string'

/** @throws {TypeError} on anything that is not a job of this version; the message holds no value of it. */
export function parseSessionEventJob(data: unknown): SessionEventJob {
  const job = (data ?? {}) as Partial<Record<keyof SessionEventJob, unknown>>
  const faults = [
    job.v !== 1 && 'v',
    typeof job.id !== 'string' && 'id',
    typeof job.sub !== 'string' && 'sub',
    !isOptionalText(job.userId) && 'userId',
    typeof job.scope !== 'string' && 'scope',
    !isOptionalText(job.sid) && 'sid',
    typeof job.endedAtMs !== 'number' && 'endedAtMs',
  ].filter((fault) => fault !== false)
  if (faults.length > 0) throw new TypeError(`session event with malformed ${faults.join(', ')}`)
  return data as SessionEventJob
}
