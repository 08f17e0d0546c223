/**
 * Notices a worker that is alive, has its connections, and does nothing while jobs wait. After a reconnect
 * that has happened to BullMQ time and again (taskforcesh/bullmq#4585, #4138), and no ping shows it; only a
 * new process helps.
 */

const CHECK_INTERVAL_MS = 10_000
/** A minute. Counted in checks, not in time, so that a process that was suspended is not taken for a stuck one. */
const CHECKS_MAX = 6

export interface StuckWatchDeps {
  /** Nothing is to be expected of the worker now: it waits for Redis or the database, or it is closing. */
  readonly isIdle: () => boolean
  /** Jobs waiting in the queue. A rejection means that nothing can be said now. */
  readonly countWaiting: () => Promise<number>
  readonly onStuck: () => void
}

export interface StuckWatch {
  start(): void
  stop(): void
  /** To be called whenever a job ends, well or badly. */
  progress(): void
}

/** Builds the watch; it looks every 10 s from start() to stop(). */
export function createStuckWatch({ isIdle, countWaiting, onStuck }: StuckWatchDeps): StuckWatch {
  let checks = 0
  let timer: NodeJS.Timeout | undefined

  const check = async () => {
    const waiting = isIdle() ? 0 : await countWaiting()
    checks = waiting === 0 ? 0 : checks + 1
    if (checks >= CHECKS_MAX) onStuck()
  }
  return {
    start() {
      timer = setInterval(() => {
        check().catch(() => {
          checks = 0
        })
      }, CHECK_INTERVAL_MS)
    },
    stop: () => clearInterval(timer),
    progress() {
      checks = 0
    },
  }
}
