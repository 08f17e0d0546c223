/**
 * Short-lived JWTs (RFC 9068) for services that want to know the user without asking the gateway each time.
 *
 * They cannot be taken back, so they live minutes, name one audience of an allow-list, and hold neither openid
 * nor session_key. Signed with Ed25519. The signing keys come from the token keys by HKDF and rotate with them:
 * the first signs, all are published, and a token ends with its key at the latest.
 *
 * Whoever wants to be the bearer's session sends the session token: a JWT is none, on no route.
 *
 * Checking follows RFC 8725 by narrowness. Nobody but us makes these tokens, so the header of a good one is one
 * of as many texts as there are keys: every other algorithm, type, key id, key address or embedded key is
 * refused before anything of it is decoded.
 */
import { createPrivateKey, createPublicKey, hkdfSync, randomUUID } from 'node:crypto'
import { base64url, calculateJwkThumbprint, errors, jwtVerify, SignJWT } from 'jose'
import { GatewayError } from './errors.ts'
import type { Key } from './key-ring.ts'
import type { StoreClock } from './redis/clock.ts'

/** `EdDSA` in RFC 8037; the key says that it is Ed25519. */
const ALGORITHM = 'EdDSA'
/** RFC 9068 §2.1: says what the token is for, so that no other kind of JWT passes for it. */
const TYPE = 'at+jwt'
/** Ours have about 500 characters, and below 900 with the longest issuer and audience there can be. */
const JWT_LENGTH_MAX = 2_048
/** Header, claims, and the 64 bytes of a signature in their one spelling; decoders let more pass than that. */
const JWT_PATTERN = /^([\w-]+)\.([\w-]+)\.[\w-]{85}[AQgw]$/
/** RFC 8410 §7: what stands before the 32 bytes of an Ed25519 private key in PKCS #8. */
const PKCS8_PREFIX = Buffer.from('302e020100300506032b657004220420', 'hex')

/** What a token says; times in unix seconds of Redis. */
export interface JwtClaims {
  iss: string
  /** The subject of the user, as in the answer to a login. */
  sub: string
  /** The one service it is for. */
  aud: string
  iat: number
  exp: number
  jti: string
  appid: string
  /** The same as `appid`, in the word of RFC 9068, whose readers ask for it. */
  client_id: string
  /** The session it was made from, as it is listed. Absent in tokens that the version before has made. */
  sid?: string
}

/** What is signed for: a session that has just been found valid. */
export interface JwtSubject {
  sub: string
  appid: string
  id: string
  /** Unix seconds of Redis. */
  endsAtSeconds: number
}

export interface IssuedJwt {
  token: string
  expiresInSeconds: number
}

/** A public key as RFC 8037 writes it. */
export interface PublicJwk {
  kty: 'OKP'
  crv: 'Ed25519'
  x: string
  kid: string
  alg: typeof ALGORITHM
  use: 'sig'
}

export interface JwtDeps {
  /** The token keys: at least one; the first signs, all are published. */
  keys: readonly Key[]
  clock: StoreClock
  observer: {
    onIssue(audience: string): void
    onVerify(outcome: 'valid' | 'invalid'): void
  }
}

export interface JwtSettings {
  issuer: string
  /** The services that tokens are made for. None: no token is made, and none accepted. */
  audiences: readonly string[]
  ttlSeconds: number
}

