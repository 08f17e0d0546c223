/**
 * code2Session: exchanges a code for the user's openid and session_key, at whichever platform its app is of.
 *
 * Request and answer are the platform's (platforms/), without I/O. exchange() joins them with the hosts, their
 * breakers, and the one question that governs every retry: may the platform have used the code up? What holds for
 * WeChat is taken to hold for those that copied it.
 *
 *   what happened                                   code may be used   retried within the login
 *   DNS, connect, TLS failed; no free connection    no                 ≤ 2, 50–150 ms later, on the next host
 *   a reused socket broke before any answer         hardly             once, on another connection
 *   5xx, or a page instead of JSON                  maybe              once, if a second is left
 *   deadline, reset, cut or senseless answer        maybe              no
 *   errcode -1                                      no, says WeChat    ≤ 2, 100–400 ms later
 *   any other errcode                               final              no (a refused credential: once with another)
 *
 * Source: https://developers.weixin.qq.com/miniprogram/dev/OpenApiDoc/user-login/code2Session.html
 */
import { setTimeout as pause } from 'node:timers/promises'
import type { App } from '../app-entry.ts'
import { ERRORS, GatewayError } from '../errors.ts'
import type { ErrorCode } from '../errors.ts'
import type { WechatIdentity } from '../login.ts'
import type { AppGates } from './app-gate.ts'
import type { DeadAnswer, LiveAnswer } from './answer.ts'
import type { ErrcodeTable } from './errcode-table.ts'
import { ERRCODE_BUSY } from './errcodes.ts'
import type { Hosts } from './hosts.ts'
import type { Credential, Platform } from './platform.ts'
import type { Platforms } from './platforms.ts'

/** Exchanges under way or waiting for a connection in this process; more are turned away at once. */
const EXCHANGES_MAX = 1_000
/**
 * Retries other than of -1 and on a host not tried yet may be this share of the calls, so that a failing
 * WeChat is not hit harder.
 */
const RETRY_SHARE = 0.1
const RETRY_CREDIT_MAX = 10
const SERVER_ERROR_RETRY_LEFT_MS = 1_000

export interface Code2SessionDeps {
  hosts: Hosts
  platforms: Platforms
  gates: AppGates
  findApp(appid: string): App | undefined
  /** A platform answered with an errcode other than 0. */
  onErrcode(app: App, errcode: number, rid: string | undefined): void
}

