/**
 * What a job of the provisioning queue does: the user is written, then the gateway is told.
 *
 * In this order: a user whom the gateway takes for provisioned must exist. What is done when the process ends
 * in between is done again, and again without harm.
 *
 * What a job throws, BullMQ writes into Redis in clear (message and stack). So nothing that is thrown here
 * quotes the payload, and the database's errors, which may, are passed on as their SQLSTATE alone.
 */
import { GatewayError } from '../src/errors.ts'
import type { Log } from '../src/log.ts'
import { MalformedJob, parseProvisionJob } from '../src/provisioning.ts'
import type { Acknowledgement, ProvisionJob } from '../src/provisioning.ts'
import { subjectOf } from '../src/subject.ts'
import { describeDatabaseError, ErasedSince, isTransient, isWrongSetup } from './database-errors.ts'
import { JobFailed } from './job-failure.ts'
import type { ProvisionedUser, SeenIdentity } from './users.ts'

export interface ProvisionUserDeps {
  readonly users: {
    /** `alone`: it failed before, and may be what makes others fail. */
    provisionUser(seen: SeenIdentity, options: { alone: boolean }): Promise<ProvisionedUser>
  }
  /** Writes the user id into the user's hash in Redis; false when there is none any more. */
  readonly acknowledge: (done: Acknowledgement) => Promise<boolean>
  /** Whether the user has a session now. */
  readonly isLoggedIn: (sub: string) => Promise<boolean>
  readonly log: Log
}

/** What is needed of BullMQ's Job. */
export interface IncomingJob {
  readonly id?: string | undefined
  readonly data: unknown
  /** Attempts that have failed. */
  readonly attemptsMade?: number
}

/** What a job that was done has to tell, for the metrics. */
export type DoneJob =
  | { readonly outcome: 'created' | 'merged' | 'known'; readonly seenAtMs: number }
  | { readonly outcome: 'erased' }

export type ProvisionUser = (job: IncomingJob) => Promise<DoneJob>

/** Builds the processor. Rejects with JobFailed, or with an error of the program. */
export function createProvisionUser(deps: ProvisionUserDeps): ProvisionUser {
  return async (job) => {
    const seen = parse(job.data)
    const user = await write(deps, job, seen)
    if (user === 'erased') return { outcome: 'erased' }
    const { userId, created, relinked } = user

    // A merge changed the user of these too, and their sessions still name the old one.
    for (const { appid, openid, unionid } of relinked) {
      await told(deps.acknowledge({ sub: subjectOf(appid, openid), userId, unionid }))
    }
    await told(deps.acknowledge({ sub: seen.sub, userId, unionid: seen.unionid }))

    const outcome = created ? 'created' : relinked.length > 0 ? 'merged' : 'known'
    return { outcome, seenAtMs: seen.seenAtMs }
  }
}

function parse(data: unknown): ProvisionJob {
  try {
    return parseProvisionJob(data)
  } catch (error) {
    if (error instanceof MalformedJob) throw new JobFailed('never', error.message)
    throw error
  }
}

async function write(
  deps: ProvisionUserDeps,
  job: IncomingJob,
  seen: ProvisionJob,
): Promise<ProvisionedUser | 'erased'> {
  const { users, log } = deps
  try {
    return await users.provisionUser(seen, { alone: (job.attemptsMade ?? 0) > 0 })
  } catch (error) {
    if (error instanceof ErasedSince) {
      // An older job may stand for a newer login, which found it waiting and made none of its own.
      if (!(await told(deps.isLoggedIn(seen.sub)))) return 'erased'
      return write(deps, job, { ...seen, seenAtMs: error.erasedAtMs + 1 })
    }
    if (error instanceof JobFailed) throw error // PROVISION_MODULE's
    if (error instanceof GatewayError) return told(Promise.reject(error))
    const description = describeDatabaseError(error)
    const reason = `database: ${description.reason ?? 'connection lost'}`
    if (isTransient(error)) throw new JobFailed('database_away', reason)
    // What does not pass by itself wants a person, who needs more than the reason BullMQ keeps.
    log.error({ job: job.id, ...description }, 'database error')
    throw new JobFailed(isWrongSetup(error) ? 'later' : 'fault', reason)
  }
}

/** Awaits an answer of Redis. That it is full, say, or has just been demoted, is nothing to blame the job for. */
async function told<T>(answer: Promise<T>): Promise<T> {
  try {
    return await answer
  } catch (error) {
    if (error instanceof GatewayError && error.code === 'store_unavailable') {
      throw new JobFailed('later', 'Redis does not answer')
    }
    throw error
  }
}
