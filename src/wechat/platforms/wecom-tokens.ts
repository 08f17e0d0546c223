/**
 * access_tokens of WeCom, one an app, for the life that WeCom states (two hours).
 *
 * Each gateway holds its own, in memory: gettoken gives all who ask the same token while it lives, so gateways
 * neither end each other's nor have to share. WeCom shuts out whoever asks too often; so there is one request at a
 * time for an app, a pause after one that failed, and a limit on renewals out of turn.
 *
 * Source: https://developer.work.weixin.qq.com/document/path/91039
 */
import type { App } from '../../app-entry.ts'
import { GatewayError } from '../../errors.ts'
import { Secret } from '../../secret.ts'
import { readFields } from '../answer.ts'
import type { DeadAnswer } from '../answer.ts'
import { createAppSecrets } from '../app-secrets.ts'
import type { Answer } from '../calls.ts'
import type { ErrcodeTable } from '../errcode-table.ts'
import type { Attempt, Hosts, Live } from '../hosts.ts'
import { pathOf } from '../platform.ts'
import { withinDeadline } from '../within-deadline.ts'

/** Not used in the last moments of its life, in which it could expire on its way. */
const MARGIN_MS = 10_000
/** Held so long at least, whatever life WeCom states: or each login would ask for one. */
const HOLD_MS_MIN = 10_000
/** Of one app: renewals of a token that should still live. One comes back every half minute. */
const RENEWALS_MAX = 5
const RENEWAL_EVERY_MS = 30_000
/** After a failure all who want a token are told of it for this long, without another request. */
const FAILURE_PAUSE_MS = 1_000
/** Asking twice for a token does no harm. */
const ATTEMPTS_MAX = 2
/** WeCom states 512 bytes at most. */
const TOKEN_FORM = /^[\x21-\x7e]{16,1024}$/

export interface WecomTokens {
  /**
   * Rejects with app_misconfigured, wechat_rate_limited, wechat_refused, wechat_busy, wechat_unreachable,
   * wechat_circuit_open.
   */
  get(app: App, deadline: AbortSignal): Promise<Secret<string>>
  /** After WeCom refused this token: another, or undefined when there is none. Rejects as get() does. */
  renew(app: App, refused: Secret<string>, deadline: AbortSignal): Promise<Secret<string> | undefined>
}

export interface WecomTokensDeps {
  hosts: Hosts
  /** Those of gettoken. */
  errcodes: ErrcodeTable
  /** gettoken answered with an errcode other than 0. */
  onErrcode(app: App, errcode: number, rid: string | undefined): void
}

interface Token {
  readonly text: Secret<string>
  readonly endsAtMs: number
}

interface Holder {
  token: Token | undefined
  /** The request for a token that is under way; all who wait share it. */
  flight: Promise<Token> | undefined
  failure: { readonly error: unknown; readonly untilMs: number } | undefined
  renewals: number
  renewedAtMs: number
}

