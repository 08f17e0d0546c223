/**
 * The hosts of the platforms, each with a breaker of its own, which all who use the host share.
 *
 * One attempt is one call to the first host whose circuit is closed. Whether another may follow is for the
 * caller to say, who knows what is at stake.
 */
import type { DeadAnswer, LiveAnswer } from './answer.ts'
import { CircuitOpenError } from './breaker.ts'
import type { Breaker, Breakers, BreakerState } from './breaker.ts'
import { CallError } from './calls.ts'
import type { Answer, Calls } from './calls.ts'
import type { PlatformRequest } from './platform.ts'

/** What the host said, when it was well: a success with what was read from it, or a refusal. */
export type Live<Success> = ({ outcome: 'ok' } & Success) | Extract<LiveAnswer, { outcome: 'refused' }>

export type DeadAttempt = DeadAnswer | { outcome: 'unreachable' | 'timeout' | 'reset'; error: CallError }

export type Attempt<Success> =
  | Live<Success>
  | (DeadAttempt & {
      /** Where among the origins to go on. */
      nextIndex: number
    })
  | { outcome: 'circuit_open' }

/** What is asked for: the label by which calls are told apart. */
export type Purpose = 'exchange' | 'access_token'

export type CallOutcome = LiveAnswer['outcome'] | DeadAttempt['outcome']

export interface HostsObserver {
  onCall(call: {
    host: string
    purpose: Purpose
    outcome: CallOutcome
    seconds: number
    /** What a refusal was, and of which app. */
    refused: { appid: string; errcode: number } | undefined
  }): void
  /** The host could not be used: what the log should know, free of secrets. */
  onFailure(host: string, outcome: CallOutcome, reason: string): void
  onBreaker(host: string, state: BreakerState): void
}

interface Question<Success> {
  purpose: Purpose
  appid: string
  /** In order of preference. */
  origins: readonly string[]
  startIndex: number
  request: PlatformRequest
  read(answer: Answer): Live<Success> | DeadAnswer
}

export interface Hosts {
  /** Makes the breakers of these hosts now, so that metrics show them. Others are made when first asked. */
  know(origins: readonly string[]): void
  /** Whether askFirstClosed() would call one of them. */
  isAnyPassable(origins: readonly string[]): boolean
  /** Calls the first host from `startIndex` on whose circuit is not open. */
  askFirstClosed<Success>(question: Question<Success>, deadline: AbortSignal): Promise<Attempt<Success>>
}

/** @param breakers made for calls as long as any deadline given to askFirstClosed() */
export function createHosts(
  { calls, breakers }: { calls: Calls; breakers: Breakers },
  observer: HostsObserver,
): Hosts {
  const hosts = new Map<string, { host: string; breaker: Breaker }>()

  return {
    know(origins) {
      for (const origin of origins) hostOf(origin)
    },
    isAnyPassable: (origins) => origins.some((origin) => hostOf(origin).breaker.isPassable()),
    async askFirstClosed(question, deadline) {
      const { origins, startIndex } = question
      for (let step = 0; step < origins.length; step += 1) {
        const index = (startIndex + step) % origins.length
        const origin = origins[index]
        if (origin === undefined) break
        const { host, breaker } = hostOf(origin)
        try {
          return await breaker.run(() => askOnce(origin, host, question, deadline), question.appid)
        } catch (error) {
          if (error instanceof CircuitOpenError) continue
          if (error instanceof FailedAttempt)
            return { ...error.attempt, nextIndex: (index + 1) % origins.length }
          throw error
        }
      }
      return { outcome: 'circuit_open' }
    },
  }

  function hostOf(origin: string): { host: string; breaker: Breaker } {
    const known = hosts.get(origin)
    if (known !== undefined) return known
    const { host } = new URL(origin)
    const onState = (state: BreakerState) => observer.onBreaker(host, state)
    const made = { host, breaker: breakers.create(host, onState) }
    hosts.set(origin, made)
    return made
  }

  /** Resolves with what proves the host alive; throws what the breaker has to count. */
  async function askOnce<Success>(
    origin: string,
    host: string,
    { purpose, appid, request, read }: Question<Success>,
    deadline: AbortSignal,
  ): Promise<Live<Success>> {
    const startedMs = performance.now()
    const attempt = await send(origin, request, deadline).then(read, failedCall)
    const seconds = (performance.now() - startedMs) / 1000
    const refused = attempt.outcome === 'refused' ? { appid, errcode: attempt.errcode } : undefined
    observer.onCall({ host, purpose, outcome: attempt.outcome, seconds, refused })
    if (attempt.outcome === 'ok' || attempt.outcome === 'refused') return attempt
    observer.onFailure(host, attempt.outcome, reasonOf(attempt))
    throw new FailedAttempt(attempt)
  }

  function send(origin: string, { path, json }: PlatformRequest, deadline: AbortSignal): Promise<Answer> {
    return json === undefined ? calls.get(origin, path, deadline) : calls.post(origin, path, json, deadline)
  }
}

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
