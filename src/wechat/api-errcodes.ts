/**
 * WeChat's errcodes as its calls with an access_token answer them, and stable_token itself. Those of
 * jscode2session are in errcodes.ts: the same number can mean another thing there.
 *
 * Sources: the official pages of the four calls (their paths are in api.ts); the general errcode table.
 */
import type { ErrorCode } from '../errors.ts'

/** The calls of api.ts. */
export type ApiName = 'stable_token' | 'phone_number' | 'check_session_key' | 'reset_session_key'

/** The access_token does not work: refused before anything was done, so the call may be repeated with another. */
export const ERRCODES_ACCESS_TOKEN: ReadonlySet<number> = new Set([40001, 40014, 42001])
/** The session_key held here is not the one WeChat has: 87009 wrong or expired, 87007 there is none. */
export const ERRCODES_SESSION_KEY: ReadonlySet<number> = new Set([87007, 87009])

/** Of every call. */
const ERRCODES: Readonly<Record<number, ErrorCode>> = {
  45011: 'wechat_rate_limited',
  45009: 'app_misconfigured', // the day's quota is used up
  40002: 'app_misconfigured',
  40013: 'app_misconfigured',
  40125: 'app_misconfigured',
  40164: 'app_misconfigured', // the address of this gateway is not in the IP whitelist
  40243: 'app_misconfigured', // AppSecret frozen
  41002: 'app_misconfigured',
  41004: 'app_misconfigured',
  48001: 'app_misconfigured',
  50002: 'app_misconfigured',
  50004: 'app_misconfigured',
  50007: 'app_misconfigured',
  61004: 'app_misconfigured',
  89503: 'app_misconfigured', // an administrator has to confirm the address of this gateway
  89506: 'app_misconfigured', // an administrator has refused it, for a day
  89507: 'app_misconfigured', // the same, for an hour
}

/** Where a call gives a number a meaning of its own. */
const ERRCODES_OF_CALL: Partial<Record<ApiName, Readonly<Record<number, ErrorCode>>>> = {
  phone_number: {
    40029: 'phone_code_invalid',
    40013: 'phone_code_invalid', // the code is of another app
    40003: 'phone_code_invalid', // the code is of another user; WeChat does not publish which number it uses
  },
  check_session_key: { 40003: 'session_key_stale' },
  reset_session_key: { 40003: 'session_key_stale', 87007: 'session_key_stale', 87009: 'session_key_stale' },
}

/** Our answer to an errcode of a call. What is in no table somebody has to look up. */
export function apiAnswerTo(name: ApiName, errcode: number): ErrorCode {
  return ERRCODES_OF_CALL[name]?.[errcode] ?? ERRCODES[errcode] ?? 'wechat_call_refused'
}