/** @param timeoutMs for one token, whoever waits for it */
export function createWecomTokens(
  { hosts, errcodes, onErrcode }: WecomTokensDeps,
  { origins, timeoutMs }: { origins: readonly string[]; timeoutMs: number },
): WecomTokens {
  const secrets = createAppSecrets()
  /** By the app as it is: one that has changed, its secret for instance, begins anew. */
  const holders = new WeakMap<App, Holder>()

  return {
    async get(app, deadline) {
      const holder = holderOf(app)
      const { token } = holder
      if (token !== undefined && performance.now() < token.endsAtMs) return token.text
      return (await withinDeadline(fetchOnce(app, holder), deadline)).text
    },
    async renew(app, refused, deadline) {
      const holder = holderOf(app)
      const isHeld = holder.token?.text.reveal() === refused.reveal()
      if (isHeld && holder.flight === undefined && !spendRenewal(holder)) return undefined
      // Not held any more: somebody has renewed it, or is doing so.
      const renewed =
        isHeld || holder.token === undefined
          ? await withinDeadline(fetchOnce(app, holder), deadline)
          : holder.token
      return renewed.text.reveal() === refused.reveal() ? undefined : renewed.text
    },
  }

  function holderOf(app: App): Holder {
    const known = holders.get(app)
    if (known !== undefined) return known
    const made: Holder = {
      token: undefined,
      flight: undefined,
      failure: undefined,
      renewals: 0,
      renewedAtMs: performance.now(),
    }
    holders.set(app, made)
    return made
  }

  function spendRenewal(holder: Holder): boolean {
    const regained = Math.floor((performance.now() - holder.renewedAtMs) / RENEWAL_EVERY_MS)
    holder.renewals = Math.max(0, holder.renewals - regained)
    if (holder.renewals >= RENEWALS_MAX) return false
    holder.renewals += 1
    holder.renewedAtMs = performance.now()
    return true
  }

  function fetchOnce(app: App, holder: Holder): Promise<Token> {
    if (holder.flight !== undefined) return holder.flight
    const { failure } = holder
    if (failure !== undefined && performance.now() < failure.untilMs) return Promise.reject(failure.error)
    holder.token = undefined
    const flight = fetchToken(app)
      .then((token) => {
        holder.token = token
        return token
      })
      .catch((error: unknown) => {
        holder.failure = { error, untilMs: performance.now() + FAILURE_PAUSE_MS }
        throw error
      })
      .finally(() => {
        holder.flight = undefined
      })
    flight.catch(ignore) // everybody who waited may have left
    holder.flight = flight
    return flight
  }

  /** Not under the deadline of the login that happened to come first: others wait as well. */
  async function fetchToken(app: App): Promise<Token> {
    const deadline = AbortSignal.timeout(timeoutMs)
    let secret = secrets.credential(app)
    let startIndex = 0
    let attempts = 0
    for (;;) {
      const path = pathOf('/cgi-bin/gettoken', {
        corpid: app.extra['corpid'] ?? '',
        corpsecret: secret.text.reveal(),
      })
      const question = {
        purpose: 'access_token',
        appid: app.appid,
        origins,
        startIndex,
        request: { path },
        read: readToken,
      } as const
      const attempt = await hosts.askFirstClosed(question, deadline)
      if (attempt.outcome === 'ok') {
        secret.worked?.()
        return attempt.token
      }
      if (attempt.outcome === 'refused') {
        const { errcode, rid } = attempt
        onErrcode(app, errcode, rid)
        const other = errcodes.credentialInvalid.has(errcode) ? secret.next() : undefined
        if (other === undefined) throw new GatewayError(errcodes.answerTo(errcode), { errcode, rid })
        secret = other
        continue
      }
      attempts += 1
      if (attempt.outcome === 'circuit_open' || attempts >= ATTEMPTS_MAX || deadline.aborted)
        throw failureOf(attempt)
      startIndex = attempt.nextIndex
    }
  }
}

/** The code was not sent, so that it can be sent again. */
function failureOf(attempt: Exclude<Attempt<object>, Live<object>>): GatewayError {
  switch (attempt.outcome) {
    case 'circuit_open':
      return new GatewayError('wechat_circuit_open')
    case 'busy':
      return new GatewayError('wechat_busy', { errcode: -1, rid: attempt.rid })
    default:
      return new GatewayError('wechat_unreachable', {
        cause: new Error(`no access_token: ${attempt.outcome}`),
      })
  }
}

function readToken(answer: Answer): Live<{ token: Token }> | DeadAnswer {
  const read = readFields(answer)
  if (read.outcome !== 'ok') return read
  const { access_token, expires_in } = read.fields
  if (typeof access_token !== 'string' || !TOKEN_FORM.test(access_token))
    return { outcome: 'invalid', reason: 'access_token is missing or malformed' }
  if (typeof expires_in !== 'number' || !(expires_in > 0 && expires_in <= 86_400))
    return { outcome: 'invalid', reason: 'expires_in is missing or malformed' }
  const holdMs = Math.max(expires_in * 1000 - MARGIN_MS, HOLD_MS_MIN)
  return {
    outcome: 'ok',
    token: { text: new Secret(access_token), endsAtMs: performance.now() + holdMs },
  }
}

function ignore(): void {}
