/**
 * Has a request become dearer? Compares ratios of one run, which any machine gives about alike, with those that are
 * recorded: so wide that a busy machine passes, so tight that a doubling does not.
 */
import type { Results } from './results.ts'
import { ratioOf } from './targets.ts'

const GROWTH_MAX = 1.6

const GUARDED = [
  ['returning/gateway/cpuUs', 'returning/upstream-only/cpuUs'],
  ['returning/gateway/allocatedKb', 'returning/upstream-only/allocatedKb'],
  ['first/gateway/cpuUs', 'first/upstream-only/cpuUs'],
  ['auth/gateway/cpuUs', 'auth/bare/cpuUs'],
  ['auth/gateway-cache/cpuUs', 'auth/bare/cpuUs'],
] as const

/** What has grown by more than it may, in words. A ratio that was not measured is a fault too. */
export function findGrowth(found: Results, recorded: Results): string[] {
  return GUARDED.flatMap(([above, below]) => {
    const [now, then] = [ratioOf(found, above, below), ratioOf(recorded, above, below)]
    if (now === undefined || then === undefined) return [`${above} / ${below} was not measured`]
    if (now <= then * GROWTH_MAX) return []
    return [
      `${above} / ${below} is ${now.toFixed(2)}; recorded is ${then.toFixed(2)}, at most ${GROWTH_MAX} times that`,
    ]
  })
}
