/**
 * The circuit breaker of one WeChat host (opossum). It counts what the action rejects with; answers that
 * prove WeChat alive, a refused code among them, are resolved by the action and so count as successes.
 *
 * Not used of opossum: its timeout (it lets the call run on; every call has its own deadline) and its abort
 * controller (one for all calls: the timeout of one would abort the others).
 */
import CircuitBreaker from 'opossum'

const ERROR_PERCENTAGE_MAX = 50
/** Calls within the window before the breaker may open. */
const VOLUME_MIN = 20
const WINDOW_MS = 10_000
const RESET_MS = 5_000
/** So that replicas do not probe a recovering WeChat in step. */
const RESET_JITTER = 0.2

export type BreakerState = 'closed' | 'half_open' | 'open'

export interface Breaker {
  /** Runs the call, unless the circuit is open: then rejects with CircuitOpenError at once. */
  run<T>(call: () => Promise<T>): Promise<T>
  shutdown(): void
}

/** The call was not made: the host has failed too often, and its pause is not over. */
export class CircuitOpenError extends Error {}

export interface BreakerSettings {
  name: string
  /** The longest a call can take. A call begun before the circuit opened must have ended before it is probed. */
  callMsMax: number
  onState(state: BreakerState): void
}

/** One breaker; it tells its state at once and at every change. */
export function createBreaker({ name, callMsMax, onState }: BreakerSettings): Breaker {
  const resetTimeout = Math.max(RESET_MS, callMsMax + 500) * (1 + RESET_JITTER * Math.random())
  const breaker = new CircuitBreaker((call: () => Promise<unknown>) => call(), {
    name,
    timeout: false,
    errorThresholdPercentage: ERROR_PERCENTAGE_MAX,
    volumeThreshold: VOLUME_MIN,
    rollingCountTimeout: WINDOW_MS,
    rollingCountBuckets: 10,
    resetTimeout,
    enableSnapshots: false,
    rollingPercentilesEnabled: false,
  })
  breaker.on('open', () => onState('open'))
  breaker.on('halfOpen', () => onState('half_open'))
  breaker.on('close', () => onState('closed'))
  onState('closed')

  return {
    async run<T>(call: () => Promise<T>): Promise<T> {
      try {
        return (await breaker.fire(call)) as T
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'EOPENBREAKER') throw new CircuitOpenError(name)
        throw error
      }
    },
    shutdown: () => breaker.shutdown(),
  }
}
