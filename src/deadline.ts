/**
 * The clock of one login: a signal for what can be broken off, and the time that is left for what has to be
 * weighed before it is begun.
 */

/**
 * A call that leaves with less time than this has little hope of an answer, and may use the code up all the same.
 * WeChat usually answers within 200 ms.
 */
const LEAVE_MS_MIN = 1_000
/** Of a short deadline it is this share. */
const LEAVE_SHARE = 1 / 3

interface Times {
  endsAtMs: number
  lateAtMs: number
}

/** Beside the signals, for these are what everything else takes and passes on. */
const timesOf = new WeakMap<AbortSignal, Times>()

/** One for all: an error of its own, with its stack, would cost each login more than its Redis commands do. */
const TOO_LATE = new Error('the deadline has passed')

/** A signal that aborts in so many milliseconds, and that the functions below know. */
export function startDeadline(ms: number): AbortSignal {
  const controller = new AbortController()
  setTimeout(() => controller.abort(TOO_LATE), ms).unref()
  const deadline = controller.signal
  const endsAtMs = performance.now() + ms
  timesOf.set(deadline, { endsAtMs, lateAtMs: endsAtMs - Math.min(LEAVE_MS_MIN, ms * LEAVE_SHARE) })
  return deadline
}

/** Infinity for a signal that is not of startDeadline(). */
export function msLeft(deadline: AbortSignal): number {
  return (timesOf.get(deadline)?.endsAtMs ?? Infinity) - performance.now()
}

/** For how long a call may go on waiting before it leaves; 0 or less: it should not leave any more. */
export function msUntilLate(deadline: AbortSignal): number {
  if (deadline.aborted) return 0
  return (timesOf.get(deadline)?.lateAtMs ?? Infinity) - performance.now()
}
