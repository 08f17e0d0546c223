/**
 * Waiting for the database, at the start and in an outage: as long as it takes, with growing pauses, and
 * with few words in the log.
 */
import { setTimeout as delay } from 'node:timers/promises'
import type { Log } from '../src/log.ts'
import { describeDatabaseError } from './database-errors.ts'

const PAUSE_MS_FIRST = 250
/** An outage's end is noticed within this. */
const PAUSE_MS_MAX = 5_000
const REPORT_INTERVAL_MS = 30_000

export interface WaitOptions {
  readonly log: Log
  /** Ends the waiting: the promise then rejects with an AbortError. */
  readonly signal: AbortSignal
  /** Errors that waiting cannot cure; the promise then rejects with them. Default: none. */
  readonly isFatal?: (error: unknown) => boolean
}

/** Resolves when `attempt` has; repeats it until then. */
export async function waitForDatabase(
  attempt: () => Promise<void>,
  { log, signal, isFatal = () => false }: WaitOptions,
): Promise<void> {
  let pauseMs = PAUSE_MS_FIRST
  let reportedAtMs = -Infinity
  for (;;) {
    try {
      await attempt()
      return
    } catch (error) {
      if (isFatal(error)) throw error
      if (performance.now() - reportedAtMs >= REPORT_INTERVAL_MS) {
        log.warn(describeDatabaseError(error), 'waiting for the database')
        reportedAtMs = performance.now()
      }
    }
    // Jitter, so that the workers do not come back as one.
    await delay(pauseMs * (0.5 + Math.random() / 2), undefined, { signal })
    pauseMs = Math.min(pauseMs * 2, PAUSE_MS_MAX)
  }
}
