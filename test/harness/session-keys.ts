/** Users whose session_key is put to use: at the phone, and by the administrator. */
import { createHmac } from 'node:crypto'
import { expect } from 'vitest'
import type { Harness } from './gateway.ts'

export async function logIn(harness: Harness, openid?: string) {
  const issued = harness.wechat.issueCode(openid === undefined ? {} : { openid })
  const reply = await harness.login({ code: issued.code })
  expect(reply.status).toBe(200)
  return { ...issued, token: reply.body.token, sub: reply.body.sub }
}

/** Open data as the phone has it now, in the words of our API. */
export function collect(
  harness: Harness,
  openid: string,
  own: Parameters<Harness['wechat']['openData']>[0] = {},
) {
  const { encryptedData, iv, rawData, signature } = harness.wechat.openData({ openid, ...own })
  return { encrypted: { encrypted_data: encryptedData, iv }, signed: { raw_data: rawData, signature } }
}

export function keyOf(harness: Harness, openid: string): string {
  return harness.wechat.users({ openid })[0]?.sessionKey ?? ''
}

export const sign = (key: string, text: string) => createHmac('sha256', key).update(text).digest('hex')

export async function asAdmin(harness: Harness, path: string, body: unknown) {
  return harness.admin.post(path, body, harness.env['ADMIN_TOKEN'])
}
