/**
 * Apps whose calls fail while those of others succeed: then it is not the host that is ill, and its circuit stays
 * closed for the others. What such an app may take up is bounded by its share of the slots (bulkhead.ts).
 *
 * An app fails alone when its last calls have all failed, and the last call of another app, a moment ago, did not. A
 * host that fails some calls of everybody is thus told from it, and so is one that has just died: then the others'
 * last calls fail as well.
 */

/** Failures in a row before they are put down to the app. Those before count for the host. */
const FAILURES_MIN = 5
/** How long an answer to another app proves that the host is well. */
const LIVE_MS = 5_000

interface LastCalls {
  failuresInARow: number
  atMs: number
}

export interface LoneFailures {
  /** A call of the app was answered. */
  succeeded(app: string): void
  /** A call of the app failed. Whether that is the app's own trouble. */
  failed(app: string): boolean
}

/** Of one host, in one process. Holds the apps of the last moment. */
export function createLoneFailures(nowMs: () => number = () => performance.now()): LoneFailures {
  const lastCalls = new Map<string, LastCalls>()

  function isAnotherWell(app: string): boolean {
    const sinceMs = nowMs() - LIVE_MS
    let isWell = false
    for (const [other, { failuresInARow, atMs }] of lastCalls) {
      if (other === app) continue
      if (atMs < sinceMs) lastCalls.delete(other)
      else if (failuresInARow === 0) isWell = true
    }
    return isWell
  }

  return {
    succeeded(app) {
      lastCalls.set(app, { failuresInARow: 0, atMs: nowMs() })
    },
    failed(app) {
      const failuresInARow = (lastCalls.get(app)?.failuresInARow ?? 0) + 1
      lastCalls.set(app, { failuresInARow, atMs: nowMs() })
      return failuresInARow > FAILURES_MIN && isAnotherWell(app)
    },
  }
}
