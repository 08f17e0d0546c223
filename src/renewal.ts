/**
 * Sliding renewal: a session that is used lives on, up to its absolute end.
 *
 * The note of its use is written beside the answer to a validation, at most once in a tenth of the idle life,
 * and never delays or fails it: on a Redis that is full or gone sessions are found as before, they only end
 * where they would have ended.
 */
import { loadScript } from './redis/scripts.ts'
import type { RedisClient } from './redis/connections.ts'
import type { Keys } from './redis/keys.ts'
import type { SessionLife } from './session-value.ts'

const renewScript = loadScript('renew-session')

/** Of the idle life: how much of it passes between two notes of one session. */
const STEP_SHARE = 0.1
/** A session is not tried again for so long: on a full Redis each validation would cost a second command. */
const RETRY_PAUSE_MS = 5_000
const TRIED_SESSIONS_MAX = 10_000

/** `unneeded`: another gateway was quicker, or the session has just been ended. */
export type RenewalOutcome = 'renewed' | 'unneeded' | 'failed'

/** @param onRenew told what became of each try, for the metrics */
export function createRenewal(
  { redis, keys }: { redis: RedisClient; keys: Keys },
  { idleSeconds, maxSeconds }: SessionLife,
  onRenew: (outcome: RenewalOutcome) => void,
) {
  const stepSeconds = Math.ceil(idleSeconds * STEP_SHARE)
  const triedAtMs = new Map<string, number>()

  /** Notes that a session is in use, if the last note is old enough. Returns at once and never throws. */
  return ({ sub, field }: { sub: string; field: string }, unusedSeconds: number): void => {
    if (unusedSeconds < stepSeconds) return
    const nowMs = performance.now()
    const tried = `${sub} ${field}`
    if (nowMs - (triedAtMs.get(tried) ?? -Infinity) < RETRY_PAUSE_MS) return
    if (triedAtMs.size >= TRIED_SESSIONS_MAX) triedAtMs.clear() // crude, but bounded; a repeat does no harm
    triedAtMs.set(tried, nowMs)
    renewScript(redis, [keys.user(sub)], [field, idleSeconds, maxSeconds, stepSeconds]).then(
      (answer) => onRenew(answer === 1 ? 'renewed' : 'unneeded'),
      () => onRenew('failed'), // a later validation tries again
    )
  }
}

export type Renewal = ReturnType<typeof createRenewal>
