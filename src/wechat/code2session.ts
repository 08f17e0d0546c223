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
 *   errcode -1                                      no, says WeChat    ≤ 4, 100–400 ms later
 *   any other errcode                               final              no (a refused credential: once with another)
 *
 * None of them leaves with too little of the deadline left for an answer: that would waste the code.
 *
 * -1 is how WeChat says that it is busy, now and then to a third of all calls. Two retries would then lose 2.7 % of the
 * logins, four lose 0.24 %. They have an allowance of their own; a WeChat that says -1 to most calls is left alone by
 * the breaker.
 *
 * Source: https://developers.weixin.qq.com/miniprogram/dev/OpenApiDoc/user-login/code2Session.html
 */
import { setTimeout as pause } from 'node:timers/promises'
import type { App } from '../app-entry.ts'
import { msLeft, msUntilLate } from '../deadline.ts'
import { ERRORS, GatewayError } from '../errors.ts'
import type { ErrorCode } from '../errors.ts'
import type { ExchangeRequest, WechatIdentity } from '../login.ts'
import type { AppGates } from './app-gate.ts'
import type { DeadAnswer, LiveAnswer } from './answer.ts'
import type { Bulkhead } from './bulkhead.ts'
import type { ErrcodeTable } from './errcode-table.ts'
import { ERRCODE_BUSY } from './errcodes.ts'
import type { Hosts } from './hosts.ts'
import type { Credential, Platform } from './platform.ts'
import type { Platforms } from './platforms.ts'
import { quotaUsedUp } from './quota-gate.ts'
import type { QuotaGates } from './quota-gate.ts'

/**
 * Retries other than of -1 and on a host not tried yet may be this share of the calls, so that a failing
 * WeChat is not hit harder.
 */
const RETRIES = { share: 0.1, creditMax: 10 }
/** Retries of -1. When 30 % of all calls are told so, it takes 0.43 retries a login. */
const BUSY_RETRIES = { share: 0.5, creditMax: 50 }
const BUSY_RETRIES_MAX = 4
const SERVER_ERROR_RETRY_LEFT_MS = 1_000
/**
 * While no host takes calls, so many logins are still let in to see whether their codes have an outcome: a retry of a
 * settled one is answered. Beyond, three commands of Redis for each would fill a core at 5,000 a second.
 */
const SEEN_WHILE_OPEN = { logins: 50, withinMs: 100 }

export interface Code2SessionDeps {
  hosts: Hosts
  bulkhead: Bulkhead
  platforms: Platforms
  /** For what an app is refused. */
  gates: AppGates
  /** For what an app has used up. */
  quotas: QuotaGates
  findApp(appid: string): App | undefined
  /** A platform answered with an errcode other than 0. */
  onErrcode(app: App, errcode: number, rid: string | undefined): void
}

