/**
 * code2Session: exchanges a code for the user's openid and session_key.
 *
 * Request and answer are apart: requestPath() builds, readAnswer() (answer.ts) reads, both without I/O. exchange()
 * joins them with the hosts, their breakers, and the one question that governs every retry: may WeChat have
 * used the code up?
 *
 *   what happened                                   code may be used   retried within the login
 *   DNS, connect, TLS failed; no free connection    no                 ≤ 2, 50–150 ms later, on the next host
 *   a reused socket broke before any answer         hardly             once, on another connection
 *   5xx, or a page instead of JSON                  maybe              once, if a second is left
 *   deadline, reset, cut or senseless answer        maybe              no
 *   errcode -1                                      no, says WeChat    ≤ 2, 100–400 ms later
 *   any other errcode                               final              no (40125: once with the second secret)
 *
 * Source: https://developers.weixin.qq.com/miniprogram/dev/OpenApiDoc/user-login/code2Session.html
 */
import { setTimeout as pause } from 'node:timers/promises'
import type { App } from '../config.ts'
import { GatewayError } from '../errors.ts'
import type { WechatIdentity } from '../login.ts'
import { createBreaker, CircuitOpenError } from './breaker.ts'
import type { BreakerState } from './breaker.ts'
import { CallError } from './calls.ts'
import type { Calls } from './calls.ts'
import { readAnswer } from './answer.ts'
import type { DeadAnswer, LiveAnswer } from './answer.ts'
import { answerTo, ERRCODE_BUSY, ERRCODE_SECRET_INVALID, ERRCODES_CODE_GONE } from './errcodes.ts'

/** Exchanges under way or waiting for a connection in this process; more are turned away at once. */
const EXCHANGES_MAX = 1_000
/** Retries other than of -1 may be this share of the calls, so that a failing WeChat is not hit harder. */
const RETRY_SHARE = 0.1
const RETRY_CREDIT_MAX = 10
const SERVER_ERROR_RETRY_LEFT_MS = 1_000

export type ExchangeOutcome =
  | 'ok'
  | 'refused'
  | 'busy'
  | 'unreachable'
  | 'timeout'
  | 'reset'
  | 'server_error'
  | 'invalid'

export interface ExchangeObserver {
  onCall(call: { host: string; outcome: ExchangeOutcome; seconds: number }): void
  /** WeChat answered with an errcode other than 0. */
  onErrcode(appid: string, errcode: number, rid: string | undefined): void
  /** WeChat could not be used: what the log should know, free of secrets. */
  onFailure(host: string, outcome: ExchangeOutcome, reason: string): void
  onBreaker(host: string, state: BreakerState): void
}

export interface Code2SessionSettings {
  apps: readonly App[]
  /** Origins in order of preference. */
  apiUrls: readonly string[]
  loginDeadlineMs: number
}

