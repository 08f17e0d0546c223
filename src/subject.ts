/** The subject of a user: the first 16 bytes of sha256(appid, 0, openid), base64url. */
import { hash } from 'node:crypto'

const SUB_BYTES = 16

/**
 * Stable and opaque: one user of one app has always the same, it shows nobody the openid, and it is known as
 * soon as WeChat has answered, without asking a database.
 */
export function subjectOf(appid: string, openid: string): string {
  return hash('sha256', `${appid}\0${openid}`, 'buffer').subarray(0, SUB_BYTES).toString('base64url')
}
