/**
 * The session token, and how it is derived rather than stored.
 *
 *   token  = "wxs_" + sub (22 characters) + secret (32 characters)
 *   sub    = the user's subject (subject.ts)
 *   secret = first 24 bytes of HMAC-SHA256(derivation key, appid, code, bind)
 *
 * The same client retrying the same code derives the same token, so nothing of it has to be kept for the
 * retry. Redis holds only a keyed hash of the secret as the name of the session's field, so neither reading
 * nor writing Redis yields a session. Both keys come from one token key by HKDF; its kid is in the field.
 */
import { createHmac, hkdfSync } from 'node:crypto'
import type { Key } from './config.ts'

const TOKEN_PREFIX = 'wxs_'
const SECRET_BYTES = 24
const FIELD_HASH_BYTES = 16
const FINGERPRINT_BYTES = 3
const TOKEN_PATTERN = /^wxs_([A-Za-z0-9_-]{22})([A-Za-z0-9_-]{32})$/

export interface TokenOrigin {
  appid: string
  code: string
  /** What ties a retry to the client that began (login.ts). */
  bind: string
}

export interface DerivedToken {
  token: string
  /** The session's field in the user's hash. */
  field: string
}

export interface PresentedToken {
  sub: string
  /** The fields under which its session may stand, one for each token key, newest key first. */
  fields: string[]
}

export interface Tokens {
  /** The key by which new tokens are made. */
  readonly makingKid: string
  make(sub: string, origin: TokenOrigin): DerivedToken
  /** The token that was made for this login with the key `kid`; undefined when that key is gone. */
  remake(sub: string, origin: TokenOrigin, kid: string): DerivedToken | undefined
  /** Reads a token as a client presents it; undefined when it is none. Says nothing about its validity. */
  read(token: string): PresentedToken | undefined
  /** The fields under which a session may stand that is listed by this id, one for each token key. */
  fieldsOf(id: string): string[]
  /** A short keyed fingerprint of a session_key: equal keys have equal ones, and it tells nothing else. */
  fingerprint(sessionKey: Buffer): string
}

/** @param keys at least one; the first makes tokens, all are honoured */
export function createTokens(keys: readonly Key[]): Tokens {
  const ring = keys.map(({ kid, bytes }) => ({
    kid,
    derivationKey: expand(bytes.reveal(), 'token secret'),
    pepper: expand(bytes.reveal(), 'session field'),
    fingerprintKey: expand(bytes.reveal(), 'session_key fingerprint'),
  }))
  const [first] = ring
  if (first === undefined) throw new TypeError('tokens need a key')

  const deriveWith = (entry: (typeof ring)[number], sub: string, { appid, code, bind }: TokenOrigin) => {
    const secret = createHmac('sha256', entry.derivationKey)
      .update(`${appid}\0${code}\0${bind}`)
      .digest()
      .subarray(0, SECRET_BYTES)
      .toString('base64url')
    return { token: TOKEN_PREFIX + sub + secret, field: fieldOf(entry, secret) }
  }

  return {
    makingKid: first.kid,

    make: (sub, origin) => deriveWith(first, sub, origin),

    remake(sub, origin, kid) {
      const entry = ring.find((candidate) => candidate.kid === kid)
      return entry && deriveWith(entry, sub, origin)
    },

    read(token) {
      const [, sub, secret] = TOKEN_PATTERN.exec(token) ?? []
      if (sub === undefined || secret === undefined) return undefined
      return { sub, fields: ring.map((entry) => fieldOf(entry, secret)) }
    },

    fieldsOf: (id) => ring.map(({ kid }) => `${kid}:${id}`),

    fingerprint: (sessionKey) =>
      createHmac('sha256', first.fingerprintKey)
        .update(sessionKey)
        .digest()
        .subarray(0, FINGERPRINT_BYTES)
        .toString('base64url'),
  }
}

function expand(key: Buffer, purpose: string): Buffer {
  return Buffer.from(hkdfSync('sha256', key, '', `wechat-login-gateway ${purpose}`, 32))
}

function fieldOf({ kid, pepper }: { kid: string; pepper: Buffer }, secret: string): string {
  const hash = createHmac('sha256', pepper).update(secret).digest().subarray(0, FIELD_HASH_BYTES)
  return `${kid}:${hash.toString('base64url')}`
}
