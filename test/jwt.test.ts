/** JWTs for other services: what they say, how long, and who can check them. What is refused: jwt-hostile.test.ts. */
import { execFileSync } from 'node:child_process'
import { createPublicKey } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createRemoteJWKSet, decodeJwt, decodeProtectedHeader, jwtVerify } from 'jose'
import { describe, expect, onTestFinished, test } from 'vitest'
import { newKey } from './harness/environment.ts'
import { startHarness } from './harness/gateway.ts'
import type { Harness } from './harness/gateway.ts'
import { createTestJwts } from './harness/jwt.ts'

const AUDIENCES = { JWT_AUDIENCES: 'orders,https://stock.example.com/api' }
const EXPECTED = {
  issuer: 'urn:wechat-login-gateway',
  audience: 'orders',
  typ: 'at+jwt',
  algorithms: ['EdDSA'],
}

async function login({ login, wechat }: Harness, identity: { unionid?: string } = {}) {
  const issued = wechat.issueCode(identity)
  const { body } = await login({ code: issued.code })
  return { ...body, openid: issued.openid }
}

function askToken({ send }: Harness, token: string | undefined, body: unknown = { audience: 'orders' }) {
  return send('POST', '/token', {
    headers: {
      'content-type': 'application/json',
      ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
    },
    body: JSON.stringify(body),
  })
}

const keysOf = ({ url }: Harness) => createRemoteJWKSet(new URL('/.well-known/jwks.json', url))

describe('POST /token', () => {
  test('makes a session a JWT that says who, for whom and how long, and nothing of WeChat but the appid', async () => {
    const harness = await startHarness({ env: AUDIENCES })
    const unionid = 'o6_bmasdasdsad6_2sgVt7hMZOPfL'
    const session = await login(harness, { unionid })

    const reply = await askToken(harness, session.token)

    expect(reply.status).toBe(200)
    expect(reply.body).toEqual({ token: expect.any(String), token_type: 'Bearer', expires_in: 300 })
    expect(reply.headers['cache-control']).toBe('no-store')
    const { token } = reply.body
    expect(decodeProtectedHeader(token)).toEqual({
      alg: 'EdDSA',
      typ: 'at+jwt',
      kid: expect.stringMatching(/^[\w-]{43}$/),
    })
    const claims = decodeJwt(token)
    const [seconds] = await harness.redis.time()
    expect(claims).toEqual({
      iss: 'urn:wechat-login-gateway',
      sub: session.sub,
      aud: 'orders',
      iat: expect.any(Number),
      exp: Number(claims.iat) + 300,
      jti: expect.stringMatching(/^[0-9a-f-]{36}$/),
      appid: 'wx0123456789abcdef',
      client_id: 'wx0123456789abcdef',
      sid: expect.stringMatching(/^[\w-]{22}$/),
    })
    expect(Math.abs(Number(claims.iat) - Number(seconds))).toBeLessThanOrEqual(2)
    const inside = JSON.stringify(claims)
    for (const secret of [session.openid, unionid, session.token.slice(26)])
      expect(inside).not.toContain(secret)
    expect(await harness.metric('jwt_issued_total', { audience: 'orders' })).toBe(1)
  })

  test('makes a new one each time, for the audience that is asked for', async () => {
    const harness = await startHarness({ env: AUDIENCES })
    const { token } = await login(harness)
    const replies = [
      await askToken(harness, token),
      await askToken(harness, token),
      await askToken(harness, token, { audience: 'https://stock.example.com/api' }),
    ]
    const claims = replies.map(({ body }) => decodeJwt(body.token))
    expect(claims.map(({ aud }) => aud)).toEqual(['orders', 'orders', 'https://stock.example.com/api'])
    expect(new Set(claims.map(({ jti }) => jti)).size).toBe(3)
  })

  test('never outlives the session', async () => {
    const harness = await startHarness({
      env: { ...AUDIENCES, SESSION_TTL_SECONDS: '60', JWT_TTL_SECONDS: '600' },
    })
    const session = await login(harness)
    const { issued_at } = (await harness.get('/session', session.token)).body
    const { body } = await askToken(harness, session.token)
    const { exp = 0 } = decodeJwt(body.token)
    expect(body.expires_in).toBeLessThanOrEqual(60)
    expect(body.expires_in).toBeGreaterThan(40)
    expect(exp).toBeLessThanOrEqual(Number(issued_at) + 60)
  })

  test('ends with the log-out: no further JWT is made', async () => {
    const harness = await startHarness({ env: AUDIENCES })
    const { token } = await login(harness)
    await harness.delete('/session', token)
    expect(await askToken(harness, token)).toMatchObject({ status: 401, body: { code: 'session_invalid' } })
  })

  test('refuses audiences that are not configured, and strangers before they learn which are', async () => {
    const harness = await startHarness({ env: AUDIENCES })
    const { token } = await login(harness)
    for (const audience of ['payments', 'order', 'Orders', 'orders/', 'orders.', '__proto__']) {
      const reply = await askToken(harness, token, { audience })
      expect(reply, audience).toMatchObject({
        status: 400,
        body: { code: 'audience_unknown', retry: 'never' },
      })
    }
    for (const audience of ['payments', 'orders']) {
      const reply = await askToken(harness, undefined, { audience })
      expect(reply, audience).toMatchObject({ status: 401, body: { code: 'session_invalid' } })
    }
  })

  test('refuses a body that asks for anything else', async () => {
    const harness = await startHarness({ env: AUDIENCES })
    const { token } = await login(harness)
    const bodies = [
      {},
      [],
      null,
      'orders',
      { audience: '' },
      { audience: 7 },
      { audience: null },
      { audience: ['orders'] },
      { audience: ['orders', 'payments'] },
      { audience: { toString: 'orders' } },
      { audience: 'orders payments' },
      { audience: 'orders\u0000' },
      { audience: 'x'.repeat(129) },
      { audience: 'orders', expires_in: 86_400 },
      { audience: 'orders', sub: 'another' },
    ]
    for (const body of bodies) {
      const reply = await askToken(harness, token, body)
      expect(reply, JSON.stringify(body)).toMatchObject({ status: 400, body: { code: 'request_invalid' } })
    }
    expect(await harness.metric('jwt_issued_total', { audience: 'orders' })).toBe(0)
  })

  test('is off unless the operator names an audience, and then publishes no key', async () => {
    const harness = await startHarness()
    const { token } = await login(harness)
    expect(await askToken(harness, token)).toMatchObject({ status: 400, body: { code: 'audience_unknown' } })
    expect((await harness.get('/.well-known/jwks.json')).body).toEqual({ keys: [] })
  })
})

