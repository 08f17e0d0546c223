/**
 * The bound of the provisioning queue. Each job takes part of Redis' memory, which sessions need too; so when more
 * than PROVISION_BACKLOG_MAX of them wait, because the workers are away, no new users are taken on until there are
 * less again. Those who are known go on: their job is left out, and their next login makes up for it.
 *
 * The queue is counted once a second, so that no login asks for it. What is added between two counts may exceed the
 * bound, by as many users as log in within a second.
 */
import { GatewayError } from './errors.ts'
import type { Provisioning, ProvisionJob } from './provisioning.ts'

const COUNT_INTERVAL_MS = 1_000
/** It is over when this part of the bound is left, so that it does not come and go with every job. */
const OVER_AT = 0.95

export interface BacklogDeps {
  readonly provisioning: Pick<Provisioning, 'enqueue' | 'counts'>
  /** Told when the bound is reached, and when that is over. */
  readonly onChange: (isFull: boolean, jobs: number) => void
  /** Told of a known user whose job was left out. */
  readonly onSkip: () => void
}

/** Builds it; it counts from start() to stop(). */
export function createBacklog({ provisioning, onChange, onSkip }: BacklogDeps, { max }: { max: number }) {
  let isFull = false
  let timer: NodeJS.Timeout | undefined

  async function count(): Promise<void> {
    const { waiting = 0, delayed = 0 } = await provisioning.counts()
    const jobs = waiting + delayed
    const wasFull = isFull
    isFull = jobs >= (wasFull ? max * OVER_AT : max)
    if (isFull !== wasFull) onChange(isFull, jobs)
  }

  /** While Redis does not answer, nobody logs in anyway; what was last counted stands. */
  function countOrNot(): void {
    count().catch(() => {})
  }

  return {
    /** Who may be new is refused while too many wait. @throws {GatewayError} provisioning_backlog_full */
    admit(): void {
      if (isFull) throw new GatewayError('provisioning_backlog_full')
    },
    /** Resolves when Redis has the job, or has no room for one that can wait. @throws {GatewayError} store_unavailable */
    async enqueue(job: ProvisionJob, { isKnown }: { isKnown: boolean }): Promise<void> {
      if (isFull && isKnown) return onSkip()
      await provisioning.enqueue(job)
    },
    start(): void {
      countOrNot()
      timer = setInterval(countOrNot, COUNT_INTERVAL_MS)
      timer.unref()
    },
    stop: () => clearInterval(timer),
  }
}
