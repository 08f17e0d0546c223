/** When a stand under load has become steady: what a fault costs is measured against that, not against a cold start. */
import { setTimeout as pause } from 'node:timers/promises'
import type { AttemptKind, Ledger } from './ledger.ts'
import type { Bench } from './row.ts'

const LOOK_BACK_MS = 2_000
const LOOK_MS = 500
/** What a request may take that is due now, at the median and at p99. */
const STEADY_MS = { median: 15, p99: 50 }
/** Fresh processes that share two cores need half of it; one that never comes to rest is measured as it is, and said. */
const WARM_MS_MAX = 45_000

/**
 * Resolves when the last seconds of the load have been quick: code is compiled, connections are open, nothing is
 * behind. Notes what was quick enough, so that a figure can be seen against it.
 *
 * @param kind looks at these only, where the others are slow on purpose
 */
export async function untilWarm(
  bench: Bench,
  { ledger }: { ledger: Ledger },
  { minMs = 4_000, kind }: { minMs?: number; kind?: AttemptKind } = {},
): Promise<void> {
  const startedMs = performance.now()
  await pause(minMs)
  for (;;) {
    const nowMs = performance.now()
    // What was due a moment ago may be unanswered yet, and would not be counted.
    const lately = {
      fromMs: nowMs - LOOK_BACK_MS - LOOK_MS,
      toMs: nowMs - LOOK_MS,
      ...(kind === undefined ? {} : { kind }),
    }
    const median = ledger.quantile(0.5, lately)
    const p99 = ledger.quantile(0.99, lately)
    const tookMs = nowMs - startedMs
    if ((median <= STEADY_MS.median && p99 <= STEADY_MS.p99) || tookMs > WARM_MS_MAX) {
      bench.figure('p99 before the fault', p99, { unit: 'ms' })
      bench.say(
        `  warm after ${Math.round(tookMs)} ms: median ${Math.round(median)} ms, p99 ${Math.round(p99)} ms`,
      )
      return
    }
    await pause(LOOK_MS)
  }
}
