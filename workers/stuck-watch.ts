/**
 * Notices a worker that is alive, has its connections, and does nothing while jobs wait. After a reconnect
 * that has happened to BullMQ time and again (taskforcesh/bullmq#4585, #4138), and no ping shows it; only a
 * new process helps. The same goes for a worker all of whose jobs hang: then they are not in the queue, but
 * at work, or put off, and none is done.
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
  /** To be called whenever a job ends, well or by a fault of its own; not when it is put off. */
  progress(): void
  /** To be called when a job does not end. What it holds, a connection say, it may hold for ever. */
  hung(): void
}

/** Builds the watch; it looks every 10 s from start() to stop(). */
export function createStuckWatch({ isIdle, countWaiting, onStuck }: StuckWatchDeps): StuckWatch {
  let checks = 0
  let hung = false
  let timer: NodeJS.Timeout | undefined

  const check = async () => {
    const works = !isIdle() && (hung || (await countWaiting()) > 0)
    checks = works ? checks + 1 : 0
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
      hung = false
    },
    hung() {
      hung = true
    },
  }
}
