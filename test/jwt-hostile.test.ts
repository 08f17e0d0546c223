/** JWTs that are not ours, or not ours any more, or not for this: refused, all of them, and quickly. RFC 8725. */
import { createHmac, createPublicKey, generateKeyPairSync, sign } from 'node:crypto'
import { decodeJwt, decodeProtectedHeader } from 'jose'
import { describe, expect, test } from 'vitest'
import { newKey } from './harness/environment.ts'
import { startHarness } from './harness/gateway.ts'
import { AUDIENCE, createTestJwts, encode, ISSUER, signEd25519, signingKeyOf } from './harness/jwt.ts'
import { expectProblem } from './harness/problem.ts'
import { rawRequest, sendRaw } from './harness/raw-http.ts'

/** The promise of failures.md S-18. */
const REFUSED_WITHIN_MS = 5
const RUNS = 100
const MEGABYTE = 1_048_576

const tokenKey = newKey('t1')
const jwts = createTestJwts(tokenKey)
const ours = signingKeyOf(tokenKey)
const foreign = generateKeyPairSync('ed25519')
const elliptic = generateKeyPairSync('ec', { namedCurve: 'P-256' })

const good = (await jwts.issue()).token
const [goodHeader = '', goodClaims = '', goodSignature = ''] = good.split('.')
const header = { alg: 'EdDSA', typ: 'at+jwt', kid: String(decodeProtectedHeader(good)['kid']) }
const claims = decodeJwt(good)
const text = JSON.stringify(claims)
const { x = '' } = createPublicKey(ours).export({ format: 'jwk' })
const spkiPem = createPublicKey(ours).export({ type: 'spki', format: 'pem' })
const spkiDer = createPublicKey(ours).export({ type: 'spki', format: 'der' })

/** Signed with our own key: what only a gateway gone wrong could make, so that the check in question decides. */
const signed = (ownHeader: object, ownClaims: unknown = claims) =>
  signEd25519(ours, { ...header, ...ownHeader }, ownClaims)
const saying = (own: object) => signed({}, { ...claims, ...own })
const without = (claim: string) => signed({}, { ...claims, [claim]: undefined })
const hs256 = (secret: string | Buffer, ownHeader: object = {}) => {
  const body = `${encode({ ...header, alg: 'HS256', ...ownHeader })}.${goodClaims}`
  return `${body}.${createHmac('sha256', secret).update(body).digest('base64url')}`
}
const es256 = () => {
  const body = `${encode({ ...header, alg: 'ES256' })}.${goodClaims}`
  const key = { key: elliptic.privateKey, dsaEncoding: 'ieee-p1363' as const }
  return `${body}.${sign('sha256', Buffer.from(body), key).toString('base64url')}`
}
const unsigned = (alg: unknown) => `${encode({ ...header, alg })}.${goodClaims}`
const foreignJwk = { ...foreign.publicKey.export({ format: 'jwk' }), kid: header.kid, alg: 'EdDSA' }
const byForeigner = (ownHeader: object = {}) =>
  signEd25519(foreign.privateKey, { ...header, ...ownHeader }, claims)

