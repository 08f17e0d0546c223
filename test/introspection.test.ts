/** POST /introspect (RFC 7662), and forward auth for one app alone. */
import { describe, expect, test } from 'vitest'
import { APP_SECRET, APPID } from './harness/environment.ts'
import { writeTemporary } from './harness/configuration.ts'
import { startHarness } from './harness/gateway.ts'
import type { Harness } from './harness/gateway.ts'
import { signEd25519, signingKeyOf } from './harness/jwt.ts'
import { expectProblem } from './harness/problem.ts'
import { ageSession, logIn } from './harness/session-values.ts'

const OTHER_APPID = 'wxfedcba9876543210'
const APPS = [
  { appid: APPID, secret: APP_SECRET },
  { appid: OTHER_APPID, secret: 'd00d1e00d00d1e00d00d1e00d00d1e00' },
]
const FORM = 'application/x-www-form-urlencoded'

/** A gateway of two apps. */
function startTwoApps(): Promise<Harness> {
  const env = { WECHAT_APPID: '', WECHAT_SECRET: '', WECHAT_APPS_FILE: writeTemporary(JSON.stringify(APPS)) }
  return startHarness({ env, simulator: { apps: APPS } })
}

function introspector(harness: Harness) {
  const authorization = `Bearer ${harness.env['ADMIN_TOKEN'] ?? ''}`
  return (
    body: string | Record<string, unknown>,
    type = typeof body === 'string' ? FORM : 'application/json',
  ) =>
    harness.admin.send('POST', '/introspect', {
      headers: { authorization, 'content-type': type },
      body: typeof body === 'string' ? body : JSON.stringify(body),
    })
}

