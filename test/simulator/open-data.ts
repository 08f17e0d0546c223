/**
 * Open data: what WeChat signs and encrypts on the phone with the user's session_key.
 *
 * Two different readings of one key: the signature of rawData and the session signature use its base64
 * text, the encryption (AES-128-CBC, PKCS#7) uses the 16 bytes it stands for. Both are confirmed by the
 * official vectors in test/wechat-vectors.json.
 */
import { createCipheriv, createHash, createHmac } from 'node:crypto'

/** What wx.getUserProfile gives since 2022: nothing of the person. */
const ANONYMOUS_PROFILE = {
  nickName: '微信用户',
  gender: 0,
  language: 'zh_CN',
  city: '',
  province: '',
  country: '',
  avatarUrl: 'https://thirdwx.qlogo.cn/mmopen/vi_32/anonymous/132',
}

/** The app and the time (unix seconds) that WeChat writes into everything it encrypts. */
export interface Watermark {
  timestamp: number
  appid: string
}

/** A phone number without its country code, and that code. */
export interface PhoneData {
  phoneNumber: string
  countryCode: string
}

/** What a Mini Program receives from WeChat and sends to its backend. */
export interface OpenData {
  rawData: string
  signature: string
  encryptedData: string
  iv: string
}

export interface OpenDataInput {
  /**
   * user_info: openId, the data, unionId and watermark, as wx.getUserInfo.
   * phone: phone number and watermark, as the old phone button.
   * plain: the data and watermark only, as steps or group data.
   */
  kind: 'user_info' | 'phone' | 'plain'
  openid: string
  unionid: string | null
  watermark: Watermark
  sessionKey: string
  iv: Buffer
  /** Replaces the anonymous profile (user_info) or is the whole content (plain). */
  data: Record<string, unknown> | undefined
  phone: PhoneData
}

/** Makes open data as WeChat would. Pure. */
export function writeOpenData(input: OpenDataInput): OpenData {
  const { kind, openid, unionid, watermark, sessionKey, iv } = input
  const data = input.data ?? (kind === 'user_info' ? ANONYMOUS_PROFILE : {})
  const content = {
    user_info: { openId: openid, ...data, ...(unionid !== null && { unionId: unionid }), watermark },
    phone: writePhone(input.phone, watermark),
    plain: { ...data, watermark },
  }[kind]
  const rawData = JSON.stringify(data)
  return {
    rawData,
    signature: createHash('sha1')
      .update(rawData + sessionKey)
      .digest('hex'),
    encryptedData: encrypt(JSON.stringify(content), sessionKey, iv),
    iv: iv.toString('base64'),
  }
}

/** The fields of a phone number; numbers outside China carry their country code. */
export function writePhone({ phoneNumber, countryCode }: PhoneData, watermark: Watermark) {
  return {
    phoneNumber: countryCode === '86' ? phoneNumber : `+${countryCode}${phoneNumber}`,
    purePhoneNumber: phoneNumber,
    countryCode,
    watermark,
  }
}

/** hmac_sha256 of a text (by default the empty one) keyed with the session_key's text, in lower case hex. */
export function signSession(sessionKey: string, text = ''): string {
  return createHmac('sha256', sessionKey).update(text).digest('hex')
}

function encrypt(plaintext: string, sessionKey: string, iv: Buffer): string {
  const cipher = createCipheriv('aes-128-cbc', Buffer.from(sessionKey, 'base64'), iv)
  return Buffer.concat([cipher.update(plaintext, 'utf8'), cipher.final()]).toString('base64')
}
