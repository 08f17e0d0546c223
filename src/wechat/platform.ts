/**
 * A platform: how a code is put to it, and how its answer reads. The exchange (code2session.ts) does the rest,
 * which is the same for all: hosts, breakers, deadline, retries.
 *
 * The adapters in platforms/ are pure but for the credentials of two of them, which have to be got first.
 */
import type { App } from '../app-entry.ts'
import type { Secret } from '../secret.ts'
import type { DeadAnswer, LiveAnswer } from './answer.ts'
import type { Answer } from './calls.ts'
import type { ErrcodeTable } from './errcode-table.ts'

/** One of these for each kind of app. */
export interface Platform {
  /** In order of preference. */
  readonly origins: readonly string[]
  readonly errcodes: ErrcodeTable
  /**
   * What proves to the platform who asks.
   * Rejects with app_misconfigured, wechat_busy, wechat_rate_limited, wechat_unreachable, wechat_circuit_open: the
   * code has not been sent.
   */
  credential(app: App, deadline: AbortSignal): Credential | Promise<Credential>
  request(app: App, credential: string, code: string): PlatformRequest
  /** By its content, for platforms say "200" and "text/plain" of everything. */
  read(answer: Answer, app: App): LiveAnswer | DeadAnswer
}

/** A secret of the app, or an access_token got with one. */
export interface Credential {
  readonly text: Secret<string>
  /**
   * Another one, worth a try after the platform has refused this one; undefined when there is none. A chain of
   * them ends: after the second secret, after one renewal.
   */
  next(deadline: AbortSignal): Credential | undefined | Promise<Credential | undefined>
  /** The platform has taken it, whatever it said of the code. */
  worked?(): void
}

/** Secret as a whole: it holds the credential and the code. */
export interface PlatformRequest {
  /** With its query. */
  readonly path: string
  /** The body of a POST; a GET has none. */
  readonly json?: string
}

/** A path with its query. Encoded by URLSearchParams: a code can add no parameter. */
export function pathOf(path: string, query: Readonly<Record<string, string>>): string {
  return `${path}?${new URLSearchParams(query).toString()}`
}
