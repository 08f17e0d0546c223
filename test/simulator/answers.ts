/**
 * The shape of WeChat's answers, byte for byte as far as captures tell.
 *
 * HTTP 200 for success and failure alike; `text/plain` on /sns/* although the body is JSON; "/" escaped
 * as "\/"; no errcode when code2Session succeeds; and an errmsg that ends in a request id whose first
 * part is the time in hexadecimal seconds, joined with a comma on /sns/* and a space elsewhere.
 */
import { ERRMSG } from './errcodes.ts'
import type { Random } from './random.ts'
import { ALPHANUMERIC, HEX } from './random.ts'

/** Which house style an endpoint answers in: `sns` for /sns/*, `api` for /cgi-bin/* and /wxa/*. */
export type Style = 'sns' | 'api'

/** An answer before any fault is played on it. */
export interface Answer {
  status: number
  contentType: string
  body: string
  /** 'ok', or the errcode. */
  outcome: 'ok' | number
}

export type Answers = ReturnType<typeof createAnswers>

/** `errmsgStyle`: 'rid' as today, or 'req_id' as until about 2021, which old clients may still parse. */
export function createAnswers(
  { random, now }: { random: Random; now: () => number },
  { errmsgStyle }: { errmsgStyle: 'rid' | 'req_id' },
) {
  function requestId(style: Style): string {
    if (errmsgStyle === 'req_id') {
      const id = `${random.text(ALPHANUMERIC, 9)}-${random.text(ALPHANUMERIC, 6)}`
      return style === 'sns' ? `, hints: [ req_id: ${id} ]` : ` hint: [${id}]`
    }
    const seconds = Math.floor(now() / 1000)
      .toString(16)
      .padStart(8, '0')
    const rid = `rid: ${seconds}-${random.text(HEX, 8)}-${random.text(HEX, 8)}`
    return style === 'sns' ? `, ${rid}` : ` ${rid}`
  }

  return {
    success: (style: Style, fields: object): Answer => write(style, fields, 'ok'),
    /** `errmsg` replaces the usual text of the errcode; the request id is added to both. */
    failure(style: Style, errcode: number, errmsg = ERRMSG[errcode] ?? 'error'): Answer {
      return write(style, { errcode, errmsg: `${errmsg}${requestId(style)}` }, errcode)
    },
  }
}

function write(style: Style, fields: object, outcome: 'ok' | number): Answer {
  return {
    status: 200,
    contentType: style === 'sns' ? 'text/plain' : 'application/json; encoding=utf-8',
    body: JSON.stringify(fields).replaceAll('/', '\\/'),
    outcome,
  }
}
