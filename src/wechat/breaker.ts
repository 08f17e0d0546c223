/**
 * The circuit breakers of the hosts (opossum). A breaker counts what the call rejects with; answers that prove
 * WeChat alive, a refused code among them, are resolved by the call and so count as successes.
 *
 * It opens when more than half of at least 20 calls of ten seconds have failed, or 20 in a row: after minutes of
 * good answers half of ten seconds would be hundreds of failed logins.
 *
 * Not used of opossum: its timeout (it lets the call run on; every call has its own deadline), its abort controller
 * (one for all calls: the timeout of one would abort the others) and its capacity (to be full would count as a
 * failure of the host; see bulkhead.ts). Calls that an open circuit turns away are not shown to it either: it would
 * count them among the calls, and a host that fails again after its recovery would have to fail as often as that.
 */
import { EventEmitter } from 'node:events'
import CircuitBreaker from 'opossum'
import { createLoneFailures } from './lone-failures.ts'

const ERROR_PERCENTAGE_MAX = 50
/** Calls within the window before the breaker may open; and failures in a row that open it. */
const VOLUME_MIN = 20
const WINDOW_MS = 10_000
const WINDOW_BUCKETS = 10
const RESET_MS = 5_000
/** Up and down by so much, so that replicas do not probe a recovering WeChat in step. */
const RESET_JITTER = 0.2
/** What a call may take beyond its deadline, on a machine that is busy. */
const CALL_MARGIN_MS = 500

export type BreakerState = 'closed' | 'half_open' | 'open'

export interface Breaker {
  /**
   * Runs the call, unless the circuit is open: then rejects with CircuitOpenError at once.
   * @param app whose call it is: failures of one that fails alone are not the host's (lone-failures.ts)
   */
  run<T>(call: () => Promise<T>, app: string): Promise<T>
  /** Whether run() would call: the circuit is closed, or open and due to be tried. */
  isPassable(): boolean
}

/** The call was not made: the host has failed too often, and its pause is not over. */
export class CircuitOpenError extends Error {}

export interface Breakers {
  /** A breaker; it tells its state at once and at every change. */
  create(name: string, onState: (state: BreakerState) => void): Breaker
  close(): void
}

/**
 * One clock for the windows of all breakers.
 * @param callMsMax The longest a call can take. One begun before the circuit opened has ended before it is tried
 *   again: its late success would say nothing of the host as it is now.
 */
export function createBreakers({ callMsMax }: { callMsMax: number }): Breakers {
  const all: { breaker: CircuitBreaker; rotation: EventEmitter }[] = []
  const clock = setInterval(() => {
    for (const { rotation } of all) rotation.emit('rotate')
  }, WINDOW_MS / WINDOW_BUCKETS)
  clock.unref()

  return {
    create(name, onState) {
      const rotation = new EventEmitter()
      const breaker = new CircuitBreaker((call: () => Promise<unknown>) => call(), {
        name,
        timeout: false,
        errorThresholdPercentage: ERROR_PERCENTAGE_MAX,
        volumeThreshold: VOLUME_MIN,
        rollingCountTimeout: WINDOW_MS,
        rollingCountBuckets: WINDOW_BUCKETS,
        rotateBucketController: rotation,
        resetTimeout: resetMs(callMsMax),
        enableSnapshots: false,
        rollingPercentilesEnabled: false,
      })
      all.push({ breaker, rotation })
      breaker.on('open', () => onState('open'))
      breaker.on('halfOpen', () => onState('half_open'))
      breaker.on('close', () => {
        // With the failures of before still in the window, the next single one would open it again.
        for (let i = 0; i < WINDOW_BUCKETS; i += 1) rotation.emit('rotate')
        onState('closed')
      })
      onState('closed')
      return guard(breaker)
    },
    close() {
      clearInterval(clock)
      for (const { breaker } of all) breaker.shutdown()
    },
  }
}

function guard(breaker: CircuitBreaker): Breaker {
  const loneFailures = createLoneFailures()
  let failuresInARow = 0
  const isPassable = () => breaker.closed || breaker.pendingClose

  return {
    isPassable,
    async run<T>(call: () => Promise<T>, app: string): Promise<T> {
      if (!isPassable()) throw new CircuitOpenError(breaker.name)
      let ofAppAlone: { error: unknown } | undefined
      /** Resolves where the host is not to blame. */
      const judged = async () => {
        try {
          const result = await call()
          loneFailures.succeeded(app)
          return result
        } catch (error) {
          // Of a circuit that is being tried this is all that is known of the host: that others were well was before it opened.
          if (!loneFailures.failed(app) || breaker.halfOpen) throw error
          ofAppAlone = { error }
          return undefined
        }
      }
      try {
        const result = (await breaker.fire(judged)) as T
        if (ofAppAlone !== undefined) throw ofAppAlone.error
        failuresInARow = 0
        return result
      } catch (error) {
        if (ofAppAlone !== undefined) throw error
        failuresInARow += 1
        if (failuresInARow >= VOLUME_MIN) breaker.open()
        throw error
      }
    },
  }
}

/** How long a circuit stays open. */
function resetMs(callMsMax: number): number {
  const jitteredMs = RESET_MS * (1 + RESET_JITTER * (2 * Math.random() - 1))
  return Math.max(jitteredMs, callMsMax + CALL_MARGIN_MS)
}