const HOSTILE: Record<string, string> = {
  'alg none, unsigned': `${unsigned('none')}.`,
  'alg none, with our signature': `${unsigned('none')}.${goodSignature}`,
  'alg none in other letters': `${unsigned('nOnE')}.`,
  'alg empty': `${unsigned('')}.${goodSignature}`,
  'alg missing': `${unsigned(undefined)}.${goodSignature}`,
  'alg null': `${unsigned(null)}.${goodSignature}`,
  'alg a list': `${unsigned(['EdDSA', 'none'])}.${goodSignature}`,
  'alg by its other name': signed({ alg: 'Ed25519' }),
  'HS256 with the public key as JWK x': hs256(x),
  'HS256 with the bytes of the public key': hs256(Buffer.from(x, 'base64url')),
  'HS256 with the public key as PEM': hs256(spkiPem),
  'HS256 with the public key as DER': hs256(spkiDer),
  'HS256 with an empty secret': hs256(''),
  'HS256 with the kid as secret': hs256(header.kid),
  'ES256 with a foreign key': es256(),
  'a foreign key under our kid': byForeigner(),
  'a foreign kid': byForeigner({ kid: 'foreign' }),
  'a foreign kid, our signature': signed({ kid: 'foreign' }),
  'no kid': signed({ kid: undefined }),
  'a kid of null': signed({ kid: null }),
  'a kid that is a list': signed({ kid: [header.kid] }),
  'a kid that is a path': signed({ kid: '../../../../dev/null' }),
  'a kid with an end of text': signed({ kid: `${header.kid}\u0000` }),
  'a kid for a database': signed({ kid: "' OR 1=1 --" }),
  'a kid of the prototype': signed({ kid: '__proto__' }),
  "the kid of the operator's key": signed({ kid: 't1' }),
  jku: byForeigner({ jku: 'http://127.0.0.1:1/jwks.json' }),
  'jku beside our signature': signed({ jku: 'http://127.0.0.1:1/jwks.json' }),
  x5u: byForeigner({ x5u: 'http://127.0.0.1:1/cert.pem' }),
  x5c: byForeigner({ x5c: [spkiDer.toString('base64')] }),
  'an embedded jwk': byForeigner({ jwk: foreignJwk }),
  'an embedded jwk beside our signature': signed({ jwk: foreignJwk }),
  crit: signed({ crit: ['exp'] }),
  'an unencoded payload': signed({ b64: false, crit: ['b64'] }),
  compression: signed({ zip: 'DEF' }),
  'typ missing': signed({ typ: undefined }),
  'typ JWT': signed({ typ: 'JWT' }),
  'typ of a log-out': signed({ typ: 'logout+jwt' }),
  'typ with its whole name': signed({ typ: 'application/at+jwt' }),
  'header spelled otherwise': signEd25519(ours, JSON.stringify(header, null, 1), claims),
  'header with alg twice': signEd25519(ours, `{"alg":"none",${JSON.stringify(header).slice(1)}`, claims),
  'iss of another': saying({ iss: 'urn:another-gateway' }),
  'iss with more behind it': saying({ iss: `${ISSUER}/` }),
  'iss a list': saying({ iss: [ISSUER] }),
  'iss missing': without('iss'),
  'aud of another': saying({ aud: 'payments' }),
  'aud in other letters': saying({ aud: 'Orders' }),
  'aud a list': saying({ aud: [AUDIENCE] }),
  'aud a list with another': saying({ aud: [AUDIENCE, 'payments'] }),
  'aud empty': saying({ aud: '' }),
  'aud missing': without('aud'),
  'exp now': saying({ exp: jwts.startSeconds }),
  'exp long ago': saying({ exp: 1 }),
  'exp negative': saying({ exp: -1 }),
  'exp a text': saying({ exp: String(claims.exp) }),
  'exp null': saying({ exp: null }),
  'exp missing': without('exp'),
  'nbf to come': saying({ nbf: jwts.startSeconds + 60 }),
  'sub missing': without('sub'),
  'iat missing': without('iat'),
  'jti missing': without('jti'),
  'appid missing': without('appid'),
  'exp twice, the later wins': signed({}, `{"exp":1,${text.slice(1)}`),
  'exp twice, the earlier wins': signed({}, `${text.slice(0, -1)},"exp":${String(claims.exp)}}`),
  'sub twice': signed({}, `{"sub":"another",${text.slice(1)}`),
  'aud twice': signed({}, `{"aud":"payments",${text.slice(1)}`),
  'sub twice, once in escapes': signed({}, `{"\\u0073ub":"another",${text.slice(1)}`),
  'claims with spaces': signed({}, ` ${text}`),
  'claims with a byte order mark': signed({}, `\uFEFF${text}`),
  'claims that are a list': signed({}, [claims]),
  'claims that are null': signed({}, 'null'),
  'claims that are no JSON': signed({}, 'exp=1'),
  'claims nested deeply': signed({}, `${'['.repeat(500)}${']'.repeat(500)}`),
  'claims empty': `${goodHeader}..${goodSignature}`,
  'other claims': `${goodHeader}.${encode({ ...claims, sub: 'another' })}.${goodSignature}`,
  'no signature': `${goodHeader}.${goodClaims}.`,
  'no third part': `${goodHeader}.${goodClaims}`,
  'half a signature': `${goodHeader}.${goodClaims}.${goodSignature.slice(0, 43)}`,
  'a signature of zeros': `${goodHeader}.${goodClaims}.${Buffer.alloc(64).toString('base64url')}`,
  'a signature twice': `${good}${goodSignature}`,
  'a signature that is no base64': `${goodHeader}.${goodClaims}.${'!'.repeat(86)}`,
  'four parts': `${good}.${goodSignature}`,
  'five parts': `${good}..`,
  'a space before': ` ${good}`,
  'a line after': `${good}\n`,
  'with its scheme': `Bearer ${good}`,
  'JSON serialisation': JSON.stringify({
    protected: goodHeader,
    payload: goodClaims,
    signature: goodSignature,
  }),
  'a session token': `wxs_${'A'.repeat(54)}`,
  nothing: '',
  dots: '..',
  'many dots': '.'.repeat(2_048),
  'a megabyte': 'a'.repeat(MEGABYTE),
  'a megabyte of dots': '.'.repeat(MEGABYTE),
  'a megabyte behind our header': `${goodHeader}.${'a'.repeat(MEGABYTE)}`,
  'a megabyte of claims, signed': saying({ padding: 'a'.repeat(MEGABYTE) }),
  'a megabyte of header, signed': signed({ padding: 'a'.repeat(MEGABYTE) }),
  'a megabyte of brackets': signed({}, '['.repeat(MEGABYTE)),
}

