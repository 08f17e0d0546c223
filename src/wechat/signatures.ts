/**
 * The signatures by which a backend proves to WeChat that its user is logged in: one kind for each use, each
 * with the message it covers. Pure.
 *
 * All are hmac_sha256 with the session_key as key; what differs is what is signed. Were the caller free to
 * choose that, a signature asked for in the name of one use would do for another: a calendar path for a
 * payment. So each kind accepts only a message that no other kind does.
 *
 *   kind                    message                        for
 *   virtual_payment         signData, JSON with offerId    wx.requestVirtualPayment
 *   virtual_payment_server  the body, JSON with openid     POST /xpay/*, parameter `signature`
 *   b2b_payment             signData, JSON without either  wx.requestCommonPayment
 *   calendar_path           a page's path, no JSON         wx.addPhoneCalendar
 *
 * pay_sig is not here: it is made with the merchant's AppKey, which the gateway does not have.
 * Sources: the pages of those calls; for the first two the vector `xpay` in test/wechat-vectors.json.
 */
import { signWithSessionKey } from './open-data.ts'

/** The kinds, each with the message exactly as it will be sent: a signature covers its every blank. */
export type SignRequest =
  | { kind: 'virtual_payment' | 'b2b_payment'; signData: string }
  | { kind: 'virtual_payment_server'; body: string }
  | { kind: 'calendar_path'; path: string }

/** A page of the Mini Program, with or without a query. */
const PAGE_PATH = /^\/?[A-Za-z0-9_-]+(\/[A-Za-z0-9_.-]+)*(\?[\x21-\x7e]*)?$/

/** What is wrong with the message for its kind; undefined when it may be signed. Names no content. */
export function signingFault(request: SignRequest, openid: string): string | undefined {
  switch (request.kind) {
    case 'virtual_payment': {
      const fields = jsonObject(request.signData)
      return fields !== undefined && isText(fields['offerId']) && fields['openid'] === undefined
        ? undefined
        : 'sign_data must be the signData of wx.requestVirtualPayment: a JSON object with offerId'
    }
    case 'virtual_payment_server':
      return jsonObject(request.body)?.['openid'] === openid
        ? undefined
        : 'body must be a JSON object that names the same openid'
    case 'b2b_payment': {
      const fields = jsonObject(request.signData)
      return fields !== undefined && fields['offerId'] === undefined && fields['openid'] === undefined
        ? undefined
        : 'sign_data must be the signData of wx.requestCommonPayment: a JSON object without offerId and openid'
    }
    case 'calendar_path':
      return PAGE_PATH.test(request.path) ? undefined : 'path must be the path of a page'
  }
}

/** The signature, in lower case hex. Only for a request without a signingFault(). */
export function signFor(request: SignRequest, sessionKey: Buffer): string {
  switch (request.kind) {
    case 'virtual_payment':
    case 'b2b_payment':
      return signWithSessionKey(sessionKey, request.signData)
    case 'virtual_payment_server':
      return signWithSessionKey(sessionKey, request.body)
    case 'calendar_path':
      return signWithSessionKey(sessionKey, request.path)
  }
}

/** The signature of /wxa/checksession and its kin: over the empty text. */
export function signEmpty(sessionKey: Buffer): string {
  return signWithSessionKey(sessionKey, '')
}

function isText(value: unknown): boolean {
  return typeof value === 'string' && value !== ''
}

function jsonObject(text: string): Record<string, unknown> | undefined {
  try {
    const parsed: unknown = JSON.parse(text)
    return typeof parsed === 'object' && parsed !== null && !Array.isArray(parsed)
      ? (parsed as Record<string, unknown>)
      : undefined
  } catch {
    return undefined // not JSON; the parser's message would quote it
  }
}