/** The exchange over all platforms and their hosts. */
export function createCode2Session({
  hosts,
  bulkhead,
  platforms,
  gates,
  quotas,
  findApp,
  onErrcode,
}: Code2SessionDeps) {
  /** Refusals of a credential that were counted at the gate: one may meet many logins that waited for it. */
  const counted = new WeakSet<GatewayError>()
  const retryBudget = createBudget(RETRIES)
  const busyBudget = createBudget(BUSY_RETRIES)

  const appOf = (appid: string): App => {
    const app = findApp(appid)
    if (app === undefined) throw new GatewayError('appid_unknown')
    return app
  }

  const isReachable = (app: App) => hosts.isAnyPassable(platforms[app.kind].origins)
  const seenWhileOpen = createRate(SEEN_WHILE_OPEN.logins, SEEN_WHILE_OPEN.withinMs)

  return {
    /** Throws wechat_circuit_open while no host of the app takes calls, for logins beyond SEEN_WHILE_OPEN. */
    admitUnseen(appid: string): void {
      const app = findApp(appid)
      if (app === undefined || isReachable(app) || seenWhileOpen.take()) return
      throw new GatewayError('wechat_circuit_open')
    },

    /**
     * Throws what exchange() would reject with, if no platform needs to be asked for that: appid_unknown,
     * app_misconfigured, wechat_rate_limited, wechat_circuit_open. An app whose gate is shut gets its probe by this,
     * so an exchange has to follow; one for which there is no room gives it back.
     */
    admit(appid: string): void {
      const app = appOf(appid)
      if (!isReachable(app)) throw new GatewayError('wechat_circuit_open')
      gates.admit(app)
      quotas.admit(appid)
    },

    /**
     * Ends by the deadline. Not safe to call twice with one code, which is why login() claims it first.
     *
     * Rejects with code_invalid, code_already_used, code_consumed, login_blocked, wechat_rate_limited,
     * app_misconfigured, wechat_refused, wechat_busy, wechat_unreachable, wechat_circuit_open,
     * wechat_timeout, wechat_failed, wechat_answer_invalid, overloaded.
     */
    async exchange(request: ExchangeRequest, deadline: AbortSignal): Promise<WechatIdentity> {
      const app = appOf(request.appid)
      let isSent = false
      const onSent = () => {
        isSent = true
      }
      try {
        if (msUntilLate(deadline) <= 0) throw new GatewayError('overloaded')
        return await bulkhead.run(app.appid, deadline, () => {
          retryBudget.earn()
          busyBudget.earn()
          return exchangeWithRetries(app, platforms[app.kind], request, deadline, onSent)
        })
      } catch (error) {
        if (!isSent) request.onUnsent()
        if (error instanceof GatewayError && error.code === 'overloaded') gates.unasked(app)
        throw error
      }
    },
  }

  async function exchangeWithRetries(
    app: App,
    platform: Platform,
    { code, ip, generation, mayBeUsed }: ExchangeRequest,
    deadline: AbortSignal,
    onSent: () => void,
  ): Promise<WechatIdentity> {
    const { origins, errcodes } = platform
    const retries = { unreachable: 2, stale: 1, serverError: 1, busy: BUSY_RETRIES_MAX }
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
      if (msUntilLate(deadline) <= 0) throw new GatewayError(unlessUnclear('wechat_unreachable', unclear))
      const attempt = await hosts.askFirstClosed(
        {
          purpose: 'exchange',
          appid: app.appid,
          origins,
          startIndex,
          request: platform.request(app, credential.text.reveal(), code),
          read: (answer): LiveAnswer | DeadAnswer => platform.read(answer, app),
        },
        deadline,
      )
      if (attempt.outcome !== 'unreachable' && attempt.outcome !== 'circuit_open') onSent()
      switch (attempt.outcome) {
        case 'ok':
          accepted(app, credential)
          quotas.answered(app.appid, ip, false)
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
          quotas.answered(app.appid, ip, errcodes.answerTo(errcode) === 'wechat_rate_limited')
          if (errcodes.appRefused.has(errcode)) gates.refused(app, errcode)
          else if (!errcodes.credentialInvalid.has(errcode)) accepted(app, credential)
          throw refusal(errcodes, errcode, rid, { unclear, askedBefore: unclear || wasBusy || earlierLeader })
        }

        case 'busy':
          onErrcode(app, ERRCODE_BUSY, attempt.rid)
          if (retries.busy-- > 0 && busyBudget.spend() && (await pausedWithin(deadline, 100, 400))) {
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
            (otherHosts-- > 0 || retryBudget.spend()) &&
            (await pausedWithin(deadline, 50, 150))
          ) {
            continue
          }
          throw new GatewayError(unlessUnclear('wechat_unreachable', unclear || mayBeUsed), {
            cause: attempt.error,
          })

        case 'reset':
          unclear = true
          if (attempt.error.staleSocket && retries.stale-- > 0 && retryBudget.spend()) continue
          throw new GatewayError('wechat_failed', { cause: attempt.error })

        case 'server_error':
          unclear = true
          if (
            retries.serverError-- > 0 &&
            msLeft(deadline) >= SERVER_ERROR_RETRY_LEFT_MS &&
            retryBudget.spend() &&
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
}

/** A token bucket: each call earns a share of a retry, and each retry spends a whole one. */
function createBudget({ share, creditMax }: { share: number; creditMax: number }) {
  let credit = creditMax
  return {
    earn(): void {
      credit = Math.min(credit + share, creditMax)
    },
    spend(): boolean {
      if (credit < 1) return false
      credit -= 1
      return true
    },
  }
}

/** So many in each stretch of time. */
function createRate(count: number, withinMs: number) {
  let left = 0
  let endsAtMs = 0
  return {
    take(): boolean {
      const nowMs = performance.now()
      if (nowMs >= endsAtMs) [left, endsAtMs] = [count, nowMs + withinMs]
      if (left === 0) return false
      left -= 1
      return true
    },
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
  return answer === 'wechat_rate_limited'
    ? quotaUsedUp({ errcode, rid })
    : new GatewayError(answer, { errcode, rid })
}

/** After an attempt that may have used the code up, the client must not be told to send it again. */
function unlessUnclear(code: ErrorCode, unclear: boolean): ErrorCode {
  return unclear && ERRORS[code].retry === 'same_code' ? 'wechat_failed' : code
}

/** Pauses for a random time; false when it is too late for another call then. */
async function pausedWithin(deadline: AbortSignal, minMs: number, maxMs: number): Promise<boolean> {
  try {
    await pause(minMs + Math.random() * (maxMs - minMs), undefined, { signal: deadline })
    return msUntilLate(deadline) > 0
  } catch {
    return false // the pause was cut by the deadline
  }
}
