/** What WeChat puts its message pushes in: signature, encryption, XML or JSON. Written apart from the gateway's reader. */
import { createCipheriv, createHash } from 'node:crypto'

const PADDING_BLOCK_BYTES = 32

/** The fields of a message, in order. */
export type Message = Readonly<Record<string, string | number>>

/** Signs the parts with the token: `signature` of timestamp and nonce, `msg_signature` of these and Encrypt. */
export function signPush(token: string, ...parts: readonly string[]): string {
  return createHash('sha1')
    .update([token, ...parts].toSorted().join(''))
    .digest('hex')
}

/** Encrypts a message for an app. @param random16 16 characters of chance */
export function encryptPush(
  message: string,
  { appid, aesKey, random16 }: { appid: string; aesKey: string; random16: string },
): string {
  const key = Buffer.from(aesKey, 'base64')
  const length = Buffer.alloc(4)
  length.writeUInt32BE(Buffer.byteLength(message))
  const content = Buffer.concat([Buffer.from(random16), length, Buffer.from(message), Buffer.from(appid)])
  const padding = PADDING_BLOCK_BYTES - (content.length % PADDING_BLOCK_BYTES)
  const cipher = createCipheriv('aes-256-cbc', key, key.subarray(0, 16)).setAutoPadding(false)
  const padded = Buffer.concat([content, Buffer.alloc(padding, padding)])
  return Buffer.concat([cipher.update(padded), cipher.final()]).toString('base64')
}

/** The message in the format that the app's administrator has chosen. */
export function writeMessage(message: Message, format: 'xml' | 'json'): string {
  if (format === 'json') return JSON.stringify(message)
  const elements = Object.entries(message).map(
    ([name, value]) => `<${name}>${writeXmlValue(value)}</${name}>`,
  )
  return `<xml>${elements.join('')}</xml>`
}

function writeXmlValue(value: string | number): string {
  return typeof value === 'number'
    ? String(value)
    : `<![CDATA[${value.replaceAll(']]>', ']]]]><![CDATA[>')}]]>`
}
