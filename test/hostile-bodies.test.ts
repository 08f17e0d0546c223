/**
 * Bad input on the routes that come after login, with good credentials, so that nothing but the input is at
 * fault: never 5xx, always a problem, nothing of it comes back, and nobody is anybody else for it.
 */
import * as fc from 'fast-check'
import { expect, test } from 'vitest'
import { AUDIENCE } from './harness/jwt.ts'
import { APPID } from './harness/environment.ts'
import { startHarness } from './harness/gateway.ts'
import type { Harness } from './harness/gateway.ts'
import type { Reply } from './harness/client.ts'
import { expectProblem, MARK } from './harness/problem.ts'
import { rawRequest, sendRaw } from './harness/raw-http.ts'
import { logIn } from './harness/session-values.ts'

const OPENID = 'o-hostile-bodies'
const TIME_LIMIT_MS = 8_000
const JSON_TYPE: Record<string, string> = { 'content-type': 'application/json' }
const USER = { appid: APPID, openid: OPENID }
const BASE64 = `${'A'.repeat(22)}==`

interface Route {
  method: string
  path: string
  listener: 'public' | 'admin'
  /** A body of the right form, whose fields are spoilt one by one. */
  body: Record<string, unknown>
  /** Fields that take any text: only what is no text is refused. */
  free?: string[]
}

const ROUTES: readonly Route[] = [
  {
    method: 'POST',
    path: '/session/decrypt',
    listener: 'public',
    body: { encrypted_data: BASE64, iv: BASE64 },
  },
  {
    method: 'POST',
    path: '/session/verify',
    listener: 'public',
    body: { raw_data: '{}', signature: 'a'.repeat(40) },
    free: ['raw_data'],
  },
  { method: 'POST', path: '/session/phone', listener: 'public', body: { code: 'f'.repeat(64) } },
  { method: 'POST', path: '/token', listener: 'public', body: { audience: AUDIENCE } },
  {
    method: 'POST',
    path: '/sign',
    listener: 'admin',
    body: { kind: 'calendar_path', ...USER, path: 'pages/x' },
    free: ['path'],
  },
  { method: 'POST', path: '/check-session-key', listener: 'admin', body: USER },
  { method: 'POST', path: '/reset-session-key', listener: 'admin', body: USER },
  {
    method: 'POST',
    path: '/introspect',
    listener: 'admin',
    body: { token: `wxs_${'A'.repeat(54)}`, token_type_hint: 'x', appid: APPID },
    free: ['token', 'token_type_hint'],
  },
  {
    method: 'POST',
    path: '/apps',
    listener: 'admin',
    body: { appid: 'wxaaaaaaaaaaaaaaaa', secret: 'b'.repeat(32), kind: 'wechat', login_enabled: true },
  },
  {
    method: 'PUT',
    path: `/apps/${APPID}/secret`,
    listener: 'admin',
    body: { secret: 'b'.repeat(32), end_previous: true },
  },
  {
    method: 'PUT',
    path: `/users/${APPID}/o-nobody/block`,
    listener: 'admin',
    body: { reason: 'x', ttl_seconds: 60 },
    free: ['reason'],
  },
]

/** Texts that each play a trick on somebody; none is a code, an appid, an openid, base64 or a number. */
const TRICKS: readonly string[] = [
  '',
  ' ',
  `a-good-beginning${MARK}&appid=evil`,
  `a-good-beginning${MARK}%26appid%3Devil \n`,
  `../../${MARK} /..`,
  `${MARK}\r\nhost: evil`,
  `${MARK}\u0000`,
  `${MARK}\t`,
  `${MARK}\u001b[31m`,
  `${MARK}\u202e\u05d0`,
  `${MARK}😀`,
  `${MARK}\ud800`,
  `{{7*7}} ${MARK}`,
  `' OR 1=1 -- ${MARK}`,
  `redis.call("FLUSHALL") ${MARK}`,
  `${MARK} `.repeat(2_500),
]
const NO_TEXTS: readonly unknown[] = [42, -1, 1.5, null, [], [MARK], {}, { text: MARK }]

/** What a client might hope to be made of. */
const ASSIGNED: Readonly<Record<string, unknown>> = {
  sub: MARK,
  user_id: MARK,
  userId: MARK,
  role: 'admin',
  admin: true,
  active: true,
  expires_in: 1e9,
  ttlSeconds: 1e9,
  session_key: MARK,
  sessionKey: MARK,
  unionid: MARK,
  source: 'static',
  scope: MARK,
}

async function start() {
  const harness = await startHarness({ env: { JWT_AUDIENCES: AUDIENCE } })
  const { token, sub } = await logIn(harness, { openid: OPENID })
  const send = (
    { method, path, listener }: Pick<Route, 'method' | 'path' | 'listener'>,
    body: unknown,
    { query = '', headers = JSON_TYPE } = {},
  ): Promise<Reply> =>
    (listener === 'public' ? harness : harness.admin).send(method, path + query, {
      headers: { ...headers, authorization: bearer(harness, listener, token) },
      ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
    })
  /** Nothing has come of anything. */
  async function expectUntouched(): Promise<void> {
    const session = await harness.get('/session', token)
    expect({ status: session.status, sub: session.body.sub }).toEqual({ status: 200, sub })
    const apps = await harness.admin.get('/apps', harness.env['ADMIN_TOKEN'])
    expect((apps.body['apps'] as { appid: string }[]).map(({ appid }) => appid)).toEqual([APPID])
    expect(Reflect.ownKeys(Object.prototype)).toEqual(OWN_KEYS)
  }
  harness.wechat.clearHistory()
  return { harness, token, sub, send, expectUntouched }
}