describe('verify', () => {
  test('accepts what it made itself: the hostile ones differ in one thing each', async () => {
    expect(await jwts.verify(good)).toEqual(claims)
    expect(await jwts.verify(signed({}))).toEqual(claims)
    expect(await jwts.verify(saying({}), { audience: AUDIENCE })).toEqual(claims)
  })

  test.each(Object.entries(HOSTILE))('refuses: %s', async (_what, token) => {
    expect(await jwts.verify(token)).toBeUndefined()
  })

  test('refuses each within 5 ms', async () => {
    const all: number[] = []
    let slowest = { what: '', medianMs: 0 }
    for (const [what, token] of Object.entries(HOSTILE)) {
      const times: number[] = []
      for (let run = 0; run < RUNS; run += 1) {
        const startedMs = performance.now()
        await jwts.verify(token)
        times.push(performance.now() - startedMs)
      }
      const medianMs = quantile(times, 0.5)
      if (medianMs > slowest.medianMs) slowest = { what, medianMs }
      all.push(...times)
    }
    const [medianMs, p99Ms] = [quantile(all, 0.5), quantile(all, 0.99)]
    console.log(
      `A hostile JWT is refused in ${medianMs.toFixed(3)} ms (median), ${p99Ms.toFixed(3)} ms (p99 of ` +
        `${all.length}); slowest: ${slowest.what}, ${slowest.medianMs.toFixed(3)} ms (median).`,
    )
    expect(slowest.medianMs).toBeLessThan(REFUSED_WITHIN_MS)
  })

  test('refuses a token of which any one character has been changed', async () => {
    const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
    for (let at = 0; at < good.length; at += 1) {
      const value = alphabet.indexOf(good.charAt(at)) // -1 for a dot
      for (const other of [value + 1, value + 2, value + 32]) {
        const changed = good.slice(0, at) + alphabet.charAt(other % 64) + good.slice(at + 1)
        expect(await jwts.verify(changed), `letter ${at}`).toBeUndefined()
      }
    }
  })

  test('minds the audience it is asked about, also among its own', async () => {
    expect(await jwts.verify(good, { audience: 'stock' })).toBeUndefined()
    expect(await jwts.verify(saying({ aud: 'payments' }), { audience: 'payments' })).toBeUndefined()
    expect(await jwts.verify(good, { audience: '' })).toBeUndefined()
  })

  test('counts what it refuses, in one word', async () => {
    const own = createTestJwts(tokenKey)
    await own.verify(good)
    await own.verify(HOSTILE['alg none, unsigned'] ?? '')
    expect(own.outcomes).toEqual(['valid', 'invalid'])
  })
})

