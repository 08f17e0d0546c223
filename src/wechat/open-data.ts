/**
 * Open data: what WeChat encrypts or signs on the phone with the user's session_key. Pure.
 *
 * The key is read in two ways, which official vectors confirm: encryption takes the 16 bytes (AES-128-CBC,
 * PKCS#7), signatures take the text, the 24 characters of base64 in which WeChat gave it.
 *
 * CBC proves nothing about who wrote the data: a client can alter the first 16 bytes of the plaintext through
 * the iv. Therefore watermark.appid is required, and openId compared with the session's where it is present.
 *
 * Source: https://developers.weixin.qq.com/miniprogram/dev/framework/open-ability/signature.html
 */
import { createDecipheriv, createHash, createHmac, timingSafeEqual } from 'node:crypto'

const BLOCK_BYTES = 16
/** How far ahead of Redis' clock WeChat's may be. */
const CLOCK_SKEW_SECONDS = 300

/** Encrypted data with its iv, as bytes. */
export interface EncryptedData {
  ciphertext: Buffer
  iv: Buffer
}

/** What the data is measured by. */
export interface Expected {
  appid: string
  openid: string
  nowSeconds: number
  /** How old the watermark may be. */
  maxAgeSeconds: number
}

export type OpenedData =
  | { outcome: 'ok'; data: Record<string, unknown>; keyIndex: number }
  | { outcome: 'stale' } // none of the keys opens it
  | { outcome: 'foreign' } // of another app or another user, or without a watermark
  | { outcome: 'expired' } // the watermark is too old, or in the future

/** Reads base64 as WeChat writes it; undefined for anything else, such as base64 whose + became blanks on the way. */
export function decodeEncrypted(encryptedData: string, iv: string): EncryptedData | undefined {
  const ciphertext = Buffer.from(encryptedData, 'base64')
  const ivBytes = Buffer.from(iv, 'base64')
  const isWhole = ciphertext.length > 0 && ciphertext.length % BLOCK_BYTES === 0
  if (!isWhole || ivBytes.length !== BLOCK_BYTES) return undefined
  if (ciphertext.toString('base64') !== encryptedData || ivBytes.toString('base64') !== iv) return undefined
  return { ciphertext, iv: ivBytes }
}

/**
 * Decrypts with the first of the keys that opens the data, and checks whose it is and how old.
 *
 * A wrong key nearly always breaks the padding; where by chance it does not, the text is no JSON object. Both
 * are `stale`, so the answer tells nobody which it was.
 *
 * @param keys the current session_key, then the one before it
 */
export function openData(
  { ciphertext, iv }: EncryptedData,
  keys: readonly Buffer[],
  expected: Expected,
): OpenedData {
  for (const [keyIndex, key] of keys.entries()) {
    const data = decrypt(ciphertext, iv, key)
    if (data !== undefined) return judge(data, keyIndex, expected)
  }
  return { outcome: 'stale' }
}

function decrypt(ciphertext: Buffer, iv: Buffer, key: Buffer): Record<string, unknown> | undefined {
  try {
    const decipher = createDecipheriv('aes-128-cbc', key, iv)
    const plaintext = Buffer.concat([decipher.update(ciphertext), decipher.final()])
    const data: unknown = JSON.parse(plaintext.toString('utf8'))
    return isObject(data) ? data : undefined
  } catch {
    return undefined // padding or JSON: not this key; the error would quote the plaintext
  }
}

function judge(data: Record<string, unknown>, keyIndex: number, expected: Expected): OpenedData {
  const { watermark, openId } = data
  if (!isObject(watermark) || watermark['appid'] !== expected.appid) return { outcome: 'foreign' }
  if (openId !== undefined && openId !== expected.openid) return { outcome: 'foreign' }
  const { timestamp } = watermark
  if (typeof timestamp !== 'number') return { outcome: 'foreign' }
  const ageSeconds = expected.nowSeconds - timestamp
  // Put so that a NaN is refused, too.
  if (!(ageSeconds <= expected.maxAgeSeconds && ageSeconds >= -CLOCK_SKEW_SECONDS))
    return { outcome: 'expired' }
  return { outcome: 'ok', data, keyIndex }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/**
 * Whether rawData was signed with one of the keys: hex sha1(rawData + session_key as text). The comparison
 * takes one time, whatever is compared.
 */
export function isSignedWith(
  { rawData, signature }: { rawData: string; signature: string },
  keys: readonly Buffer[],
): boolean {
  const given = digest(signature.toLowerCase())
  return keys
    .map((key) => createHash('sha1').update(rawData).update(textOf(key)).digest('hex'))
    .map((expected) => timingSafeEqual(digest(expected), given))
    .some(Boolean)
}

/** Hashes have one length, which is what timingSafeEqual asks for. */
function digest(text: string): Buffer {
  return createHash('sha256').update(text).digest()
}

/** hex hmac_sha256(session_key as text, message): the form of every signature WeChat asks a backend for. */
export function signWithSessionKey(sessionKey: Buffer, message: string): string {
  return createHmac('sha256', textOf(sessionKey)).update(message).digest('hex')
}

/** The text in which WeChat gave it; answer.ts lets no other in. */
function textOf(sessionKey: Buffer): string {
  return sessionKey.toString('base64')
}
