/**
 * Limits that each gateway counts for itself, in memory: what they count is frequent or cheap, and must not cost
 * Redis a command. All are per minute; with N gateways behind a load balancer up to N times as much passes.
 *
 *   name                subject        protects
 *   wrong_token_per_ip  address group  against guessing. Only answers 401 are counted, and a token that is valid is
 *                                      never refused for its address, on which thousands of phones may be. As high
 *                                      as the limit of logins: who has a wrong token logs in next
 *   token_per_user      sub            the signing of JWTs from one user in a loop
 *   phone_per_user      sub            the operator's money: WeChat charges for every phone number
 */
import { addressGroup } from './addresses.ts'
import { GatewayError } from './errors.ts'

export type LocalLimitName = 'wrong_token_per_ip' | 'token_per_user' | 'phone_per_user'

const WINDOW_MS = 60_000
/** Subjects counted at once; above it those whose minute began first are forgotten. About 3 MB. */
const SUBJECTS_MAX = 20_000

export interface LocalLimitSettings {
  wrongTokenPerIp: number
  tokenPerUser: number
  phonePerUser: number
}

/** @param onSpend told of every count, for the metrics */
export function createLocalLimits(
  settings: LocalLimitSettings,
  onSpend: (limit: LocalLimitName, outcome: 'allowed' | 'denied') => void,
) {
  const wrongTokens = createLimit('wrong_token_per_ip', settings.wrongTokenPerIp)
  const tokens = createLimit('token_per_user', settings.tokenPerUser)
  const phones = createLimit('phone_per_user', settings.phonePerUser)

  return {
    /** Counts a wrong token. @throws {GatewayError} rate_limited, when there were too many */
    spendWrongToken: (ip: string): void =>
      wrongTokens(addressGroup(ip), 'Too many wrong tokens from this address.'),
    /** @throws {GatewayError} rate_limited */
    spendToken: (sub: string): void => tokens(sub, 'Too many tokens for this user.'),
    /** @throws {GatewayError} rate_limited */
    spendPhone: (sub: string): void => phones(sub, 'Too many phone numbers for this user.'),
  }

  function createLimit(name: LocalLimitName, points: number) {
    const counts = createCounts()
    return (subject: string, detail: string): void => {
      const { count, msLeft } = counts(subject)
      onSpend(name, count > points ? 'denied' : 'allowed')
      if (count > points)
        throw new GatewayError('rate_limited', { detail, retryAfterSeconds: Math.ceil(msLeft / 1_000) })
    }
  }
}

export type LocalLimits = ReturnType<typeof createLocalLimits>

/** Counts by subject, each in a minute of its own that begins with the first. */
function createCounts() {
  /** In the order in which their minutes began. */
  const windows = new Map<string, { count: number; endsAtMs: number }>()

  return (subject: string): { count: number; msLeft: number } => {
    const nowMs = performance.now()
    let window = windows.get(subject)
    if (window === undefined || window.endsAtMs <= nowMs) {
      windows.delete(subject)
      for (const [other, { endsAtMs }] of windows) {
        if (windows.size < SUBJECTS_MAX && endsAtMs > nowMs) break
        windows.delete(other)
      }
      window = { count: 0, endsAtMs: nowMs + WINDOW_MS }
      windows.set(subject, window)
    }
    window.count += 1
    return { count: window.count, msLeft: window.endsAtMs - nowMs }
  }
}