describe('the routes of the bearer', () => {
  test('answer every such token with 401', async () => {
    const { send, url } = await startHarness({ env: { JWT_AUDIENCES: AUDIENCE, TOKEN_KEYS: tokenKey } })
    const sendable = Object.entries(HOSTILE).filter(([, token]) => /^[\x20-\x7e]{1,6000}$/.test(token))
    expect(sendable.length).toBeGreaterThan(60)
    for (const [what, token] of sendable) {
      const reply = await send('GET', '/auth', { headers: { authorization: `Bearer ${token}` } })
      expect(reply.status, what).toBe(401)
      expect(expectProblem(reply, what).code, what).toBe('session_invalid')
    }
    const huge = await sendRaw(
      url,
      rawRequest('GET /auth HTTP/1.1', [`authorization: Bearer ${'a'.repeat(MEGABYTE)}`]),
    )
    expect(huge.status).toBe(431)
  })
})

// Whoever is not asked for the body of a megabyte (413) or its header (431) has been refused before reading it.
describe('introspection over HTTP', () => {
  const OVER_HTTP_RUNS = 25

  test('refuses each within 5 ms', { timeout: 60_000 }, async () => {
    const { admin, adminUrl, env } = await startHarness({
      env: { JWT_AUDIENCES: AUDIENCE, TOKEN_KEYS: tokenKey },
    })
    const authorization = `Bearer ${env['ADMIN_TOKEN'] ?? ''}`
    const ask = (token: string) =>
      admin.send('POST', '/introspect', {
        headers: { authorization, 'content-type': 'application/json' },
        body: JSON.stringify({ token }),
      })
    const sendable = Object.entries(HOSTILE).filter(([, token]) => token !== '' && token.length <= 2_000)
    expect(sendable.length).toBeGreaterThan(85)
    for (const [, token] of sendable) await ask(token) // warm

    const all: number[] = []
    let slowest = { what: '', cpuMs: 0 }
    for (const [what, token] of sendable) {
      const cpuTimes: number[] = []
      for (let run = 0; run < OVER_HTTP_RUNS; run += 1) {
        const before = process.cpuUsage()
        const startedMs = performance.now()
        const { text } = await ask(token)
        all.push(performance.now() - startedMs)
        const { user, system } = process.cpuUsage(before)
        cpuTimes.push((user + system) / 1_000)
        expect(text, what).toBe('{"active":false}')
      }
      const cpuMs = quantile(cpuTimes, 0.5) // a collection of garbage is not the token's doing
      if (cpuMs > slowest.cpuMs) slowest = { what, cpuMs }
    }
    console.log(
      `Over HTTP a hostile JWT is refused in ${quantile(all, 0.5).toFixed(2)} ms (median of ${all.length}), ` +
        `${quantile(all, 0.99).toFixed(2)} ms (p99); most CPU, with the client's: ${slowest.what}, ` +
        `${slowest.cpuMs.toFixed(2)} ms a request.`,
    )
    // CPU of client and gateway together, and the better half of the times: a busy machine changes neither much.
    expect(slowest.cpuMs).toBeLessThan(REFUSED_WITHIN_MS)
    expect(quantile(all, 0.5)).toBeLessThan(REFUSED_WITHIN_MS)

    const times: number[] = []
    for (let run = 0; run < OVER_HTTP_RUNS; run += 1) {
      const startedMs = performance.now()
      const reply = await sendRaw(
        adminUrl,
        [
          'POST /introspect HTTP/1.1',
          'host: gateway',
          'connection: close',
          `authorization: ${authorization}`,
          'content-type: application/json',
          `content-length: ${MEGABYTE}`,
          '\r\n',
        ].join('\r\n'),
      )
      times.push(performance.now() - startedMs)
      expect(reply.status).toBe(413)
    }
    expect(quantile(times, 0.5)).toBeLessThan(REFUSED_WITHIN_MS)
  })
})

function quantile(values: readonly number[], share: number): number {
  return values.toSorted((a, b) => a - b)[Math.floor(share * (values.length - 1))] ?? Number.NaN
}
