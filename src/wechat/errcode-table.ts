/**
 * What the error numbers of one platform mean. The tables themselves are data: errcodes.ts for WeChat, and one
 * beside each adapter in platforms/, for the same number can mean another thing elsewhere.
 */
import type { ErrorCode } from '../errors.ts'

export interface ErrcodeSpec {
  /** For the operator's log. */
  readonly meaning: string
  /** Our code for the client. */
  readonly answer: ErrorCode
}

/** What some numbers say beyond our answer to them. */
export interface ErrcodeHints {
  /** The code is gone: after an unclear attempt it means that this attempt used it. */
  readonly codeGone: ReadonlySet<number>
  /** The secret or access_token does not work: worth a try with another, if there is one. */
  readonly credentialInvalid: ReadonlySet<number>
  /** The app itself is refused, whoever its user is. These shut the app's gate (app-gate.ts). */
  readonly appRefused: ReadonlySet<number>
}

export interface ErrcodeTable extends ErrcodeHints {
  /** Unknown ones are refusals that somebody has to look up. */
  answerTo(errcode: number): ErrorCode
  /** A metric label: of a closed set, for a platform may send any number. */
  labelOf(errcode: number): string
  meaningOf(errcode: number): string
}

/** The table of one platform. */
export function createErrcodeTable(
  specs: Readonly<Record<number, ErrcodeSpec>>,
  hints: ErrcodeHints,
): ErrcodeTable {
  return {
    ...hints,
    answerTo: (errcode) => specs[errcode]?.answer ?? 'wechat_refused',
    labelOf: (errcode) => (specs[errcode] === undefined ? 'other' : String(errcode)),
    meaningOf: (errcode) => specs[errcode]?.meaning ?? 'not in the table of this gateway',
  }
}
