/**
 * WeChat's quotas: how many calls a user or an app may make in a calendar minute or day.
 *
 * The numbers are those of the public documentation where it gives one. WeChat has published 100 a
 * minute and user for code2Session in older copies and no number lately, and a field report speaks of a
 * limit per app, so both exist here and the one per app is off unless a test sets it.
 */
import type { Read } from './fields.ts'
import { integer, nullable } from './fields.ts'

const MINUTE_MS = 60_000
const DAY_MS = 86_400_000
/** WeChat's days begin at midnight in Beijing. */
const BEIJING_OFFSET_MS = 8 * 3_600_000

const limit = nullable(integer(0, 1_000_000_000))

/** The quotas a test may change, for all apps or for one; null lifts a quota. */
export const QUOTA_FIELDS = {
  exchangesPerUserPerMinute: limit,
  exchangesPerAppPerMinute: limit,
  stableTokensPerMinute: limit,
  stableTokensPerDay: limit,
  forcedRefreshesPerDay: limit,
  tokensPerDay: limit,
  keyResetsPerMinute: limit,
}

export type QuotaInput = Read<typeof QUOTA_FIELDS>
export type Quotas = { [K in keyof typeof QUOTA_FIELDS]: number | null }

export const DEFAULT_QUOTAS: Quotas = {
  exchangesPerUserPerMinute: 100,
  exchangesPerAppPerMinute: null,
  stableTokensPerMinute: 10_000,
  stableTokensPerDay: 500_000,
  forcedRefreshesPerDay: 20,
  tokensPerDay: 2_000,
  keyResetsPerMinute: 60_000,
}

/** Calls counted in one calendar minute or day. */
export interface Count {
  window: number
  calls: number
}

/** A count of nothing yet. */
export const startCount = (): Count => ({ window: 0, calls: 0 })

/** Spends one call of the minute's quota; false when none is left, which spends nothing. */
export function spendOfMinute(count: Count, quota: number | null, now: number): boolean {
  return spend(count, quota, Math.floor(now / MINUTE_MS))
}

/** Spends one call of the day's quota; false when none is left, which spends nothing. */
export function spendOfDay(count: Count, quota: number | null, now: number): boolean {
  return spend(count, quota, Math.floor((now + BEIJING_OFFSET_MS) / DAY_MS))
}

function spend(count: Count, quota: number | null, window: number): boolean {
  if (count.window !== window) {
    count.window = window
    count.calls = 0
  }
  if (quota !== null && count.calls >= quota) return false
  count.calls += 1
  return true
}