/** Makes, publishes and checks JWTs. Holds no state but its keys. */
export function createJwts({ keys, clock, observer }: JwtDeps, settings: JwtSettings) {
  const audiences = new Set(settings.audiences)
  const ring = Promise.all(keys.map(signingKey))
  return { issue, verify, jwks }

  /**
   * A token of this session for one audience. It ends no later than the session would without further use.
   * @throws {GatewayError} audience_unknown; session_invalid when the session has just ended; store_unavailable
   */
  async function issue({ sub, appid, id, endsAtSeconds }: JwtSubject, audience: string): Promise<IssuedJwt> {
    if (!audiences.has(audience)) throw new GatewayError('audience_unknown')
    const [first] = await ring
    if (first === undefined) throw new TypeError('JWTs need a key')
    const iat = Math.floor(clock.nowMs() / 1000)
    const lifeSeconds = Math.min(settings.ttlSeconds, Math.floor(endsAtSeconds) - iat)
    if (lifeSeconds <= 0) throw new GatewayError('session_invalid')
    const claims: JwtClaims = {
      iss: settings.issuer,
      sub,
      aud: audience,
      iat,
      exp: iat + lifeSeconds,
      jti: randomUUID(),
      appid,
      client_id: appid,
      sid: id,
    }
    const token = await new SignJWT({ ...claims }).setProtectedHeader(first.header).sign(first.privateKey)
    observer.onIssue(audience)
    return { token, expiresInSeconds: lifeSeconds }
  }

  /**
   * What a token says, when it is one of ours, for one of our audiences (or for `audience` alone, when given)
   * and has not ended; undefined otherwise, for whatever reason. Says nothing about the session it was made
   * from (`sid`), which may have been ended since.
   * @throws {GatewayError} store_unavailable, when the time has never been learnt
   */
  async function verify(token: string, { audience }: { audience?: string } = {}) {
    const claims = await read(token, audience)
    observer.onVerify(claims === undefined ? 'invalid' : 'valid')
    return claims
  }

  async function read(token: string, audience: string | undefined): Promise<JwtClaims | undefined> {
    if (token.length > JWT_LENGTH_MAX) return undefined // before anything reads it
    const expected = audience === undefined ? [...audiences] : [audience].filter((one) => audiences.has(one))
    if (expected.length === 0) return undefined
    const [, header, text] = JWT_PATTERN.exec(token) ?? []
    const key = (await ring).find((candidate) => candidate.encodedHeader === header)
    if (key === undefined) return undefined
    const currentDate = new Date(clock.nowMs())
    try {
      const { payload } = await jwtVerify<JwtClaims>(token, key.publicKey, {
        algorithms: [ALGORITHM],
        typ: TYPE,
        issuer: settings.issuer,
        audience: expected,
        requiredClaims: ['sub', 'iat', 'exp', 'jti', 'appid'],
        currentDate,
        clockTolerance: 0,
      })
      // As we write it, to the letter. Other spellings, such as a claim given twice, are not ours.
      if (typeof payload.aud !== 'string' || base64url.encode(JSON.stringify(payload)) !== text) {
        return undefined
      }
      return payload
    } catch (error) {
      if (error instanceof errors.JOSEError) return undefined
      throw error
    }
  }

  /** The keys by which others check (RFC 7517); none while no audience is configured. */
  async function jwks(): Promise<{ keys: PublicJwk[] }> {
    return { keys: audiences.size === 0 ? [] : (await ring).map(({ jwk }) => jwk) }
  }
}

export type Jwts = ReturnType<typeof createJwts>

/** Its kid is the RFC 7638 thumbprint: unguessable before publication, and never one kid for two keys. */
async function signingKey({ bytes }: Key) {
  const seed = Buffer.from(hkdfSync('sha256', bytes.reveal(), '', 'wechat-login-gateway jwt signing', 32))
  const privateKey = createPrivateKey({
    key: Buffer.concat([PKCS8_PREFIX, seed]),
    format: 'der',
    type: 'pkcs8',
  })
  const publicKey = createPublicKey(privateKey)
  const { x = '' } = publicKey.export({ format: 'jwk' })
  const kid = await calculateJwkThumbprint({ kty: 'OKP', crv: 'Ed25519', x }, 'sha256')
  const header = { alg: ALGORITHM, typ: TYPE, kid }
  const jwk: PublicJwk = { kty: 'OKP', crv: 'Ed25519', x, kid, alg: ALGORITHM, use: 'sig' }
  return { privateKey, publicKey, header, encodedHeader: base64url.encode(JSON.stringify(header)), jwk }
}
