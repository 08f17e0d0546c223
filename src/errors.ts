/**
 * The catalogue of answers other than success.
 *
 * Each code is at once the `code` of the response, the `outcome` label of a metric, a row of the table
 * in README.md (test/documentation.test.ts keeps them equal) and, through `retry`, the client's next step:
 *
 *   same_code  the request may be sent again as it is: WeChat has not used the code up
 *   new_code   call wx.login() first, then send the new code
 *   never      repeating cannot help; a person has to change something
 *
 * `retry` is also the rule by which login gives a claimed code back (see codes.ts).
 */

export type Retry = 'same_code' | 'new_code' | 'never'

interface ErrorSpec {
  readonly status: number
  readonly retry: Retry
  readonly title: string
  /** Seconds after which a repeat makes sense; set on every 429 and 503, where it becomes `Retry-After`. */
  readonly retryAfterSeconds?: number
}

/** All of them, in the order in which a request can meet them. */
export const ERRORS = {
  // The request itself
  request_invalid: { status: 400, retry: 'never', title: 'The request is not valid.' },
  appid_required: {
    status: 400,
    retry: 'never',
    title: 'Several apps are configured; the request must name its appid.',
  },
  appid_unknown: { status: 400, retry: 'never', title: 'This appid is not configured here.' },
  app_disabled: { status: 403, retry: 'never', title: 'Logins of this app are switched off.' },
  app_exists: { status: 409, retry: 'never', title: 'This appid is there already.' },
  app_static: {
    status: 409,
    retry: 'never',
    title: 'This app comes from the configuration and is changed there.',
  },
  not_found: { status: 404, retry: 'never', title: 'There is nothing at this address.' },
  method_not_allowed: { status: 405, retry: 'never', title: 'This address does not answer this method.' },
  request_timeout: { status: 408, retry: 'same_code', title: 'The request did not arrive in time.' },
  body_too_large: { status: 413, retry: 'never', title: 'The request body is too large.' },
  uri_too_long: { status: 414, retry: 'never', title: 'The address is too long.' },
  media_type_unsupported: { status: 415, retry: 'never', title: 'The body must be application/json.' },
  headers_too_large: { status: 431, retry: 'never', title: 'The request headers are too large.' },

  // The code
  code_invalid: { status: 401, retry: 'new_code', title: 'WeChat does not accept this code.' },
  code_already_used: { status: 409, retry: 'new_code', title: 'This code has been used.' },
  code_consumed: {
    status: 409,
    retry: 'new_code',
    title: 'This code was used up by an attempt that did not finish.',
  },
  login_in_progress: {
    status: 409,
    retry: 'same_code',
    retryAfterSeconds: 1,
    title: 'This code is being exchanged.',
  },
  login_blocked: { status: 403, retry: 'never', title: 'WeChat has blocked the login of this user.' },
  user_blocked: { status: 403, retry: 'never', title: 'This user is blocked.' },

  // Limits
  rate_limited: { status: 429, retry: 'same_code', retryAfterSeconds: 60, title: 'Too many requests.' },
  user_rate_limited: {
    status: 429,
    retry: 'new_code',
    retryAfterSeconds: 60,
    title: 'This user has logged in too often.',
  },
  wechat_rate_limited: {
    status: 429,
    retry: 'same_code',
    retryAfterSeconds: 60,
    title: 'WeChat limits how often this may be asked.',
  },

  // WeChat. `same_code` only where WeChat provably has not used the code.
  wechat_busy: { status: 503, retry: 'same_code', retryAfterSeconds: 1, title: 'WeChat is busy.' },
  wechat_unreachable: {
    status: 503,
    retry: 'same_code',
    retryAfterSeconds: 2,
    title: 'WeChat could not be reached.',
  },
  wechat_circuit_open: {
    status: 503,
    retry: 'same_code',
    retryAfterSeconds: 5,
    title: 'WeChat is failing; it is not being asked for the moment.',
  },
  wechat_timeout: {
    status: 503,
    retry: 'new_code',
    retryAfterSeconds: 1,
    title: 'WeChat did not answer in time.',
  },
  wechat_failed: {
    status: 503,
    retry: 'new_code',
    retryAfterSeconds: 1,
    title: 'WeChat broke off or answered with a server error.',
  },
  wechat_answer_invalid: {
    status: 503,
    retry: 'new_code',
    retryAfterSeconds: 1,
    title: 'WeChat gave an answer that makes no sense.',
  },
  wechat_refused: {
    status: 503,
    retry: 'new_code',
    retryAfterSeconds: 5,
    title: 'WeChat refused, for a reason this gateway does not know.',
  },
  app_misconfigured: {
    status: 503,
    retry: 'never',
    retryAfterSeconds: 60,
    title: 'WeChat refuses this app: its operator has to correct the configuration.',
  },

  // The session
  session_invalid: { status: 401, retry: 'new_code', title: 'There is no such session.' },

  // What needs session_key, or a phone number
  session_key_stale: {
    status: 409,
    retry: 'new_code',
    title: 'This was not made with a session_key that is known here.',
  },
  open_data_foreign: { status: 403, retry: 'never', title: 'This data is of another app or another user.' },
  open_data_expired: {
    status: 400,
    retry: 'never',
    title: 'This data is too old; the user has to be asked for it again.',
  },
  replayed: { status: 409, retry: 'never', title: 'This data has been sent before.' },
  phone_code_invalid: {
    status: 400,
    retry: 'never',
    title: 'WeChat does not accept this phone code; the user has to tap the button again.',
  },
  phone_code_unclear: {
    status: 503,
    retry: 'never',
    retryAfterSeconds: 1,
    title: 'The phone code may be used up; the user has to tap the button again.',
  },
  user_unknown: { status: 404, retry: 'never', title: 'This user is not logged in here.' },
  app_unsupported: { status: 400, retry: 'never', title: 'There is no such thing for this kind of app.' },
  wechat_call_failed: {
    status: 503,
    retry: 'same_code',
    retryAfterSeconds: 1,
    title: 'WeChat gave no usable answer; asking again does no harm.',
  },
  wechat_call_refused: {
    status: 503,
    retry: 'never',
    retryAfterSeconds: 60,
    title: 'WeChat refused the call, for a reason this gateway does not know.',
  },

  // Tokens for other services
  audience_unknown: {
    status: 400,
    retry: 'never',
    title: 'No tokens are made for this audience here.',
  },

  // Message pushes: it is WeChat who asks, or somebody in its name
  push_unsigned: { status: 401, retry: 'never', title: 'WeChat has not signed this for this app.' },
  push_stale: {
    status: 401,
    retry: 'never',
    title: 'The time of this push is more than five minutes away from now.',
  },
  push_foreign: { status: 400, retry: 'never', title: 'This push is for another app.' },

  // The gateway
  admin_unauthorized: { status: 401, retry: 'never', title: 'The admin token is missing or wrong.' },
  store_unavailable: {
    status: 503,
    retry: 'same_code',
    retryAfterSeconds: 1,
    title: 'The session store cannot be reached.',
  },
  gateway_unavailable: {
    status: 503,
    retry: 'same_code',
    retryAfterSeconds: 1,
    title: 'The gateway is not available for the moment.',
  },
  seal_exhausted: {
    status: 503,
    retry: 'never',
    retryAfterSeconds: 60,
    title: 'The key of SEAL_KEYS has sealed as often as it may: its operator has to rotate it.',
  },
  provisioning_backlog_full: {
    status: 503,
    retry: 'same_code',
    retryAfterSeconds: 5,
    title: 'Too many new users wait to be provisioned.',
  },
  overloaded: { status: 503, retry: 'same_code', retryAfterSeconds: 1, title: 'The gateway is overloaded.' },
  internal: { status: 500, retry: 'new_code', title: 'The gateway failed.' },
} as const satisfies Record<string, ErrorSpec>

