/**
 * Has a request become dearer? Compares ratios of one run, which any machine gives about alike, with those that are
 * recorded: so wide that a busy machine passes, so tight that a doubling does not.
 */
import type { Results } from './results.ts'
import { ratioOf } from './targets.ts'

/** CPU of one process to that of another moves by a quarter on a machine that others use too; memory does not. */
const CPU_GROWTH_MAX = 1.6
const ALLOCATED_GROWTH_MAX = 1.3

const GUARDED = [
  ['returning/gateway/cpuUs', 'returning/upstream-only/cpuUs', CPU_GROWTH_MAX],
  ['returning/gateway/allocatedKb', 'returning/upstream-only/allocatedKb', ALLOCATED_GROWTH_MAX],
  ['first/gateway/cpuUs', 'first/upstream-only/cpuUs', CPU_GROWTH_MAX],
  ['first/gateway/allocatedKb', 'first/upstream-only/allocatedKb', ALLOCATED_GROWTH_MAX],
  ['auth/gateway/cpuUs', 'auth/bare/cpuUs', CPU_GROWTH_MAX],
  ['auth/gateway/allocatedKb', 'auth/bare/allocatedKb', ALLOCATED_GROWTH_MAX],
  ['auth/gateway-cache/cpuUs', 'auth/bare/cpuUs', CPU_GROWTH_MAX],
] as const

/** The scenes that have to be measured for it. */
export const GUARDED_SCENES = ['returning', 'first', 'auth'] as const

export interface Growth {
  /** The scene that shows it. */
  scene: (typeof GUARDED_SCENES)[number]
  ratio: string
  /** In words. */
  what: string
}

/** What has grown by more than it may. A ratio that was not measured is a fault too. */
export function findGrowth(found: Results, recorded: Results): Growth[] {
  return GUARDED.flatMap(([above, below, growthMax]) => {
    const scene = GUARDED_SCENES.find((name) => above.startsWith(`${name}/`)) ?? 'returning'
    const [now, then] = [ratioOf(found, above, below), ratioOf(recorded, above, below)]
    const ratio = `${above} / ${below}`
    if (now === undefined || then === undefined) return [{ scene, ratio, what: `${ratio} was not measured` }]
    if (now <= then * growthMax) return []
    const bound = `recorded is ${then.toFixed(2)}, at most ${growthMax} times that`
    return [{ scene, ratio, what: `${ratio} is ${now.toFixed(2)}; ${bound}` }]
  })
}
