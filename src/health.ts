/**
 * What the load balancer is told. Alive: the event loop turns. Ready: started, not going away, not choking.
 *
 * Neither asks Redis or WeChat. If one of them fails it fails for all replicas; taking every replica out
 * would turn their quick and clear 503s into the load balancer's errors, and bring a stampede afterwards.
 */

const LOOP_PROBE_MS = 500
const LOOP_LAG_MS_MAX = 1_000

export type NotReady = 'starting' | 'draining' | 'event loop is late'

export interface Health {
  /** undefined: ready. */
  notReady(): NotReady | undefined
  isDraining(): boolean
  /** Redis has been reached once, and all else is loaded. Latched: later outages do not take it back. */
  started(): void
  /** From now on answers close their connections and /readyz says 503. */
  drain(): void
  stop(): void
}

export function createHealth(): Health {
  let phase: 'starting' | 'serving' | 'draining' = 'starting'
  let turnedMs = performance.now()
  let lagMs = 0
  const probe = setInterval(() => {
    const nowMs = performance.now()
    lagMs = nowMs - turnedMs - LOOP_PROBE_MS
    turnedMs = nowMs
  }, LOOP_PROBE_MS)
  probe.unref()

  return {
    notReady() {
      if (phase !== 'serving') return phase
      return lagMs > LOOP_LAG_MS_MAX ? 'event loop is late' : undefined
    },
    isDraining: () => phase === 'draining',
    started() {
      if (phase === 'starting') phase = 'serving'
    },
    drain() {
      phase = 'draining'
    },
    stop: () => clearInterval(probe),
  }
}