/** Before the gateway has seen anything. */
const OWN_KEYS = Reflect.ownKeys(Object.prototype)

/** Taken, and none of it comes back; or refused as everything is. */
function expectHarmless(reply: Reply, what: string): void {
  if (reply.status >= 300) expectProblem(reply, what)
  expect(reply.text, what).not.toContain(MARK)
}

function bearer({ env }: Harness, listener: Route['listener'], token: string): string {
  return `Bearer ${listener === 'public' ? token : env['ADMIN_TOKEN']}`
}

// I-2
test('a field that is no such thing is refused on every route, and reaches neither WeChat nor the answer', async () => {
  const { harness, send, expectUntouched } = await start()
  for (const route of ROUTES) {
    for (const field of Object.keys(route.body)) {
      const isFree = route.free?.includes(field) ?? false
      for (const value of [...TRICKS, ...NO_TEXTS]) {
        if (value === route.body[field] || (field === 'ttl_seconds' && value === 42)) continue
        const what = `${route.path} ${field} ${JSON.stringify(value).slice(0, 60)}`
        const reply = await send(route, { ...route.body, [field]: value })
        if (isFree && typeof value === 'string') expectHarmless(reply, what)
        else expectProblem(reply, what)
      }
    }
  }
  expect(harness.wechat.history()).toEqual([])
  await expectUntouched()
}, 60_000)

// I-2
test('an address whose parts are no such thing is refused', async () => {
  const { send, expectUntouched } = await start()
  const patterns = [
    ['public', 'DELETE', '/sessions/*'],
    ['admin', 'DELETE', '/apps/*'],
    ['admin', 'GET', `/users/*/${OPENID}`],
    ['admin', 'GET', `/users/${APPID}/*`],
    ['admin', 'GET', `/users/${APPID}/*/sessions`],
    ['admin', 'DELETE', `/users/${APPID}/*/sessions`],
    ['admin', 'DELETE', `/users/${APPID}/*/block`],
  ] as const
  // An openid may be anything printable: those of other platforms are not like WeChat's.
  const tricks = TRICKS.filter((trick) => !/^[\x21-\x7e]+$/.test(trick))
  const parts = tricks.map((trick) => encodeURIComponent(trick.toWellFormed()))
  for (const [listener, method, pattern] of patterns) {
    for (const part of [...parts, '%ff', '%ED%A0%80', '%', '%zz', 'x'.repeat(200)]) {
      const path = pattern.replace('*', part)
      const reply = await send({ method, path, listener }, undefined)
      const { code } = expectProblem(reply, `${method} ${path.slice(0, 80)}`)
      expect(['request_invalid', 'uri_too_long', 'headers_too_large', 'not_found'], code).toContain(code)
    }
  }
  await expectUntouched()
}, 30_000)

// I-3 to I-5
test('a body or query that nobody has asked for is looked at all the same', async () => {
  const { send, expectUntouched } = await start()
  const routes = [
    ['public', 'DELETE', `/sessions/${'A'.repeat(22)}`],
    ['admin', 'GET', '/apps'],
    ['admin', 'DELETE', `/apps/${APPID}`],
    ['admin', 'GET', `/users/${APPID}/${OPENID}`],
    ['admin', 'GET', `/users/${APPID}/${OPENID}/sessions`],
    ['admin', 'DELETE', `/users/${APPID}/${OPENID}/sessions`],
    ['admin', 'DELETE', `/users/${APPID}/${OPENID}/block`],
  ] as const
  for (const [listener, method, path] of routes) {
    for (const query of [`?${MARK}=1`, '?__proto__[x]=1', '?appid=x&appid=y', '?%zz']) {
      const reply = await send({ listener, method, path }, undefined, { query })
      expect(expectProblem(reply, `${method} ${path}${query}`).code).toBe('request_invalid')
    }
    if (method === 'GET') continue
    for (const body of ['{', MARK, '{"__proto__":1}', `"${'x'.repeat(3_000)}"`])
      expectProblem(await send({ listener, method, path }, body), `${method} ${path} ${body.slice(0, 20)}`)
    const headers = { 'content-type': 'text/plain' }
    expectProblem(await send({ listener, method, path }, '{}', { headers }), `${method} ${path} as text`)
  }
  await expectUntouched()
}, 30_000)

