/** What becomes of a delivery after an attempt: a function of the answer and nothing else. */
import type { DeliveryEnd } from './deliveries.ts'
import type { Answer } from './post.ts'

const MINUTE = 60
const HOUR = 3_600
/** As Standard Webhooks recommends: the first attempt at once, then after so many seconds; three days in all. */
const DELAYS_SECONDS = [
  5,
  5 * MINUTE,
  30 * MINUTE,
  2 * HOUR,
  5 * HOUR,
  10 * HOUR,
  14 * HOUR,
  20 * HOUR,
  24 * HOUR,
]
export const ATTEMPTS_MAX = DELAYS_SECONDS.length + 1
/** What failed together does not come back together: up to so much later. */
const JITTER = 0.2
/** An endpoint may ask for as much at once, and ask again. */
const RETRY_AFTER_SECONDS_MAX = HOUR
/** These say that it is the endpoint, not the message, that cannot just now. */
const THROTTLES: ReadonlySet<number> = new Set([429, 502, 503, 504])
const GONE = 410

export interface Verdict {
  readonly end: DeliveryEnd
  /** In few words, for people: a status, or why there was none. */
  readonly result: string
  /** The endpoint wants no more, ever. */
  readonly disables: boolean
  /** For so long nothing else is to be sent to it either. */
  readonly pauseSeconds: number
}

/** @param attempts this one included; @param random from 0 to 1 */
export function judge(answer: Answer, attempts: number, random = Math.random()): Verdict {
  if (answer.kind === 'failed')
    return { ...retryOrEnd(attempts, random, 0), result: answer.reason, disables: false, pauseSeconds: 0 }
  const { status, retryAfterSeconds = 0 } = answer
  const result = String(status)
  if (status >= 200 && status < 300)
    return { end: { state: 'delivered' }, result, disables: false, pauseSeconds: 0 }
  // It is no failure of the message, which waits until somebody has enabled the endpoint again.
  if (status === GONE)
    return { end: { state: 'pending', delaySeconds: 0 }, result, disables: true, pauseSeconds: 0 }
  const pauseSeconds = THROTTLES.has(status) ? Math.min(retryAfterSeconds, RETRY_AFTER_SECONDS_MAX) : 0
  return { ...retryOrEnd(attempts, random, pauseSeconds), result, disables: false, pauseSeconds }
}

function retryOrEnd(attempts: number, random: number, delaySecondsMin: number): { end: DeliveryEnd } {
  const delaySeconds = DELAYS_SECONDS[attempts - 1]
  if (delaySeconds === undefined) return { end: { state: 'dead' } }
  const delay = Math.max(delaySeconds, delaySecondsMin) * (1 + JITTER * random)
  return { end: { state: 'pending', delaySeconds: delay } }
}
