/**
 * What the load balancer is told. Alive: the event loop turns. Ready: started, not going away, not choking.
 *
 * As a rule neither asks Redis or WeChat. If one of them fails it fails for all replicas; taking every replica
 * out would turn their quick and clear 503s into the load balancer's errors, and bring a stampede afterwards.
 * READY_REQUIRES_REDIS is for those whose load balancer has another site to send the clients to.
 */

const LOOP_PROBE_MS = 500
const LOOP_LAG_MS_MAX = 1_000
const STORE_PROBE_MS = 1_000
/** A failover of Redis that goes well takes less: the replica is not taken out and in again for it. */
const STORE_SILENCE_MS_MAX = 3_000

export type NotReady = 'starting' | 'draining' | 'event loop is late' | 'Redis does not answer'

export interface Health {
  /** undefined: ready. */
  notReady(): NotReady | undefined
  isDraining(): boolean
  /** What the routes need is being taken down: only metrics and health are still answered. */
  isClosing(): boolean
  /** Redis has been reached once, and all else is loaded. Latched: later outages do not take it back. */
  started(): void
  /** From now on answers close their connections and /readyz says 503. */
  drain(): void
  close(): void
  stop(): void
}

/** @param askStore rejects when the store does not answer; given, the store has to answer for us to be ready. */
export function createHealth(askStore?: () => Promise<unknown>): Health {
  let phase: 'starting' | 'serving' | 'draining' | 'closing' = 'starting'
  let turnedMs = performance.now()
  let lagMs = 0
  const probe = setInterval(() => {
    const nowMs = performance.now()
    lagMs = nowMs - turnedMs - LOOP_PROBE_MS
    turnedMs = nowMs
  }, LOOP_PROBE_MS)
  probe.unref()
  const store = askStore && watchStore(askStore)

  return {
    notReady() {
      if (phase === 'closing') return 'draining'
      if (phase !== 'serving') return phase
      if (lagMs > LOOP_LAG_MS_MAX) return 'event loop is late'
      return store?.isSilent() ? 'Redis does not answer' : undefined
    },
    isDraining: () => phase === 'draining' || phase === 'closing',
    isClosing: () => phase === 'closing',
    started() {
      if (phase === 'starting') phase = 'serving'
    },
    drain() {
      if (phase !== 'closing') phase = 'draining'
    },
    close() {
      phase = 'closing'
    },
    stop() {
      clearInterval(probe)
      store?.stop()
    },
  }
}

function watchStore(ask: () => Promise<unknown>) {
  let heardMs = performance.now()
  const probe = async () => {
    try {
      await ask()
      heardMs = performance.now()
    } catch {
      // Silence is what counts, and it is measured from the last answer.
    }
  }
  const timer = setInterval(() => void probe(), STORE_PROBE_MS)
  timer.unref()
  return {
    isSilent: () => performance.now() - heardMs > STORE_SILENCE_MS_MAX,
    stop: () => clearInterval(timer),
  }
}