// I-3, I-4, I-12
test('a field too many is refused on every route: no request makes anybody more than they are', async () => {
  const { harness, send, expectUntouched } = await start()
  for (const route of ROUTES) {
    const extended = Object.entries(ASSIGNED).map(([name, value]) => ({ ...route.body, [name]: value }))
    const written = JSON.stringify(route.body).slice(0, -1)
    const bodies: unknown[] = [
      ...extended,
      ...('openid' in route.body ? [] : [{ ...route.body, openid: 'o-another' }]),
      ...('appid' in route.body ? [] : [{ ...route.body, appid: 'wxffffffffffffffff' }]),
      { ...route.body, [MARK]: 1 },
      `${written},"__proto__":{"admin":true}}`,
      `${written},"constructor":{"prototype":{"admin":true}}}`,
      `[${written}}]`,
      written,
      `${written}} ${MARK}`,
      `\uFEFF${written}}`,
      `"${MARK}"`,
      'null',
      '['.repeat(1_000),
    ]
    for (const body of bodies) {
      if (body === 'null' && route.path.endsWith('/block')) continue // there the body may be left out
      const what = `${route.method} ${route.path} ${JSON.stringify(body).slice(-100)}`
      expect(expectProblem(await send(route, body), what).code, what).toBe('request_invalid')
    }
    for (const query of ['?a=1', `?${MARK}=1`, '?__proto__[x]=1', '?appid=x&appid=y'])
      expectProblem(await send(route, route.body, { query }), route.path + query)
  }
  expect(harness.wechat.history()).toEqual([])
  await expectUntouched()
}, 60_000)

// I-5
test('a body that is not said to be JSON is not read, however good it is', async () => {
  const { harness, token, send, expectUntouched } = await start()
  const types = [
    'text/plain',
    'application/json\ta',
    'application/json garbage',
    'application/json;charset=utf-16',
    'application/jsonp',
    'multipart/form-data; boundary=x',
    'application/x-www-form-urlencoded, application/json',
    '',
  ]
  for (const route of ROUTES) {
    for (const type of types) {
      const reply = await send(route, route.body, { headers: { 'content-type': type } })
      expectProblem(reply, `${route.path} ${type}`)
    }
    const form = await send(route, 'a=1', {
      headers: { 'content-type': 'application/x-www-form-urlencoded' },
    })
    expect(expectProblem(form, route.path).code).toBe(
      route.path === '/introspect' ? 'request_invalid' : 'media_type_unsupported',
    )
    const twice = rawRequest(
      `${route.method} ${route.path} HTTP/1.1`,
      [
        `authorization: ${bearer(harness, route.listener, token)}`,
        'content-type: application/json',
        'content-type: text/plain',
      ],
      Buffer.from(JSON.stringify(route.body)),
    )
    const url = route.listener === 'public' ? harness.url : harness.adminUrl
    expect(expectProblem(await sendRaw(url, twice), route.path).code).toBe('media_type_unsupported')
  }
  expect(harness.wechat.history()).toEqual([])
  await expectUntouched()
}, 30_000)

// I-2 to I-5, I-12: what nobody has thought of.
test(
  'random bodies of known and unknown fields never lead to a 5xx, an echo, or another session',
  async () => {
    const { harness, token, sub, send } = await start()
    const names = [...new Set(ROUTES.flatMap(({ body }) => Object.keys(body)))]
    const value = fc.oneof(
      fc.constantFrom(...TRICKS, ...NO_TEXTS),
      fc.string({ unit: 'binary', maxLength: 80 }),
      fc.stringMatching(/^[A-Za-z0-9+/_-]{4,64}={0,2}$/),
      fc.jsonValue({ maxDepth: 3 }),
    )
    const name = fc.oneof(fc.constantFrom(...names, ...Object.keys(ASSIGNED)), fc.string({ maxLength: 8 }))
    const attempt = fc.record({
      route: fc.constantFrom(...ROUTES),
      spoilt: fc.dictionary(name, value, { maxKeys: 2, noNullPrototype: true }),
      left: fc.array(name, { maxLength: 1 }),
      cut: fc.oneof({ weight: 8, arbitrary: fc.constant(0) }, fc.nat(20)),
    })
    let count = 0
    const round = fc.array(attempt, { minLength: 16, maxLength: 16 })
    await fc.assert(
      fc.asyncProperty(round, async (attempts) => {
        await Promise.all(
          attempts.map(async ({ route, spoilt, left, cut }) => {
            const fields = Object.entries({ ...route.body, ...spoilt }).filter(([key]) => !left.includes(key))
            const written = JSON.stringify(Object.fromEntries(fields))
            const reply = await send(route, written.slice(0, written.length - cut))
            count += 1
            expectHarmless(reply, `${route.path} ${written}`)
          }),
        )
      }),
      { numRuns: 300, interruptAfterTimeLimit: TIME_LIMIT_MS, markInterruptAsFailure: false },
    )
    expect(count).toBeGreaterThan(300)
    const session = await harness.get('/session', token)
    expect({ status: session.status, sub: session.body.sub }).toEqual({ status: 200, sub })
    expect(harness.wechat.summary()).toMatchObject({ repeatedParameters: 0 })
    expect(Reflect.ownKeys(Object.prototype)).toEqual(OWN_KEYS)
  },
  2 * TIME_LIMIT_MS + 10_000,
)