describe('a JWT', () => {
  test('is no session: every route of the bearer answers 401', async () => {
    const harness = await startHarness({ env: AUDIENCES })
    const session = await login(harness)
    const { token } = (await askToken(harness, session.token)).body
    for (const presented of [token, token.slice(0, 256), `wxs_${token}`.slice(0, 58)]) {
      const headers = { authorization: `Bearer ${presented}` }
      for (const [method, path] of [
        ['GET', '/auth'],
        ['POST', '/auth'],
        ['GET', '/session'],
        ['GET', '/sessions'],
        ['DELETE', '/session'],
        ['DELETE', '/sessions'],
      ] as const) {
        const reply = await harness.send(method, path, { headers })
        expect(reply, `${method} ${path}`).toMatchObject({ status: 401, body: { code: 'session_invalid' } })
      }
      expect((await askToken(harness, presented)).status).toBe(401)
    }
    expect((await harness.get('/session', session.token)).status).toBe(200)
  })
})

describe('GET /.well-known/jwks.json', () => {
  test('may be kept by everybody, and holds public keys only', async () => {
    const { get } = await startHarness({
      env: { ...AUDIENCES, TOKEN_KEYS: `${newKey('t2')},${newKey('t1')}` },
    })
    const { status, headers, body } = await get('/.well-known/jwks.json')
    expect(status).toBe(200)
    expect(headers['cache-control']).toBe('public, max-age=300')
    const keys = body['keys'] as Record<string, string>[]
    expect(keys).toHaveLength(2)
    for (const key of keys) {
      expect(key).toEqual({
        kty: 'OKP',
        crv: 'Ed25519',
        x: expect.stringMatching(/^[\w-]{43}$/),
        kid: expect.stringMatching(/^[\w-]{43}$/),
        alg: 'EdDSA',
        use: 'sig',
      })
    }
    expect(new Set(keys.map(({ kid }) => kid)).size).toBe(2)
  })

  test('is the same on every replica, for the keys come from the token keys', async () => {
    const shared = { ...AUDIENCES, TOKEN_KEYS: newKey('t1') }
    const [one, two] = [await startHarness({ env: shared }), await startHarness({ env: shared })]
    expect((await one.get('/.well-known/jwks.json')).text).toBe(
      (await two.get('/.well-known/jwks.json')).text,
    )
  })
})

