/**
 * Load shedding: when there is more to do than can be done, some requests are refused at once and before
 * anything has been done for them, so that the others are answered in time.
 *
 * Who goes first: a login (its client is told to send the same code again, and its user waits at a start
 * screen), then what else a client wants, and last whether a session is valid, on which every backend hangs.
 * Two signals:
 *
 *   in_flight    requests that are being worked on. Each rank may fill a share of the whole, so that the last
 *                fifth is there for sessions alone, whatever the logins wait for.
 *   loop_delay   how late the event loop is. A request that has lain in its socket while the loop was blocked
 *                is refused when it is found there; one pause, such as a garbage collection, costs no others.
 *                Pauses that go on raise an average over a second, and while that is too high the rank is shed
 *                altogether, until the average has fallen to half: it does not flap. For sessions only the
 *                average counts.
 *
 * Not @fastify/under-pressure: it knows no ranks, and its average over a second sees a block when it is over.
 */

/** In the order in which they are shed. */
const RANKS = ['login', 'other', 'session'] as const
export type Rank = (typeof RANKS)[number]
export type ShedReason = 'in_flight' | 'loop_delay'

/** Of inFlightMax. */
const IN_FLIGHT_SHARES: Readonly<Record<Rank, number>> = { login: 0.8, other: 0.9, session: 1 }
/** Times loopDelayMsMax. The last is where /readyz gives up too, by default. */
const DELAY_FACTORS: Readonly<Record<Rank, number>> = { login: 1, other: 2, session: 4 }

const PROBE_MS = 50
/** The average forgets by this much. */
const AVERAGE_MS = 1_000
/** A pause counts for no more than this many times the limit, or one of a minute would be felt for ages. */
const PAUSE_FACTOR_MAX = 8
/** One pause is an accident, whatever its length; two within the average's memory are a state. */
const PAUSES_MIN = 2
/** Of the limit: where a rank is let in again. */
const RECOVERY_SHARE = 0.5
/** After so long without a refusal the next one begins a new episode. */
const EPISODE_GAP_MS = 10_000

export interface SheddingSettings {
  loopDelayMsMax: number
  inFlightMax: number
}

export interface SheddingObserver {
  onShed(rank: Rank, reason: ShedReason): void
  /** The first refusal after a quiet while: for the log, which could not bear a line for each. */
  onEpisode(rank: Rank, reason: ShedReason): void
}

export interface Shedding {
  /** Why a request of this rank has to be refused now; undefined: it may be worked on. Counts the refusal. */
  refuse(rank: Rank): ShedReason | undefined
  /** Work on a request begins. To be called back when it is done; again does no harm. */
  enter(): () => void
  inFlight(): number
  stop(): void
}

/** Measures from now on, until stop(). */
export function createShedding(
  { loopDelayMsMax, inFlightMax }: SheddingSettings,
  observer: SheddingObserver,
): Shedding {
  const loop = createLoopProbe(loopDelayMsMax)
  let inFlight = 0
  let lastShedMs = -Infinity

  return {
    refuse(rank) {
      const reason = reasonAgainst(rank)
      if (reason === undefined) return undefined
      const nowMs = performance.now()
      if (nowMs - lastShedMs > EPISODE_GAP_MS) observer.onEpisode(rank, reason)
      lastShedMs = nowMs
      observer.onShed(rank, reason)
      return reason
    },
    enter() {
      inFlight += 1
      let entered = true
      return () => {
        if (entered) inFlight -= 1
        entered = false
      }
    },
    inFlight: () => inFlight,
    stop: loop.stop,
  }

  function reasonAgainst(rank: Rank): ShedReason | undefined {
    if (inFlight >= inFlightMax * IN_FLIGHT_SHARES[rank]) return 'in_flight'
    return loop.isLateFor(rank) ? 'loop_delay' : undefined
  }
}

/** A timer that should come every 50 ms: how late it comes is how late everything comes. */
function createLoopProbe(limitMs: number) {
  let turnedMs = performance.now()
  let delayMs = 0
  let averageMs = 0
  let pauses = 0
  const lasting = new Set<Rank>()

  const probe = setInterval(() => {
    const nowMs = performance.now()
    const elapsedMs = nowMs - turnedMs
    turnedMs = nowMs
    delayMs = Math.max(0, elapsedMs - PROBE_MS)
    // Weighed by time: a second in which the loop stood still counts as much as one with twenty turns.
    const weight = 1 - Math.exp(-elapsedMs / AVERAGE_MS)
    averageMs += weight * (Math.min(delayMs, limitMs * PAUSE_FACTOR_MAX) - averageMs)

    if (delayMs > limitMs) pauses += 1
    else if (averageMs < limitMs * RECOVERY_SHARE) pauses = 0
    for (const rank of RANKS) {
      const rankLimitMs = limitMs * DELAY_FACTORS[rank]
      if (pauses >= PAUSES_MIN && averageMs > rankLimitMs) lasting.add(rank)
      else if (averageMs < rankLimitMs * RECOVERY_SHARE) lasting.delete(rank)
    }
  }, PROBE_MS)
  probe.unref()

  return {
    isLateFor(rank: Rank): boolean {
      if (lasting.has(rank)) return true
      if (rank === 'session') return false
      // What is read first after a block is read before the timer comes, so the block is seen while it ends.
      const sinceMs = performance.now() - turnedMs - PROBE_MS
      return Math.max(delayMs, sinceMs) > limitMs * DELAY_FACTORS[rank]
    },
    stop: () => clearInterval(probe),
  }
}
