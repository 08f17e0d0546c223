/**
 * What an answer of code2Session says. Pure: text in, meaning out.
 *
 * Nothing of it is trusted for being WeChat's: an answer that lacks what a login needs, or holds it in
 * another form, is no answer.
 */
import type { WechatIdentity } from '../login.ts'
import type { Answer } from './calls.ts'
import { ERRCODE_BUSY } from './errcodes.ts'

/** WeChat has understood the request: the user, or a refusal that is final for this code. */
export type LiveAnswer =
  | { outcome: 'ok'; identity: Omit<WechatIdentity, 'appid'> }
  | { outcome: 'refused'; errcode: number; rid: string | undefined }

/** WeChat is not well; the breaker counts these. */
export type DeadAnswer =
  | { outcome: 'busy'; rid: string | undefined }
  | { outcome: 'server_error'; status: number }
  | { outcome: 'invalid'; reason: string }

/**
 * Reads an answer of code2Session. By its content: WeChat sends its JSON as text/plain.
 * A success has openid and session_key and no errcode, or errcode 0.
 */
export function readAnswer({ status, body }: Answer): LiveAnswer | DeadAnswer {
  if (status >= 500) return { outcome: 'server_error', status }
  if (status !== 200) return { outcome: 'invalid', reason: `HTTP status ${status}` }
  return parseAnswer(body)
}

function parseAnswer(body: string): LiveAnswer | DeadAnswer {
  const text = body.startsWith('\uFEFF') ? body.slice(1) : body
  let parsed: unknown
  try {
    parsed = JSON.parse(text)
  } catch {
    // A load balancer's page says that WeChat's server was not there; cut JSON may have been its answer.
    return text.trimStart().startsWith('<')
      ? { outcome: 'server_error', status: 200 }
      : { outcome: 'invalid', reason: 'not JSON' }
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) {
    return { outcome: 'invalid', reason: 'not a JSON object' }
  }
  const answer = parsed as Record<string, unknown>

  const errcode = answer['errcode'] === undefined ? 0 : Number(answer['errcode']) // an older page shows it as text
  if (!Number.isInteger(errcode)) return { outcome: 'invalid', reason: 'errcode is not a number' }
  if (errcode !== 0) {
    const rid = ridOf(answer['errmsg'])
    return errcode === ERRCODE_BUSY ? { outcome: 'busy', rid } : { outcome: 'refused', errcode, rid }
  }

  const openid = answer['openid']
  const unionid = answer['unionid'] === '' ? undefined : answer['unionid']
  if (!isOpaqueId(openid)) return { outcome: 'invalid', reason: 'openid is missing or malformed' }
  if (unionid !== undefined && !isOpaqueId(unionid))
    return { outcome: 'invalid', reason: 'unionid is malformed' }
  const sessionKey = decodeSessionKey(answer['session_key'])
  if (sessionKey === undefined) return { outcome: 'invalid', reason: 'session_key is missing or malformed' }
  return { outcome: 'ok', identity: { openid, unionid, sessionKey } }
}

/** WeChat promises no form; it must only fit a header, a key and a log line. */
function isOpaqueId(value: unknown): value is string {
  return typeof value === 'string' && /^[\x21-\x7e]{1,128}$/.test(value)
}

const SESSION_KEY_BYTES = 16

/** Its 16 bytes. The text WeChat gave must be the one that encoding them gives: some uses take the text. */
function decodeSessionKey(value: unknown): Buffer | undefined {
  if (typeof value !== 'string') return undefined
  const bytes = Buffer.from(value, 'base64')
  return bytes.length === SESSION_KEY_BYTES && bytes.toString('base64') === value ? bytes : undefined
}

/** WeChat's request id out of an errmsg such as "invalid code, rid: 623ea70a-74b9b592-3e3d489a". */
function ridOf(errmsg: unknown): string | undefined {
  return typeof errmsg === 'string'
    ? /\brid: ([0-9a-f]{8}-[0-9a-f]{8}-[0-9a-f]{8})/.exec(errmsg)?.[1]
    : undefined
}
