/**
 * The shape of WeChat's answers, byte for byte as far as captures tell.
 *
 * HTTP 200 for success and failure alike; `text/plain` on /sns/* although the body is JSON; "/" escaped
 * as "\/"; no errcode when code2Session succeeds; and an errmsg that ends in a request id whose first
 * part is the time in hexadecimal seconds, joined with a comma on /sns/* and a space elsewhere.
 */
import { DOUYIN_ERR_TIPS, ERRMSG } from './errcodes.ts'
import type { Random } from './random.ts'
import { ALPHANUMERIC, DIGITS, HEX } from './random.ts'

/** Which house style an endpoint answers in: `sns` for /sns/*, `api` for WeChat's /cgi-bin/* and /wxa/*. */
export type Style = 'sns' | 'api' | 'wecom' | 'douyin'

/** The style of whatever is at a path. */
export function styleOf(path: string): Style {
  if (path.startsWith('/sns/')) return 'sns'
  if (path === '/cgi-bin/gettoken' || path.startsWith('/cgi-bin/miniprogram/')) return 'wecom'
  return path.startsWith('/api/apps/') ? 'douyin' : 'api'
}

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
    if (style === 'wecom') {
      const hint = `${Math.floor(now() / 1000)}_${random.text(DIGITS, 2)}_${random.text(HEX, 32)}`
      return `, hint: [${hint}], from ip: 127.0.0.1, more info at https://open.work.weixin.qq.com/devtool/query`
    }
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
    success(style: Style, fields: object): Answer {
      if (style !== 'douyin') return write(style, fields, 'ok')
      return writeDouyin({ err_no: 0, err_tips: 'success', data: fields }, 'ok')
    },
    /** `text` replaces the usual one of the errcode; the request id is added to both. */
    failure(style: Style, errcode: number, text?: string): Answer {
      if (style === 'douyin') {
        const data = { session_key: '', openid: '', anonymous_openid: '', unionid: '', dopenid: '' }
        const err_tips = text ?? DOUYIN_ERR_TIPS[errcode] ?? 'error'
        return writeDouyin({ err_no: errcode, err_tips, data }, errcode)
      }
      const errmsg = text ?? ERRMSG[errcode] ?? 'error'
      return write(style, { errcode, errmsg: `${errmsg}${requestId(style)}` }, errcode)
    },
  }

  function writeDouyin(fields: object, outcome: Answer['outcome']): Answer {
    const body = JSON.stringify({ ...fields, log_id: `${now()}${random.text(HEX, 16)}` })
    return { status: 200, contentType: 'application/json; charset=utf-8', body, outcome }
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
