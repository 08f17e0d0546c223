/**
 * WeChat's calls beside the login: what they are, on which host, and what an answer means.
 *
 * Nothing is sent twice by itself once it may have left, for one of these calls costs money: only a host that
 * cannot be reached is passed over. The hosts have breakers of their own here, so that a WeChat whose phone
 * numbers fail does not close the login.
 *
 * The address of a call holds an access_token and the body of stable_token the AppSecret: neither is in
 * anything that is returned, thrown or observed.
 */
import { msUntilLate } from '../deadline.ts'
import { GatewayError } from '../errors.ts'
import type { ErrorCode } from '../errors.ts'
import { readFields } from './answer.ts'
import type { FieldsAnswer } from './answer.ts'
import { apiAnswerTo } from './api-errcodes.ts'
import type { ApiName } from './api-errcodes.ts'
import { CircuitOpenError } from './breaker.ts'
import type { Breaker, Breakers, BreakerState } from './breaker.ts'
import type { Bulkhead } from './bulkhead.ts'
import { CallError } from './calls.ts'
import type { Calls } from './calls.ts'
import { ERRCODE_BUSY } from './errcodes.ts'

const APIS = {
  stable_token: { method: 'POST', path: '/cgi-bin/stable_token' },
  phone_number: { method: 'POST', path: '/wxa/business/getuserphonenumber' },
  check_session_key: { method: 'GET', path: '/wxa/checksession' },
  reset_session_key: { method: 'GET', path: '/wxa/resetusersessionkey' },
} as const satisfies Record<ApiName, { method: 'GET' | 'POST'; path: string }>

export interface ApiRequest {
  name: ApiName
  appid: string
  query?: Readonly<Record<string, string>>
  /** Of a POST. */
  body?: Readonly<Record<string, unknown>>
}

/** WeChat has understood the request. */
export type ApiAnswer = Extract<FieldsAnswer, { outcome: 'ok' | 'refused' }>

export type ApiOutcome = FieldsAnswer['outcome'] | 'unreachable' | 'timeout' | 'reset' | 'circuit_open'

export interface ApiObserver {
  onCall(call: { name: ApiName; outcome: ApiOutcome; seconds: number }): void
  /** WeChat answered with an errcode other than 0. */
  onErrcode(name: ApiName, appid: string, errcode: number, rid: string | undefined): void
  onFailure(host: string, name: ApiName, outcome: ApiOutcome): void
  onBreaker(host: string, state: BreakerState): void
}

export interface Api {
  /**
   * Resolves with what WeChat said, also with a refusal, of which refusalOf() makes an error.
   *
   * Rejects with wechat_busy, wechat_unreachable, wechat_circuit_open, overloaded: nothing was done. And with
   * wechat_call_failed: whether it was done is not known.
   */
  ask(request: ApiRequest, deadline: AbortSignal): Promise<ApiAnswer>
}

/** @param apiUrls origins in order of preference; @param breakers made for calls as long as any deadline given to ask() */
export function createApi(
  { calls, breakers, bulkhead }: { calls: Calls; breakers: Breakers; bulkhead: Bulkhead },
  { apiUrls }: { apiUrls: readonly string[] },
  observer: ApiObserver,
): Api {
  const hosts = apiUrls.map((origin) => {
    const { host } = new URL(origin)
    const onState = (state: BreakerState) => observer.onBreaker(host, state)
    return { origin, host, breaker: breakers.create(`${host} api`, onState) }
  })

  return {
    async ask(request, deadline) {
      if (deadline.aborted) throw new GatewayError('overloaded')
      return bulkhead.run(request.appid, deadline, () => askFirstReachable(request, deadline))
    },
  }

  async function askFirstReachable(request: ApiRequest, deadline: AbortSignal): Promise<ApiAnswer> {
    let last: GatewayError | undefined
    for (const host of hosts) {
      if (msUntilLate(deadline) <= 0) break
      try {
        return await askHost(host, request, deadline)
      } catch (error) {
        // Both mean that nothing of the request has left; anything else may have reached WeChat.
        const isSpared = error instanceof GatewayError && SPARED.has(error.code)
        if (!isSpared) throw error
        last = last?.code === 'wechat_unreachable' ? last : error
      }
    }
    throw last ?? new GatewayError('wechat_unreachable')
  }

  async function askHost(
    { origin, host, breaker }: { origin: string; host: string; breaker: Breaker },
    request: ApiRequest,
    deadline: AbortSignal,
  ): Promise<ApiAnswer> {
    const { name, appid } = request
    const startedMs = performance.now()
    const observe = (outcome: ApiOutcome) =>
      observer.onCall({ name, outcome, seconds: (performance.now() - startedMs) / 1000 })
    try {
      return await breaker.run(async () => {
        const answer = await send(origin, request, deadline).then(readFields, failedCall)
        observe(answer.outcome)
        if (answer.outcome === 'refused') observer.onErrcode(name, appid, answer.errcode, answer.rid)
        if (answer.outcome === 'ok' || answer.outcome === 'refused') return answer
        observer.onFailure(host, name, answer.outcome)
        throw failure(answer)
      }, appid)
    } catch (error) {
      if (!(error instanceof CircuitOpenError)) throw error
      observe('circuit_open')
      throw new GatewayError('wechat_circuit_open')
    }
  }

  function send(origin: string, { name, query, body }: ApiRequest, deadline: AbortSignal) {
    const { method, path } = APIS[name]
    const address = query === undefined ? path : `${path}?${new URLSearchParams(query).toString()}`
    return method === 'GET'
      ? calls.get(origin, address, deadline)
      : calls.post(origin, address, JSON.stringify(body ?? {}), deadline)
  }
}

const SPARED: ReadonlySet<ErrorCode> = new Set(['wechat_unreachable', 'wechat_circuit_open'])

type Failed =
  | Exclude<FieldsAnswer, ApiAnswer>
  | { outcome: 'unreachable' | 'timeout' | 'reset'; error: CallError }

function failedCall(error: unknown): Failed {
  if (!(error instanceof CallError)) throw error
  if (error.failure === 'oversize') return { outcome: 'invalid', reason: 'the answer is too large' }
  return { outcome: error.failure, error }
}

function failure(failed: Failed): GatewayError {
  switch (failed.outcome) {
    case 'busy':
      return new GatewayError('wechat_busy', { errcode: ERRCODE_BUSY, rid: failed.rid })
    case 'unreachable':
      return new GatewayError('wechat_unreachable', { cause: failed.error })
    case 'timeout':
    case 'reset':
      return new GatewayError('wechat_call_failed', { cause: failed.error })
    case 'server_error':
      return new GatewayError('wechat_call_failed', { cause: new Error(`HTTP status ${failed.status}`) })
    case 'invalid':
      return new GatewayError('wechat_call_failed', { cause: new Error(failed.reason) })
  }
}

/** The error for a refusal. */
export function refusalOf(
  name: ApiName,
  { errcode, rid }: Extract<ApiAnswer, { outcome: 'refused' }>,
): GatewayError {
  return new GatewayError(apiAnswerTo(name, errcode), { errcode, rid })
}

/** An answer without errcode that lacks what it should hold. */
export function senseless(reason: string): GatewayError {
  return new GatewayError('wechat_call_failed', { cause: new Error(reason) })
}
