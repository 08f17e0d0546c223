/**
 * What an answer of WeChat says, that of code2Session above all. Pure: text in, meaning out.
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

/** The fields of a success, unread; or what came instead. */
export type FieldsAnswer =
  | { outcome: 'ok'; fields: Readonly<Record<string, unknown>> }
  | Extract<LiveAnswer, { outcome: 'refused' }>
  | DeadAnswer

/**
 * Reads an answer of code2Session. By its content: WeChat sends its JSON as text/plain.
 * A success has openid and session_key and no errcode, or errcode 0.
 */
export function readAnswer(answer: Answer): LiveAnswer | DeadAnswer {
  const read = readFields(answer)
  if (read.outcome !== 'ok') return read
  const { openid, unionid, session_key } = read.fields
  return readIdentity({ openid, unionid, session_key })
}

/** Who logs in, of what a platform says under names of its own. An empty unionid is none. */
export function readIdentity({
  openid,
  unionid,
  session_key,
}: Readonly<Record<'openid' | 'unionid' | 'session_key', unknown>>):
  | Extract<LiveAnswer, { outcome: 'ok' }>
  | Extract<DeadAnswer, { outcome: 'invalid' }> {
  if (!isOpaqueId(openid)) return { outcome: 'invalid', reason: 'openid is missing or malformed' }
  const union = unionid === '' ? undefined : unionid
  if (union !== undefined && !isOpaqueId(union)) return { outcome: 'invalid', reason: 'unionid is malformed' }
  const sessionKey = decodeSessionKey(session_key)
  if (sessionKey === undefined) return { outcome: 'invalid', reason: 'session_key is missing or malformed' }
  return { outcome: 'ok', identity: { openid, unionid: union, sessionKey } }
}

/** Reads an answer of any of WeChat's calls as far as they are alike: JSON, and errcode 0 or none for success. */
export function readFields(answer: Answer): FieldsAnswer {
  const read = readObject(answer)
  if (read.outcome !== 'ok') return read
  const { fields } = read
  const errcode = parseErrcode(fields['errcode'])
  if (errcode === undefined) return { outcome: 'invalid', reason: 'errcode is not a number' }
  if (errcode === 0) return { outcome: 'ok', fields }
  const rid = ridOf(fields['errmsg'])
  return errcode === ERRCODE_BUSY ? { outcome: 'busy', rid } : { outcome: 'refused', errcode, rid }
}

/** Reads an answer of any platform as far as they are alike: JSON, and an object. */
export function readObject({
  status,
  body,
}: Answer): Extract<FieldsAnswer, { outcome: 'ok' | 'server_error' | 'invalid' }> {
  if (status >= 500) return { outcome: 'server_error', status }
  if (status !== 200) return { outcome: 'invalid', reason: `HTTP status ${status}` }
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
  return isRecord(parsed)
    ? { outcome: 'ok', fields: parsed }
    : { outcome: 'invalid', reason: 'not a JSON object' }
}

/** Whether a value is a JSON object. */
export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** A number; an older page of the documentation shows it as text. Absent from a success: 0. */
export function parseErrcode(value: unknown): number | undefined {
  if (value === undefined) return 0
  const isText = typeof value === 'string' && /^-?\d{1,10}$/.test(value)
  if (typeof value !== 'number' && !isText) return undefined
  return Number.isSafeInteger(Number(value)) ? Number(value) : undefined
}

/** WeChat promises no form; it must only fit a header, a key and a log line. */
function isOpaqueId(value: unknown): value is string {
  return typeof value === 'string' && /^[\x21-\x7e]{1,128}$/.test(value)
}

const SESSION_KEY_BYTES = 16

/** Its 16 bytes. The text WeChat gave must be the one that encoding them gives: some uses take the text. */
export function decodeSessionKey(value: unknown): Buffer | undefined {
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
