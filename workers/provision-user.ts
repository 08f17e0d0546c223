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
import type { Identity, ProvisionedUser, SeenIdentity } from './users.ts'

export interface ProvisionUserDeps {
  readonly users: {
    /** `alone`: it failed before, and may be what makes others fail. */
    provisionUser(seen: SeenIdentity, options: { alone: boolean }): Promise<ProvisionedUser>
  }
  /** Writes the user id into the user's hash in Redis; false when there is none any more. */
  readonly acknowledge: (done: Acknowledgement) => Promise<boolean>
  /** Whether the user has a session now. */
  readonly isLoggedIn: (sub: string) => Promise<boolean>
  /** The unionid that is known of a user who has a session. */
  readonly unionidOf: (sub: string) => Promise<string | undefined>
  /** The identities of a user. */
  readonly identitiesOf: (userId: string) => Promise<readonly Identity[]>
  readonly log: Log
}

/** What is needed of BullMQ's Job. */
export interface IncomingJob {
  readonly id?: string | undefined
  readonly data: unknown
  /** Attempts that have failed. */
  readonly attemptsMade?: number
  /** Workers that it has lost. */
  readonly stalledCounter?: number
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
    const written = await write(deps, job, seen)
    if (written === 'erased') return { outcome: 'erased' }
    const { userId, created, relinked, unionid: ownUnionid } = written

    // A merge changed the user of these too, and their sessions still name the old one. That of an earlier run of the
    // job may have ended before it had told of them all.
    const others = isRunAgain(job) && !created ? await identitiesOf(deps, userId) : relinked
    for (const { appid, openid, unionid } of others) {
      const sub = subjectOf(appid, openid)
      if (sub !== seen.sub) await told(deps.acknowledge({ sub, userId, unionid }))
    }
    await told(deps.acknowledge({ sub: seen.sub, userId, unionid: ownUnionid }))

    const outcome = created ? 'created' : relinked.length > 0 ? 'merged' : 'known'
    return { outcome, seenAtMs: seen.seenAtMs }
  }
}

function isRunAgain({ attemptsMade = 0, stalledCounter = 0 }: IncomingJob): boolean {
  return attemptsMade > 0 || stalledCounter > 0
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
): Promise<(ProvisionedUser & { unionid: string | undefined }) | 'erased'> {
  try {
    const user = await deps.users.provisionUser(seen, { alone: (job.attemptsMade ?? 0) > 0 })
    return { ...user, unionid: seen.unionid }
  } catch (error) {
    if (!(error instanceof ErasedSince)) return fail(deps, job, error)
    // An older job may stand for a newer login, which found it waiting and made none of its own. A unionid of before
    // is erased with the rest.
    if (!(await told(deps.isLoggedIn(seen.sub)))) return 'erased'
    const { unionid: _erased, ...since } = seen
    const unionid = await told(deps.unionidOf(seen.sub))
    const seenAtMs = error.erasedAtMs + 1
    return write(deps, job, { ...since, seenAtMs, ...(unionid !== undefined && { unionid }) })
  }
}

async function identitiesOf(deps: ProvisionUserDeps, userId: string): Promise<readonly Identity[]> {
  return deps.identitiesOf(userId).catch((error: unknown) => fail(deps, {}, error))
}

/** What is thrown becomes a failure of the job, of the kind that says what is to become of it. */
async function fail(
  { log }: ProvisionUserDeps,
  job: { id?: string | undefined },
  error: unknown,
): Promise<never> {
  if (error instanceof JobFailed) throw error // PROVISION_MODULE's
  if (error instanceof GatewayError) return told(Promise.reject(error))
  const description = describeDatabaseError(error)
  const reason = `database: ${description.reason ?? 'connection lost'}`
  if (isTransient(error)) throw new JobFailed('database_away', reason)
  // What does not pass by itself wants a person, who needs more than the reason BullMQ keeps.
  log.error({ job: job.id, ...description }, 'database error')
  throw new JobFailed(isWrongSetup(error) ? 'later' : 'fault', reason)
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