describe('introspection', () => {
  test('says who the bearer is, asked by form and by JSON', async () => {
    const harness = await startHarness()
    const introspect = introspector(harness)
    const { token, sub, openid, unionid } = await logIn(harness)
    const replies = [
      await introspect(`token=${token}`),
      await introspect(`token=${token}&token_type_hint=access_token`),
      await introspect(`token=${token}`, `${FORM}; charset=utf-8`),
      await introspect({ token }),
      await introspect({ token, appid: APPID }),
    ]
    for (const { status, body, headers } of replies) {
      expect(status).toBe(200)
      expect(headers['cache-control']).toBe('no-store')
      expect(body).toEqual({
        active: true,
        sub,
        client_id: APPID,
        appid: APPID,
        token_type: 'Bearer',
        iat: expect.closeTo(Date.now() / 1000, -1),
        exp: expect.closeTo(Date.now() / 1000 + 604_800, -1),
        openid,
        unionid,
        device: 'other',
      })
    }
  })

  test('says nothing but that it is not active of everything else', async () => {
    const harness = await startHarness()
    const introspect = introspector(harness)
    const ended = await logIn(harness, { openid: 'o-ended' })
    await harness.delete('/session', ended.token)
    const expired = await logIn(harness, { openid: 'o-expired' })
    await ageSession(harness, expired.sub, { opened: 604_800 })
    const live = await logIn(harness)
    const tokens = [
      ended.token,
      expired.token,
      `${live.token.slice(0, -1)}${live.token.endsWith('A') ? 'B' : 'A'}`,
      `Bearer ${live.token}`,
      ` ${live.token}`,
      'x',
      'wxs_',
      '__proto__',
      '\0',
      'a'.repeat(1_500),
      'eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9.',
      'a.b.c',
      '..',
    ]
    for (const token of tokens) {
      for (const reply of [
        await introspect({ token }),
        await introspect(new URLSearchParams({ token }).toString()),
      ])
        expect([token, reply.status, reply.text]).toEqual([token, 200, '{"active":false}'])
    }
  })

  test('asked for another app, knows no token of this one', async () => {
    const harness = await startTwoApps()
    const introspect = introspector(harness)
    const one = await logIn(harness, { appid: APPID })
    const other = await logIn(harness, { appid: OTHER_APPID })
    for (const [token, own, foreign] of [
      [one.token, APPID, OTHER_APPID],
      [other.token, OTHER_APPID, APPID],
    ] as const) {
      expect((await introspect({ token, appid: own })).body['appid']).toBe(own)
      expect((await introspect({ token, appid: foreign })).text).toBe('{"active":false}')
      expect((await introspect(`token=${token}&appid=${foreign}`)).text).toBe('{"active":false}')
    }
    expect(await harness.metric('session_validations_total', { outcome: 'other_app' })).toBe(4)
  })

  test('of a JWT gives its claims, for its app alone, and no word of openid', async () => {
    const harness = await startHarness({ env: { JWT_AUDIENCES: 'orders' } })
    const introspect = introspector(harness)
    const { token, sub, openid } = await logIn(harness)
    const made = await harness.send('POST', '/token', {
      headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
      body: JSON.stringify({ audience: 'orders' }),
    })
    const jwt = made.body.token
    const { body, text } = await introspect({ token: jwt, appid: APPID })
    expect(body).toMatchObject({ active: true, sub, aud: 'orders', client_id: APPID, token_type: 'Bearer' })
    expect(text).not.toContain(openid)
    expect((await introspect({ token: jwt, appid: OTHER_APPID })).text).toBe('{"active":false}')
    const [head = '', claims = ''] = jwt.split('.')
    expect((await introspect({ token: `${head}.${claims}.${'A'.repeat(86)}` })).text).toBe('{"active":false}')
  })

  test('of a JWT says so as soon as the session it was made from has ended, and of no other', async () => {
    const env = { JWT_AUDIENCES: 'orders', SESSION_CACHE_SECONDS: '5' }
    const harness = await startHarness({ env })
    const introspect = introspector(harness)
    const openid = 'o-with-two-phones'
    const phone = await logIn(harness, { openid })
    const tablet = await logIn(harness, { openid })
    const jwtOf = async (token: string) =>
      (await harness.post('/token', { audience: 'orders' }, token)).body.token
    const [ofPhone, ofTablet] = [await jwtOf(phone.token), await jwtOf(tablet.token)]
    expect((await introspect({ token: ofPhone })).body['active']).toBe(true)
    await harness.delete('/session', phone.token)
    expect((await introspect({ token: ofPhone })).text).toBe('{"active":false}')
    const { body } = await introspect({ token: ofTablet })
    const { sessions } = (await harness.get('/sessions', tablet.token)).body
    expect(body).toMatchObject({ active: true, sid: sessions[0]?.id })
    await harness.admin.send('PUT', `/users/${APPID}/${openid}/block`, {
      headers: { authorization: `Bearer ${harness.env['ADMIN_TOKEN'] ?? ''}` },
    })
    expect((await introspect({ token: ofTablet })).text).toBe('{"active":false}')
  })

  test('takes a JWT of the version before, which does not name its session', async () => {
    const harness = await startHarness({ env: { JWT_AUDIENCES: 'orders' } })
    const { token } = await logIn(harness)
    const jwt = (await harness.post('/token', { audience: 'orders' }, token)).body.token
    const [head = '', text = ''] = jwt.split('.').map((part) => Buffer.from(part, 'base64url').toString())
    const { sid: _sid, ...claims } = JSON.parse(text) as Record<string, unknown>
    const before = signEd25519(signingKeyOf(harness.env['TOKEN_KEYS'] ?? ''), head, claims)
    expect((await introspector(harness)({ token: before })).body).toEqual({
      active: true,
      token_type: 'Bearer',
      ...claims,
    })
  })

  test('is refused without the admin token, also to the bearer', async () => {
    const harness = await startHarness()
    const { token } = await logIn(harness)
    for (const authorization of [undefined, `Bearer ${token}`, 'Basic eDp5']) {
      const reply = await harness.admin.send('POST', '/introspect', {
        headers: { 'content-type': FORM, ...(authorization === undefined ? {} : { authorization }) },
        body: `token=${token}`,
      })
      expect(expectProblem(reply, String(authorization)).code).toBe('admin_unauthorized')
    }
    const open = await harness.send('POST', '/introspect', {
      headers: { 'content-type': FORM },
      body: `token=${token}`,
    })
    expect(open.status).toBe(404)
  })

  test('demands one token, correctly named and typed', async () => {
    const harness = await startHarness()
    const introspect = introspector(harness)
    const { token } = await logIn(harness)
    for (const body of [
      '',
      'token=',
      `token=${token}&token=${token}`,
      `token=${token}&appid=${APPID}&appid=${APPID}`,
      // Misspelt, so that the app would not be checked.
      `token=${token}&app_id=${OTHER_APPID}`,
      `token=${token}&__proto__=x`,
      `token=${'x'.repeat(2_100)}`,
      { token: 7 },
      { token: [token] },
      { token, appid: 'x' },
      { token, appId: APPID },
      {},
    ]) {
      expectProblem(await introspect(body), JSON.stringify(body).slice(0, 80))
    }
    for (const type of [
      'text/plain',
      'multipart/form-data',
      `${FORM}; charset=utf-16`,
      `${FORM}x`,
      `${FORM}\tx`,
    ]) {
      expect(expectProblem(await introspect(`token=${token}`, type), type).code).toBe(
        'media_type_unsupported',
      )
    }
  })

  test('without Redis is 503, and never "not active"', async () => {
    const harness = await startHarness()
    const introspect = introspector(harness)
    const { token, sub } = await logIn(harness)
    // The wrong type stands for any failure of Redis.
    await harness.redis.set(harness.keys.user(sub), 'not a hash')
    const reply = await introspect({ token })
    expect([reply.status, reply.body.code]).toEqual([503, 'store_unavailable'])
  })
})

describe('forward auth for one app', () => {
  test('lets the tokens of that app pass and no others', async () => {
    const harness = await startTwoApps()
    const { token } = await logIn(harness, { appid: APPID })
    const ask = (required: string) =>
      harness.send('GET', '/auth', {
        headers: { authorization: `Bearer ${token}`, 'x-auth-require-appid': required },
      })
    expect((await ask(APPID)).status).toBe(200)
    for (const required of [
      OTHER_APPID,
      '',
      'x',
      `${APPID}, ${OTHER_APPID}`,
      APPID.toUpperCase(),
      '__proto__',
    ]) {
      const reply = await ask(required)
      expect([required, reply.status]).toEqual([required, 401])
      expect(Object.keys(reply.headers).filter((name) => name.startsWith('x-auth'))).toEqual([])
    }
    // It is a 401 like any other, and the session goes on.
    expect((await ask(OTHER_APPID)).text).toBe((await harness.get('/auth', 'x')).text)
    expect((await harness.get('/auth', token)).status).toBe(200)
  })
})
