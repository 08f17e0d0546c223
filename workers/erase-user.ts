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
import type { Acknowledgement } from '../src/provisioning.ts'
import { describeDatabaseError } from './database-errors.ts'
import type { Erasures } from './erasures.ts'
import { JobFailed } from './job-failure.ts'
import type { IncomingJob } from './provision-user.ts'

export interface EraseUserDeps {
  readonly erasures: Erasures
  /** Takes the jobs of a user that were queued up to then out of the provisioning queue, and counts. */
  readonly removeJobs: (user: EraseJob) => Promise<{ removed: number; running: number }>
  readonly acknowledge: (done: Acknowledgement) => Promise<boolean>
  readonly receipts: ReceiptWriter
  readonly log: Log
}

/** Builds the processor. Rejects with UnrecoverableError for a job that can never succeed. */
export function createEraseUser(deps: EraseUserDeps): (job: IncomingJob) => Promise<void> {
  const { erasures, removeJobs, acknowledge, receipts, log } = deps
  return async ({ data }) => {
    const user = parse(data)
    const { removed, running } = await removeJobs(user)
    await receipts.countJobs(user.receipt, removed)
    if (running > 0) throw new EraseFailed('a job of the user is being run')
    const { identities, users, since } = await erasures.eraseIdentity(user).catch((error: unknown) => {
      if (error instanceof JobFailed) throw new EraseFailed(error.message) // PROVISION_MODULE's
      const { reason } = describeDatabaseError(error)
      throw new EraseFailed(`database: ${reason ?? 'connection lost'}`)
    })
    // They have logged in again, and their session may name the user that is gone.
    if (since !== undefined) await acknowledge({ sub: user.sub, ...since })
    await receipts.close(user.receipt, { identities, users })
    log.info({ receipt: user.receipt, jobs: removed, identities, users }, 'user erased')
  }
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
}