export function createCode2Session(calls: Calls, settings: Code2SessionSettings, observer: ExchangeObserver) {
  const apps = new Map(settings.apps.map((app) => [app.appid, app]))
  const hosts = settings.apiUrls.map((origin) => {
    const { host } = new URL(origin)
    const onState = (state: BreakerState) => observer.onBreaker(host, state)
    return {
      origin,
      host,
      breaker: createBreaker({ name: host, callMsMax: settings.loginDeadlineMs, onState }),
    }
  })
  let running = 0
  let retryCredit = RETRY_CREDIT_MAX

  return {
    /**
     * Ends by the deadline. Not safe to call twice with one code, which is why login() claims it first.
     *
     * Rejects with code_invalid, code_already_used, code_consumed, login_blocked, wechat_rate_limited,
     * app_misconfigured, wechat_refused, wechat_busy, wechat_unreachable, wechat_circuit_open,
     * wechat_timeout, wechat_failed, wechat_answer_invalid, overloaded.
     */
    async exchange(
      request: { appid: string; code: string; generation: number },
      deadline: AbortSignal,
    ): Promise<WechatIdentity> {
      const app = apps.get(request.appid)
      if (app === undefined) throw new GatewayError('appid_unknown')
      if (running >= EXCHANGES_MAX || deadline.aborted) throw new GatewayError('overloaded')
      running += 1
      retryCredit = Math.min(retryCredit + RETRY_SHARE, RETRY_CREDIT_MAX)
      try {
        return await exchangeWithRetries(app, request, deadline)
      } finally {
        running -= 1
      }
    },
    close() {
      for (const { breaker } of hosts) breaker.shutdown()
    },
  }

  async function exchangeWithRetries(
    app: App,
    { code, generation }: { code: string; generation: number },
    deadline: AbortSignal,
  ): Promise<WechatIdentity> {
    const endsAtMs = performance.now() + settings.loginDeadlineMs
    const retries = { unreachable: 2, stale: 1, serverError: 1, busy: 2 }
    let codeMayBeUsed = generation > 1
    let secretIndex = 0
    let hostIndex = 0

    for (;;) {
      const secret = app.secrets[secretIndex]?.reveal() ?? ''
      const attempt = await callFirstClosed(
        hostIndex,
        requestPath({ appid: app.appid, secret, code }),
        deadline,
      )
      switch (attempt.outcome) {
        case 'ok':
          return { appid: app.appid, ...attempt.identity }

        case 'refused': {
          const { errcode, rid } = attempt
          observer.onErrcode(app.appid, errcode, rid)
          if (errcode === ERRCODE_SECRET_INVALID && secretIndex + 1 < app.secrets.length) {
            secretIndex += 1
            continue
          }
          throw refusal(errcode, rid, codeMayBeUsed)
        }

        case 'busy':
          observer.onErrcode(app.appid, ERRCODE_BUSY, attempt.rid)
          if (retries.busy-- > 0 && (await pausedWithin(deadline, 100, 400))) {
            codeMayBeUsed = true
            continue
          }
          throw new GatewayError('wechat_busy', { errcode: ERRCODE_BUSY, rid: attempt.rid })

        case 'unreachable':
          hostIndex = (attempt.hostIndex + 1) % hosts.length
          if (retries.unreachable-- > 0 && spendRetry() && (await pausedWithin(deadline, 50, 150))) continue
          throw new GatewayError(codeMayBeUsed ? 'wechat_failed' : 'wechat_unreachable', {
            cause: attempt.error,
          })

        case 'reset':
          codeMayBeUsed = true
          if (attempt.error.staleSocket && retries.stale-- > 0 && spendRetry()) continue
          throw new GatewayError('wechat_failed', { cause: attempt.error })

        case 'server_error':
          codeMayBeUsed = true
          if (
            retries.serverError-- > 0 &&
            endsAtMs - performance.now() >= SERVER_ERROR_RETRY_LEFT_MS &&
            spendRetry() &&
            (await pausedWithin(deadline, 50, 150))
          ) {
            continue
          }
          throw new GatewayError('wechat_failed', {
            detail: `WeChat answered with HTTP status ${attempt.status}.`,
          })

        case 'timeout':
          throw new GatewayError('wechat_timeout', { cause: attempt.error })

        case 'invalid':
          throw new GatewayError('wechat_answer_invalid', { cause: new Error(attempt.reason) })

        case 'circuit_open':
          throw new GatewayError('wechat_circuit_open')
      }
    }
  }

  /** Calls the first host from `startIndex` on whose circuit is not open. */
  async function callFirstClosed(startIndex: number, path: string, deadline: AbortSignal): Promise<Attempt> {
    for (let step = 0; step < hosts.length; step += 1) {
      const hostIndex = (startIndex + step) % hosts.length
      const host = hosts[hostIndex]
      if (host === undefined) break
      try {
        return await host.breaker.run(() => callOnce(host.origin, host.host, path, deadline))
      } catch (error) {
        if (error instanceof CircuitOpenError) continue
        if (error instanceof FailedAttempt) return { ...error.attempt, hostIndex }
        throw error
      }
    }
    return { outcome: 'circuit_open' }
  }

  /** Resolves with what proves WeChat alive; throws what the breaker has to count. */
  async function callOnce(
    origin: string,
    host: string,
    path: string,
    deadline: AbortSignal,
  ): Promise<LiveAnswer> {
    const startedMs = performance.now()
    const attempt = await calls.get(origin, path, deadline).then(readAnswer, failedCall)
    observer.onCall({ host, outcome: attempt.outcome, seconds: (performance.now() - startedMs) / 1000 })
    if (attempt.outcome === 'ok' || attempt.outcome === 'refused') return attempt
    observer.onFailure(host, attempt.outcome, reasonOf(attempt))
    throw new FailedAttempt(attempt)
  }

  function spendRetry(): boolean {
    if (retryCredit < 1) return false
    retryCredit -= 1
    return true
  }
}

export type Code2Session = ReturnType<typeof createCode2Session>

type DeadAttempt = DeadAnswer | { outcome: 'unreachable' | 'timeout' | 'reset'; error: CallError }
type Attempt = LiveAnswer | (DeadAttempt & { hostIndex: number }) | { outcome: 'circuit_open' }

/** Carries a failed attempt through the breaker, which counts rejections. */
class FailedAttempt extends Error {
  readonly attempt: DeadAttempt

  constructor(attempt: DeadAttempt) {
    super(attempt.outcome)
    this.attempt = attempt
  }
}

function failedCall(error: unknown): DeadAttempt {
  if (!(error instanceof CallError)) throw error
  if (error.failure === 'oversize') return { outcome: 'invalid', reason: 'the answer is too large' }
  return { outcome: error.failure, error }
}

/** The path with its query. Encoded by URLSearchParams: a code can add no parameter. Secret, see calls.ts. */
export function requestPath({
  appid,
  secret,
  code,
}: {
  appid: string
  secret: string
  code: string
}): string {
  const query = new URLSearchParams({ appid, secret, js_code: code, grant_type: 'authorization_code' })
  return `/sns/jscode2session?${query.toString()}`
}

function refusal(errcode: number, rid: string | undefined, codeMayBeUsed: boolean): GatewayError {
  if (codeMayBeUsed && ERRCODES_CODE_GONE.has(errcode))
    return new GatewayError('code_consumed', { errcode, rid })
  const answer = answerTo(errcode)
  const retryAfterSeconds = answer === 'wechat_rate_limited' ? secondsToNextMinute() : undefined
  return new GatewayError(answer, { errcode, rid, retryAfterSeconds })
}

/** WeChat counts by the minute. Some seconds of jitter, so that not everybody returns at once. */
function secondsToNextMinute(): number {
  return 60 - (Math.floor(Date.now() / 1000) % 60) + Math.floor(Math.random() * 5)
}

/** Pauses for a random time; false when the deadline passed meanwhile. */
async function pausedWithin(deadline: AbortSignal, minMs: number, maxMs: number): Promise<boolean> {
  try {
    await pause(minMs + Math.random() * (maxMs - minMs), undefined, { signal: deadline })
    return true
  } catch {
    return false // the pause was cut by the deadline
  }
}

function reasonOf(attempt: DeadAttempt): string {
  switch (attempt.outcome) {
    case 'busy':
      return 'errcode -1'
    case 'server_error':
      return `HTTP status ${attempt.status}`
    case 'invalid':
      return attempt.reason
    default:
      return attempt.error.message
  }
}