describe('others', () => {
  test('check it with jose and nothing but the address of the keys', async () => {
    const harness = await startHarness({ env: AUDIENCES })
    const session = await login(harness)
    const { token } = (await askToken(harness, session.token)).body

    const { payload } = await jwtVerify(token, keysOf(harness), EXPECTED)

    expect(payload.sub).toBe(session.sub)
    await expect(jwtVerify(token, keysOf(harness), { ...EXPECTED, audience: 'stock' })).rejects.toThrow(/aud/)
  })

  test('check it with OpenSSL, which shares no code with us', async ({ skip }) => {
    const folder = mkdtempSync(join(tmpdir(), 'gateway-jwt-'))
    onTestFinished(() => rmSync(folder, { recursive: true }))
    const openssl = (...args: string[]) =>
      execFileSync('openssl', args, { cwd: folder, stdio: 'pipe' }).toString()
    try {
      if (Number(/OpenSSL (\d+)/.exec(openssl('version'))?.[1]) < 3) throw new Error('older than 3')
    } catch (error) {
      console.log(`Not cross-checked with OpenSSL: ${error instanceof Error ? error.message : 'absent'}`)
      skip()
    }
    const harness = await startHarness({ env: AUDIENCES })
    const { token } = (await askToken(harness, (await login(harness)).token)).body
    const [header = '', claims = '', signature = ''] = token.split('.')
    const { keys } = (await harness.get('/.well-known/jwks.json')).body as unknown as {
      keys: { x: string }[]
    }
    const pem = createPublicKey({ key: { ...keys[0] }, format: 'jwk' }).export({
      type: 'spki',
      format: 'pem',
    })
    writeFileSync(join(folder, 'key.pem'), pem)
    writeFileSync(join(folder, 'signature'), Buffer.from(signature, 'base64url'))
    writeFileSync(join(folder, 'signed'), `${header}.${claims}`)
    writeFileSync(
      join(folder, 'forged'),
      `${header}.${claims.slice(0, -1)}${claims.endsWith('A') ? 'B' : 'A'}`,
    )
    const check = (file: string) =>
      openssl(...'pkeyutl -verify -pubin -inkey key.pem -rawin -sigfile signature -in'.split(' '), file)

    expect(check('signed')).toContain('Signature Verified Successfully')
    expect(() => check('forged')).toThrow(/pkeyutl/)
  })
})

describe('rotation', () => {
  test('a JWT of the old key is good as long as that key is in the ring, and not after', async () => {
    const [older, newer] = [newKey('t1'), newKey('t2')]
    const env = { ...AUDIENCES, KEY_PREFIX: `rotation${Date.now()}:` }
    const before = await startHarness({ env: { ...env, TOKEN_KEYS: older } })
    const between = await startHarness({
      env: { ...env, TOKEN_KEYS: `${newer},${older}` },
      wechat: before.wechat,
    })
    const after = await startHarness({ env: { ...env, TOKEN_KEYS: newer }, wechat: before.wechat })
    const session = await login(before)

    const old = (await askToken(before, session.token)).body.token
    const fresh = (await askToken(between, session.token)).body.token

    expect(decodeProtectedHeader(fresh).kid).not.toBe(decodeProtectedHeader(old).kid)
    for (const token of [old, fresh]) {
      expect((await jwtVerify(token, keysOf(between), EXPECTED)).payload.sub).toBe(session.sub)
    }
    expect((await jwtVerify(fresh, keysOf(after), EXPECTED)).payload.sub).toBe(session.sub)
    await expect(jwtVerify(old, keysOf(after), EXPECTED)).rejects.toMatchObject({
      code: 'ERR_JWKS_NO_MATCHING_KEY',
    })
    // A new key is published before it signs, so that verifiers know it in time.
    const announced = await startHarness({
      env: { ...env, TOKEN_KEYS: `${older},${newer}` },
      wechat: before.wechat,
    })
    expect((await jwtVerify(fresh, keysOf(announced), EXPECTED)).payload.sub).toBe(session.sub)
  })

  test('our own check follows the ring too', async () => {
    const [older, newer] = [newKey('t1'), newKey('t2')]
    const before = createTestJwts(older)
    const { token } = await before.issue()
    expect(await createTestJwts(`${newer},${older}`).verify(token)).toMatchObject({ sub: before.subject.sub })
    expect(await createTestJwts(`${older},${newer}`).verify(token)).toMatchObject({ sub: before.subject.sub })
    expect(await createTestJwts(newer).verify(token)).toBeUndefined()
    expect(await createTestJwts(newKey('t1')).verify(token)).toBeUndefined()
  })
})

describe('its life', () => {
  test('ends by the clock of Redis, to the second', async () => {
    const jwts = createTestJwts(newKey('t1'), { ttlSeconds: 300 })
    const { token } = await jwts.issue()
    for (const [seconds, good] of [
      [0, true],
      [299, true],
      [300, false],
      [301, false],
    ] as const) {
      jwts.clock.seconds = jwts.startSeconds + seconds
      expect((await jwts.verify(token)) !== undefined, `after ${seconds} s`).toBe(good)
    }
  })

  test('is that of the session where that is shorter, and none once it has ended', async () => {
    const jwts = createTestJwts(newKey('t1'), { ttlSeconds: 300 })
    const issueUntil = (seconds: number) => jwts.issue({ endsAtSeconds: jwts.startSeconds + seconds })
    expect((await issueUntil(301)).expiresInSeconds).toBe(300)
    expect((await issueUntil(299)).expiresInSeconds).toBe(299)
    expect((await issueUntil(1)).expiresInSeconds).toBe(1)
    await expect(issueUntil(0)).rejects.toMatchObject({ code: 'session_invalid' })
  })
})
