/** Who is asking: what may be believed of a request about the client behind it. */
import { hash } from 'node:crypto'
import { isIP } from 'node:net'
import type { FastifyRequest } from 'fastify'
import { networkOf } from '../addresses.ts'
import { GatewayError } from '../errors.ts'

/** The client's address after proxy trust. A forwarded "address" that is none does not count. */
export function clientIp(request: FastifyRequest): string {
  return isIP(request.ip) === 0 ? (request.socket.remoteAddress ?? '') : request.ip
}

/**
 * What ties a retry of a code to the client that sent it first. A nonce is the client's own secret and
 * survives a change of network. Without one, user agent and network have to do: only a stranger who shares
 * both could join in, and would still have to know the code.
 */
export function bindOf(request: FastifyRequest, nonce: string | undefined): string {
  const tie =
    nonce === undefined
      ? `network\0${request.headers['user-agent'] ?? ''}\0${networkOf(clientIp(request))}`
      : `nonce\0${nonce}`
  return hash('sha256', tie, 'base64url')
}

/** A word for the session list. WeChat's user agents name the system; the order matters. */
const DEVICES: readonly (readonly [RegExp, string])[] = [
  [/wechatdevtools/i, 'devtools'],
  [/iphone|ipad|ios/i, 'ios'],
  [/openharmony|harmonyos/i, 'harmony'],
  [/android/i, 'android'],
  [/macwechat|mac os/i, 'mac'],
  [/windows/i, 'windows'],
]

/** The word for the session list; `other` for what is not known. Never more of the user agent than that. */
export function deviceOf(request: FastifyRequest): string {
  const userAgent = request.headers['user-agent'] ?? ''
  return DEVICES.find(([pattern]) => pattern.test(userAgent))?.[1] ?? 'other'
}

const BEARER = /^Bearer ([\x21-\x7e]{1,256})$/i

/** The bearer token, if the client has sent something of that form. */
export function tokenOf(request: FastifyRequest): string | undefined {
  return BEARER.exec(request.headers.authorization ?? '')?.[1]
}

/** @throws {GatewayError} session_invalid: a missing token and a wrong one look the same from outside */
export function bearerOf(request: FastifyRequest): string {
  const token = tokenOf(request)
  if (token === undefined) throw new GatewayError('session_invalid')
  return token
}
