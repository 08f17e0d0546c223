/**
 * The job: forget one user. Their jobs are taken out of the provisioning queue, their rows out of the database,
 * and the receipt is written, in this order. The gateway has ended their sessions before (src/erasure.ts).
 *
 * Runs at least once, with the same outcome. A job of theirs that is being run just now is waited for: it may
 * fail, and would then be kept with what it holds.
 *
 * As in provision-user.ts, nothing that is thrown here quotes the payload: BullMQ keeps it in clear.
 */
import { UnrecoverableError } from 'bullmq'
import { parseEraseJob } from '../src/erasure.ts'
import type { EraseJob, ReceiptWriter } from '../src/erasure.ts'
import type { Log } from '../src/log.ts'
import { queuedJob } from '../src/provisioning.ts'
import type { Acknowledgement } from '../src/provisioning.ts'
import { describeDatabaseError } from './database-errors.ts'
import type { Erasures } from './erasures.ts'
import { JobFailed } from './job-failure.ts'
import type { IncomingJob, ProvisionUser } from './provision-user.ts'

export interface EraseUserDeps {
  readonly erasures: Erasures
  /** Takes the jobs of a user that were queued up to then out of the provisioning queue, and counts. */
  readonly removeJobs: (user: EraseJob) => Promise<{ removed: number; running: number }>
  readonly acknowledge: (done: Acknowledgement) => Promise<boolean>
  /** Whether the user has a session now. */
  readonly isLoggedIn: (sub: string) => Promise<boolean>
  /** Writes a user and acknowledges it, as a job of the provisioning queue does. */
  readonly provisionUser: ProvisionUser
  readonly receipts: ReceiptWriter
  readonly log: Log
}

/** Builds the processor. Rejects with UnrecoverableError for a job that can never succeed. */
export function createEraseUser(deps: EraseUserDeps): (job: IncomingJob) => Promise<void> {
  const { erasures, removeJobs, acknowledge, isLoggedIn, provisionUser, receipts, log } = deps
  return async ({ data }) => {
    const user = parse(data)
    const { removed, running } = await removeJobs(user)
    await receipts.countJobs(user.receipt, removed)
    if (running > 0) throw new EraseFailed('a job of the user is being run')
    const { identities, users, since } = await erasures.eraseIdentity(user).catch(failed)
    // They have logged in again, and their session may name the user that is gone.
    if (since !== undefined) await acknowledge({ sub: user.sub, ...since })
    else if (await isLoggedIn(user.sub)) await provisionUser(jobAfter(user)).catch(failed)
    await receipts.close(user.receipt, { identities, users })
    log.info({ receipt: user.receipt, jobs: removed, identities, users }, 'user erased')
  }
}

/**
 * Stands for the login since: where that found a job of before under way, it made none of its own, and what that job
 * wrote has just been erased.
 */
function jobAfter({ receipt, sub, appid, openid, erasedAtMs }: EraseJob): IncomingJob {
  return { id: receipt, data: queuedJob({ sub, appid, openid, seenAtMs: erasedAtMs + 1 }) }
}

function failed(error: unknown): never {
  if (error instanceof JobFailed) throw new EraseFailed(error.message)
  const { reason } = describeDatabaseError(error)
  throw new EraseFailed(`database: ${reason ?? 'connection lost'}`)
}

function parse(data: unknown): EraseJob {
  try {
    return parseEraseJob(data)
  } catch (error) {
    throw new UnrecoverableError(error instanceof TypeError ? error.message : 'malformed job')
  }
}

/** Is run again soon. */
class EraseFailed extends Error {
  override readonly name = 'EraseFailed'

  constructor(message: string) {
    super(message)
    this.stack = `${this.name}: ${message}` // BullMQ keeps it
  }
}
