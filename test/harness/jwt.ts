/** JWTs without a gateway around them: a clock to set, and the signing key in the test's own hands. */
import { createPrivateKey, hkdfSync, sign } from 'node:crypto'
import { createJwts } from '../../src/jwt.ts'
import type { JwtSubject } from '../../src/jwt.ts'
import { Secret } from '../../src/secret.ts'

export const ISSUER = 'urn:wechat-login-gateway'
export const AUDIENCE = 'orders'

const START_SECONDS = 1_800_000_000

/** @param keys as in TOKEN_KEYS */
export function createTestJwts(keys: string, settings: { ttlSeconds?: number } = {}) {
  const ring = keys.split(',').map((entry) => {
    const [kid = '', bytes = ''] = entry.split(':')
    return { kid, bytes: new Secret(Buffer.from(bytes, 'base64')) }
  })
  const clock = { seconds: START_SECONDS }
  const outcomes: string[] = []
  const subject: JwtSubject = {
    sub: 'hHUnC9xY0aBcDeFgHiJkLm',
    appid: 'wx0123456789abcdef',
    id: 'kYsTbayTbBq0f5VhJmNcXw',
    endsAtSeconds: START_SECONDS + 604_800,
  }
  const jwts = createJwts(
    {
      keys: ring,
      clock: { nowMs: () => clock.seconds * 1000, sync: async () => {}, stop() {} },
      observer: { onIssue() {}, onVerify: (outcome) => outcomes.push(outcome) },
    },
    { issuer: ISSUER, audiences: [AUDIENCE, 'stock'], ttlSeconds: 300, ...settings },
  )
  return {
    ...jwts,
    clock,
    startSeconds: START_SECONDS,
    subject,
    outcomes,
    issue: (own: Partial<JwtSubject> = {}) => jwts.issue({ ...subject, ...own }, AUDIENCE),
  }
}

export const encode = (value: unknown) =>
  Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64url')

/** The gateway's own signing key, derived a second time from what the operator gave. */
export function signingKeyOf(tokenKey: string) {
  const bytes = Buffer.from(tokenKey.split(':')[1] ?? '', 'base64')
  const seed = Buffer.from(hkdfSync('sha256', bytes, '', 'wechat-login-gateway jwt signing', 32))
  const der = Buffer.concat([Buffer.from('302e020100300506032b657004220420', 'hex'), seed])
  return createPrivateKey({ key: der, format: 'der', type: 'pkcs8' })
}

/** Signs any header and any claims, objects or texts. */
export function signEd25519(key: ReturnType<typeof signingKeyOf>, header: unknown, claims: unknown): string {
  const signed = `${encode(header)}.${encode(claims)}`
  return `${signed}.${sign(null, Buffer.from(signed), key).toString('base64url')}`
}
