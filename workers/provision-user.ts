/**
 * The job: provision one user. Parse, write to the database, tell the gateway.
 *
 * Runs at least once. A worker killed anywhere here leaves a job that another runs again, with the same
 * outcome: the store is idempotent, and so is the acknowledgement, which comes last, after the commit.
 *
 * What a job throws, BullMQ writes into Redis in clear (message and stack). So nothing that is thrown here
 * quotes the payload, and the database's errors, which may, are passed on as their SQLSTATE alone.
 */
import { UnrecoverableError } from 'bullmq'
import type { Log } from '../src/log.ts'
import type { WorkerMetrics } from '../src/metrics.ts'
import { parseProvisionJob } from '../src/provisioning.ts'
import type { Acknowledgement, ProvisionJob } from '../src/provisioning.ts'
import { subjectOf } from '../src/subject.ts'
import { describeDatabaseError, ErasedSince, isTransient } from './database-errors.ts'
import type { ProvisionedUser, Users } from './users.ts'

export interface ProvisionUserDeps {
  readonly users: Users
  /** Writes the user id into the user's hash in Redis; false when there is none any more. */
  readonly acknowledge: (done: Acknowledgement) => Promise<boolean>
  /** Whether the user has a session now. */
  readonly isLoggedIn: (sub: string) => Promise<boolean>
  /** Told when an error suggests that the whole database is away, so that no further job is spent on it. */
  readonly suspectDatabase: () => void
  readonly metrics: Pick<WorkerMetrics, 'jobSeconds' | 'lagSeconds' | 'users'>
  readonly log: Log
}

/** What is needed of BullMQ's Job. */
export interface IncomingJob {
  readonly id?: string | undefined
  readonly data: unknown
}

/**
 * Builds the processor. It returns nothing, because BullMQ would keep what it returns.
 *
 * Rejects with UnrecoverableError for a job that can never succeed; after any other rejection BullMQ runs the
 * job again, after the pause of provisioning.ts.
 */
export function createProvisionUser(deps: ProvisionUserDeps): (job: IncomingJob) => Promise<void> {
  const { acknowledge, metrics } = deps
  return async (job) => {
    const stopTimer = metrics.jobSeconds.startTimer()
    const seen = parse(job.data)
    const user = await write(deps, job, seen)
    if (user === 'erased') {
      metrics.users.inc({ outcome: 'erased' })
      return
    }
    const { userId, created, relinked } = user

    // A merge changed the user of these too, and their sessions still name the old one.
    for (const { appid, openid, unionid } of relinked) {
      await acknowledge({ sub: subjectOf(appid, openid), userId, unionid })
    }
    await acknowledge({ sub: seen.sub, userId, unionid: seen.unionid })

    metrics.users.inc({ outcome: created ? 'created' : relinked.length > 0 ? 'merged' : 'known' })
    // The login was timed by Redis' clock, which may run ahead of this one.
    metrics.lagSeconds.observe(Math.max(0, Date.now() - seen.seenAtMs) / 1_000)
    stopTimer()
  }
}

function parse(data: unknown): ProvisionJob {
  try {
    return parseProvisionJob(data)
  } catch (error) {
    // Its message names fields and no values. Such a job is the same at every attempt.
    throw new UnrecoverableError(error instanceof TypeError ? error.message : 'malformed job')
  }
}

async function write(
  deps: ProvisionUserDeps,
  job: IncomingJob,
  seen: ProvisionJob,
): Promise<ProvisionedUser | 'erased'> {
  const { users, isLoggedIn, suspectDatabase, log } = deps
  try {
    return await users.provisionUser(seen)
  } catch (error) {
    if (error instanceof ErasedSince) {
      // An older job may stand for a newer login, which found it waiting and made none of its own.
      if (!(await isLoggedIn(seen.sub))) return 'erased'
      return write(deps, job, { ...seen, seenAtMs: error.erasedAtMs + 1 })
    }
    const description = describeDatabaseError(error)
    if (isTransient(error)) suspectDatabase()
    // What does not pass by itself wants a person, who needs more than the reason BullMQ keeps.
    else log.error({ job: job.id, ...description }, 'database error')
    throw new DatabaseFailed(`database: ${description.reason ?? 'connection lost'}`)
  }
}

/** Stands in Redis for a database error, of which it holds only the kind. */
class DatabaseFailed extends Error {
  override readonly name = 'DatabaseFailed'
}