/** The exchange over all platforms and their hosts. */
export function createCode2Session(
  { hosts, platforms, gates, findApp, onErrcode }: Code2SessionDeps,
  settings: { loginDeadlineMs: number },
) {
  /** Refusals of a credential that were counted at the gate: one may meet many logins that waited for it. */
  const counted = new WeakSet<GatewayError>()
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
      const app = findApp(request.appid)
      if (app === undefined) throw new GatewayError('appid_unknown')
      gates.admit(app)
      if (running >= EXCHANGES_MAX || deadline.aborted) throw new GatewayError('overloaded')
      running += 1
      retryCredit = Math.min(retryCredit + RETRY_SHARE, RETRY_CREDIT_MAX)
      try {
        return await exchangeWithRetries(app, platforms[app.kind], request, deadline)
      } finally {
        running -= 1
      }
    },
  }

  async function exchangeWithRetries(
    app: App,
    platform: Platform,
    { code, generation }: { code: string; generation: number },
    deadline: AbortSignal,
  ): Promise<WechatIdentity> {
    const { origins, errcodes } = platform
    const endsAtMs = performance.now() + settings.loginDeadlineMs
    const retries = { unreachable: 2, stale: 1, serverError: 1, busy: 2 }
    let otherHosts = origins.length - 1
    const earlierLeader = generation > 1
    /** An attempt of this login may have used the code up. */
    let unclear = false
    /** WeChat was busy for this code, which it says does not use it up. */
    let wasBusy = false
    let startIndex = 0
    let credential: Credential | undefined

    for (;;) {
      credential ??= await askCredential(app, platform.credential(app, deadline), unclear)
      const attempt = await hosts.askFirstClosed(
        {
          purpose: 'exchange',
          origins,
          startIndex,
          request: platform.request(app, credential.text.reveal(), code),
          read: (answer): LiveAnswer | DeadAnswer => platform.read(answer, app),
        },
        deadline,
      )
      switch (attempt.outcome) {
        case 'ok':
          accepted(app, credential)
          return { appid: app.appid, ...attempt.identity }

        case 'refused': {
          const { errcode, rid } = attempt
          onErrcode(app, errcode, rid)
          if (errcodes.credentialInvalid.has(errcode)) {
            const other = await askCredential(app, credential.next(deadline), unclear)
            if (other !== undefined) {
              credential = other
              continue
            }
          }
          if (errcodes.appRefused.has(errcode)) gates.refused(app, errcode)
          else if (!errcodes.credentialInvalid.has(errcode)) accepted(app, credential)
          throw refusal(errcodes, errcode, rid, { unclear, askedBefore: unclear || wasBusy || earlierLeader })
        }

        case 'busy':
          onErrcode(app, ERRCODE_BUSY, attempt.rid)
          if (retries.busy-- > 0 && (await pausedWithin(deadline, 100, 400))) {
            wasBusy = true
            continue
          }
          throw new GatewayError(unlessUnclear('wechat_busy', unclear), {
            errcode: ERRCODE_BUSY,
            rid: attempt.rid,
          })

        case 'unreachable':
          startIndex = attempt.nextIndex
          // Going on to a host that was not tried yet is free: nothing has reached WeChat, and while a host is
          // down every login has to go this way until its circuit opens.
          if (
            retries.unreachable-- > 0 &&
            !deadline.aborted &&
            (otherHosts-- > 0 || spendRetry()) &&
            (await pausedWithin(deadline, 50, 150))
          ) {
            continue
          }
          throw new GatewayError(unlessUnclear('wechat_unreachable', unclear || earlierLeader), {
            cause: attempt.error,
          })

        case 'reset':
          unclear = true
          if (attempt.error.staleSocket && retries.stale-- > 0 && spendRetry()) continue
          throw new GatewayError('wechat_failed', { cause: attempt.error })

        case 'server_error':
          unclear = true
          if (
            retries.serverError-- > 0 &&
            endsAtMs - performance.now() >= SERVER_ERROR_RETRY_LEFT_MS &&
            spendRetry() &&
            (await pausedWithin(deadline, 50, 150))
          ) {
            continue
          }
          throw new GatewayError('wechat_failed', {
            detail:
              attempt.status === 200
                ? 'WeChat answered with a page instead of JSON.'
                : `WeChat answered with HTTP status ${attempt.status}.`,
          })

        case 'timeout':
          throw new GatewayError('wechat_timeout', { cause: attempt.error })

        case 'invalid':
          throw new GatewayError('wechat_answer_invalid', { cause: new Error(attempt.reason) })

        case 'circuit_open':
          throw new GatewayError(unlessUnclear('wechat_circuit_open', unclear))
      }
    }
  }

  /** A credential that has to be got first. While it is not, the code stays where it is. */
  async function askCredential<T extends Credential | undefined>(
    app: App,
    asked: T | Promise<T>,
    unclear: boolean,
  ): Promise<T> {
    try {
      return await asked
    } catch (error) {
      if (!(error instanceof GatewayError)) throw error
      const { errcode } = error
      if (
        errcode !== undefined &&
        platforms[app.kind].errcodes.appRefused.has(errcode) &&
        !counted.has(error)
      ) {
        counted.add(error)
        gates.refused(app, errcode)
      }
      if (unlessUnclear(error.code, unclear) === error.code) throw error
      throw new GatewayError('wechat_failed', { cause: error })
    }
  }

  function accepted(app: App, credential: Credential): void {
    gates.accepted(app)
    credential.worked?.()
  }

  function spendRetry(): boolean {
    if (retryCredit < 1) return false
    retryCredit -= 1
    return true
  }
}

export type Code2Session = ReturnType<typeof createCode2Session>

function refusal(
  errcodes: ErrcodeTable,
  errcode: number,
  rid: string | undefined,
  { unclear, askedBefore }: { unclear: boolean; askedBefore: boolean },
): GatewayError {
  if (askedBefore && errcodes.codeGone.has(errcode))
    return new GatewayError('code_consumed', { errcode, rid })
  const answer = unlessUnclear(errcodes.answerTo(errcode), unclear)
  const retryAfterSeconds = answer === 'wechat_rate_limited' ? secondsToNextMinute() : undefined
  return new GatewayError(answer, { errcode, rid, retryAfterSeconds })
}

/** After an attempt that may have used the code up, the client must not be told to send it again. */
function unlessUnclear(code: ErrorCode, unclear: boolean): ErrorCode {
  return unclear && ERRORS[code].retry === 'same_code' ? 'wechat_failed' : code
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
