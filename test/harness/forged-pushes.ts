/** Pushes as somebody might send them who is not WeChat: right, but for what a test says. */
import { APPID } from './environment.ts'
import type { PushHarness } from './pushes.ts'
import { encryptPush, signPush, writeMessage } from '../simulator/push-envelope.ts'
import type { Message } from '../simulator/push-envelope.ts'

export const OPENID = 'o-who-withdraws'

export const nowSeconds = () => Math.floor(Date.now() / 1000)

export const REVOKE: Message = {
  ToUserName: 'gh_870882ca4b1',
  FromUserName: 'owAqB1v0ahK_Xlc7GshIDdf2yf7E',
  CreateTime: nowSeconds(),
  MsgType: 'event',
  Event: 'user_authorization_revoke',
  OpenID: OPENID,
  AppID: APPID,
  RevokeInfo: '1',
}

interface Forged {
  token?: string
  timestamp?: number | string
  nonce?: string
  body?: string
  query?: Record<string, string>
}

/** A push in clear, in every part of which a test may lie. */
export function sendPlain(harness: PushHarness, { token = harness.push.token, ...own }: Forged = {}) {
  const { timestamp = nowSeconds(), nonce = String(Math.random()).slice(2, 11) } = own
  const signature = signPush(token, String(timestamp), nonce)
  const query = new URLSearchParams({ signature, timestamp: String(timestamp), nonce, ...own.query })
  const body = own.body ?? writeMessage(REVOKE, 'xml')
  return harness.send('POST', `/push/${APPID}?${query.toString()}`, {
    headers: { 'content-type': 'text/xml' },
    body,
  })
}

/** The same, encrypted. */
export function sendSafe(
  harness: PushHarness,
  {
    message = writeMessage(REVOKE, 'xml'),
    appid = APPID,
    aesKey = harness.push.aesKey,
    ...own
  }: Forged & { message?: string; appid?: string; aesKey?: string } = {},
) {
  const { token = harness.push.token, timestamp = nowSeconds(), nonce = '123456789' } = own
  const encrypt = encryptPush(message, { appid, aesKey, random16: 'r'.repeat(16) })
  const signature = signPush(token, String(timestamp), nonce, encrypt)
  const query = { encrypt_type: 'aes', msg_signature: signature, ...own.query }
  const body = own.body ?? writeMessage({ ToUserName: 'gh_870882ca4b1', Encrypt: encrypt }, 'xml')
  return sendPlain(harness, { token, timestamp, nonce, query, body })
}

/** Whether the session goes on. */
export const validates = async ({ get }: Pick<PushHarness, 'get'>, token: string) =>
  (await get('/auth', token)).status === 200