export type ErrorCode = keyof typeof ERRORS

export interface GatewayErrorDetails {
  /** One sentence for the developer of the client. Never a secret, never what the client sent. */
  detail?: string | undefined
  /** WeChat's number, when WeChat spoke. */
  errcode?: number | undefined
  /** WeChat's request id, for questions to its support. */
  rid?: string | undefined
  /** Overrides the catalogue's figure. */
  retryAfterSeconds?: number | undefined
  /** What lies behind, for the log. Must hold no URL, code or key. */
  cause?: unknown
}

/** An outcome the client can act on. Anything else that is thrown is a fault of ours and is shown as `internal`. */
export class GatewayError extends Error {
  readonly code: ErrorCode
  readonly status: number
  readonly retry: Retry
  readonly detail: string | undefined
  readonly errcode: number | undefined
  readonly rid: string | undefined
  readonly retryAfterSeconds: number | undefined

  constructor(code: ErrorCode, details: GatewayErrorDetails = {}) {
    const spec: ErrorSpec = ERRORS[code]
    super(spec.title, details.cause === undefined ? undefined : { cause: details.cause })
    this.name = 'GatewayError'
    this.code = code
    this.status = spec.status
    this.retry = spec.retry
    this.detail = details.detail
    this.errcode = details.errcode
    this.rid = details.rid
    this.retryAfterSeconds = details.retryAfterSeconds ?? spec.retryAfterSeconds
  }
}

/** Whether a text that was kept somewhere is a code of this version. */
export function isErrorCode(text: string): text is ErrorCode {
  return Object.hasOwn(ERRORS, text)
}
