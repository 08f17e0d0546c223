/**
 * Claims that may have been made although nobody heard so, and whose taking back was not heard either.
 *
 * A Redis that hangs and goes on reads what lies in its sockets, and executes it as far as it gets before it notices
 * that the other end has gone: a claim may be in, and what takes it back, sent right behind it, may not. Nobody is at
 * work on such a code, yet its client would wait for a lease to end. So it is given back again as soon as Redis is heard.
 */
import { setTimeout as pause } from 'node:timers/promises'

export interface DoubtfulClaim {
  key: string
  owner: string
}

const AGAIN_MS = 100
/** Later than this the record has expired. */
const DOUBT_MS_MAX = 30_000
/** What is beyond has to wait for its lease to end. */
const CLAIMS_MAX = 1_000

/** @param giveBack fails at once while nothing is heard; does nothing to a claim that was not made */
export function createDoubtfulClaims(giveBack: (claim: DoubtfulClaim) => Promise<unknown>) {
  const claims = new Map<DoubtfulClaim, { sinceMs: number }>()
  let isTrying = false

  async function tryUntilNoneIsLeft(): Promise<void> {
    isTrying = true
    while (claims.size > 0) {
      await pause(AGAIN_MS, undefined, { ref: false })
      await Promise.all([...claims].map(([claim, { sinceMs }]) => tryAgain(claim, sinceMs)))
    }
    isTrying = false
  }

  async function tryAgain(claim: DoubtfulClaim, sinceMs: number): Promise<void> {
    const isTaken = await giveBack(claim).then(
      () => true,
      () => false,
    )
    if (isTaken || performance.now() - sinceMs > DOUBT_MS_MAX) claims.delete(claim)
  }

  return {
    add(claim: DoubtfulClaim): void {
      if (claims.size >= CLAIMS_MAX) return
      claims.set(claim, { sinceMs: performance.now() })
      if (!isTrying) void tryUntilNoneIsLeft()
    },
  }
}
