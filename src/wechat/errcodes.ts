/**
 * WeChat's errcodes as jscode2session answers them: the only place where its numbers appear.
 *
 * `answer` is our code for the client. Every errcode but -1 is proof that WeChat is alive and so never
 * trips the breaker: a user's bad code must not close the door for everybody else.
 *
 * Sources: the official page of code2Session for -1, 40029, 40226, 45011; the rest is real although not
 * listed there: raw answers in field reports, and the general errcode table.
 */
import { createErrcodeTable } from './errcode-table.ts'
import type { ErrcodeSpec } from './errcode-table.ts'

/** The table. What is not in it is `wechat_refused`. */
export const ERRCODES = {
  [-1]: { meaning: 'system busy', answer: 'wechat_busy' },
  40029: { meaning: 'code never issued, expired, or of another app', answer: 'code_invalid' },
  40163: { meaning: 'code has been used', answer: 'code_already_used' },
  41008: { meaning: 'code missing', answer: 'code_invalid' },
  42003: { meaning: 'code expired', answer: 'code_invalid' },
  40226: { meaning: 'high-risk user, login intercepted', answer: 'login_blocked' },
  45011: { meaning: 'too many calls this minute', answer: 'wechat_rate_limited' },
  45009: { meaning: 'daily quota used up', answer: 'app_misconfigured' },
  40002: { meaning: 'grant_type invalid', answer: 'app_misconfigured' },
  40013: { meaning: 'appid invalid', answer: 'app_misconfigured' },
  40125: { meaning: 'AppSecret invalid', answer: 'app_misconfigured' },
  40164: { meaning: 'address of this gateway is not in the IP whitelist', answer: 'app_misconfigured' },
  40243: { meaning: 'AppSecret frozen', answer: 'app_misconfigured' },
  41002: { meaning: 'appid missing', answer: 'app_misconfigured' },
  41004: { meaning: 'AppSecret missing', answer: 'app_misconfigured' },
  48001: { meaning: 'API not authorised for this account', answer: 'app_misconfigured' },
  50002: { meaning: 'app or user restricted', answer: 'app_misconfigured' },
  50004: { meaning: 'app punished: API withdrawn', answer: 'app_misconfigured' },
  50007: { meaning: 'account frozen', answer: 'app_misconfigured' },
  61004: { meaning: 'address of this gateway is not registered', answer: 'app_misconfigured' },
} as const satisfies Record<number, ErrcodeSpec>

/** WeChat is overloaded and asks for a retry. */
export const ERRCODE_BUSY = -1
/** Worth a try with the app's other secret, while one is being rotated. */
export const ERRCODE_SECRET_INVALID = 40125

/** The table with what its numbers say beyond our answer. */
export const WECHAT_ERRCODES = createErrcodeTable(ERRCODES, {
  codeGone: new Set([40029, 40163]),
  credentialInvalid: new Set([ERRCODE_SECRET_INVALID]),
  // Its appid, its AppSecret, our address. Not 50002 and its like, which may also mean a user.
  appRefused: new Set([40013, 40125, 40164, 40243, 41002, 41004]),
})
