/**
 * What a message push comes in: its signature, and its encryption where the app has an EncodingAESKey. Pure.
 *
 *   signature       of the URL check and of pushes in clear: token, timestamp, nonce
 *   msg_signature   of encrypted pushes: token, timestamp, nonce, Encrypt
 *
 * Either is the hex sha1 of its parts, sorted and joined. The first says nothing of the body it comes with, which is
 * why such a body is not believed twice (pushes.ts), and not at all where the app has a key.
 *
 * Encrypt is base64 of AES-256-CBC over: 16 random bytes, length of the message (4 bytes, big endian), message,
 * appid; padded by PKCS#7 to blocks of 32 bytes, not of AES' 16. The iv is the first half of the key.
 *
 * Source: https://developers.weixin.qq.com/miniprogram/dev/framework/server-ability/message-push.html, whose
 * examples are the vector `push` of test/wechat-vectors.json.
 */
import { createDecipheriv, createHash, timingSafeEqual } from 'node:crypto'
import type { Secret } from '../secret.ts'

const CIPHER_BLOCK_BYTES = 16
const PADDING_BYTES_MAX = 32
const RANDOM_BYTES = 16
const LENGTH_BYTES = 4
const BASE64 = /^[A-Za-z0-9+/]+={0,2}$/

/** Whether one of the tokens has signed these parts. Takes one time, whichever it is and wherever they differ. */
export function isSigned(
  tokens: readonly Secret<string>[],
  parts: readonly string[],
  signature: string,
): boolean {
  const given = digest(signature)
  return tokens
    .map((token) => [token.reveal(), ...parts].toSorted().join(''))
    .map((text) => digest(createHash('sha1').update(text).digest('hex')))
    .map((expected) => timingSafeEqual(expected, given))
    .some(Boolean)
}

/** Hashes have one length, which is what timingSafeEqual asks for. */
function digest(text: string): Buffer {
  return createHash('sha256').update(text).digest()
}

export type Opened =
  | { outcome: 'ok'; message: Buffer }
  | { outcome: 'foreign' } // for another app
  | { outcome: 'sealed' } // none of the keys opens it

/** Decrypts with the key that opens it. Only for what isSigned(): the answer tells how the padding was. */
export function openEncrypted(encrypt: string, keys: readonly Secret<Buffer>[], appid: string): Opened {
  const ciphertext = Buffer.from(encrypt, 'base64')
  if (!BASE64.test(encrypt) || ciphertext.length === 0 || ciphertext.length % CIPHER_BLOCK_BYTES !== 0)
    return { outcome: 'sealed' }
  let opened: Opened = { outcome: 'sealed' }
  for (const key of keys) {
    const content = decrypt(ciphertext, key.reveal())
    if (content === undefined) continue
    if (content.appid === appid) return { outcome: 'ok', message: content.message }
    opened = { outcome: 'foreign' }
  }
  return opened
}

function decrypt(ciphertext: Buffer, key: Buffer): { message: Buffer; appid: string } | undefined {
  const decipher = createDecipheriv('aes-256-cbc', key, key.subarray(0, CIPHER_BLOCK_BYTES))
  decipher.setAutoPadding(false) // Node would take a padding of more than 16 for a fault
  const padded = Buffer.concat([decipher.update(ciphertext), decipher.final()])
  const padding = padded.at(-1) ?? 0
  const end = padded.length - padding
  const isPadded = padding >= 1 && padding <= PADDING_BYTES_MAX && end >= RANDOM_BYTES + LENGTH_BYTES
  if (!isPadded || padded.subarray(end).some((byte) => byte !== padding)) return undefined
  const start = RANDOM_BYTES + LENGTH_BYTES
  const messageEnd = start + padded.readUInt32BE(RANDOM_BYTES)
  if (messageEnd > end) return undefined
  return {
    message: padded.subarray(start, messageEnd),
    appid: padded.toString('utf8', messageEnd, end),
  }
}
