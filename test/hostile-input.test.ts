/**
 * Bad input on every route: each is refused with a 4xx problem that tells nothing of what was sent, and none of
 * it reaches WeChat. Input below HTTP is in hostile-connections.test.ts.
 */
import { describe, expect, test } from 'vitest'
import { startHarness } from './harness/gateway.ts'
import type { Harness } from './harness/gateway.ts'
import { expectProblem, MARK } from './harness/problem.ts'
import { rawRequest, sendRaw } from './harness/raw-http.ts'

const JSON_TYPE = { 'content-type': 'application/json' }
const LOGIN_PATHS = ['/login', '/onLogin']
const CODE = 'a-code-that-is-well-formed'

/** Texts that are no code, each a trick on somebody between the client and WeChat. */
const BAD_CODES: readonly string[] = [
  '',
  ' ',
  'too-short-code1',
  'x'.repeat(129),
  'x'.repeat(1_900),
  `${CODE}${MARK}&appid=evil`,
  `${CODE}${MARK}%26appid%3Devil`,
  `${CODE}${MARK}#`,
  `${CODE}${MARK}?secret=x`,
  `${CODE}${MARK};js_code=x`,
  `../../../cgi-bin/token?${MARK}`,
  `${CODE}${MARK}\r\nhost: evil`,
  `${CODE}${MARK}\n`,
  `\n${CODE}${MARK}`,
  `${CODE}${MARK}\t`,
  `${CODE}${MARK}\u0000`,
  `${CODE}${MARK}\u0007`,
  `${CODE}${MARK}\u001b[31m`,
  `${CODE}${MARK}\u007f`,
  `${CODE}${MARK} `,
  `${CODE}${MARK}\u202e\u05d0`,
  `${CODE}${MARK}\u200b`,
  `${CODE}${MARK}😀`,
  `${CODE}${MARK}\ud800`,
  `ｃｏｄｅ－ｉｎ－ｗｉｄｅ－ｌｅｔｔｅｒｓ${MARK}`,
  `{{7*7}}-${CODE}${MARK}`,
  `' OR 1=1 -- ${CODE}${MARK}`,
  `<script>${CODE}${MARK}</script>`,
  `redis.call("FLUSHALL") ${MARK}`,
  'the code is a mock one',
]

/** Values of JSON that are no text. */
const NO_TEXTS: readonly unknown[] = [42, 0, -1, 1.5, true, false, null, [], [CODE], {}, { text: CODE }]

const postJson = (harness: Harness, path: string, body: string) =>
  harness.send('POST', path, { headers: JSON_TYPE, body })

/** Nothing has gone to WeChat. */
function expectUnasked({ wechat }: Harness): void {
  expect(wechat.history()).toEqual([])
}

/** A body of this many bytes, of which nearly all is the code. */
const bodyOf = (bytes: number) => JSON.stringify({ code: 'x'.repeat(bytes - '{"code":""}'.length) })

/** Half a character cannot be encoded as UTF-8, but somebody may try. */
const encode = (text: string) => (text.isWellFormed() ? encodeURIComponent(text) : '%ED%A0%80')

describe('the body of a login', () => {
  test('that is no JSON is refused', async () => {
    const harness = await startHarness()
    const good = JSON.stringify({ code: CODE })
    const bodies: Record<string, string | Buffer> = {
      'no JSON': `code=${MARK}`,
      'one brace': '{',
      cut: good.slice(0, -3),
      'something behind it': `${good}${MARK}`,
      'a second value behind it': `${good}${good}`,
      'a byte order mark before it': `\uFEFF${good}`,
      comments: `{/* ${MARK} */"code":"${CODE}"}`,
      'a comma too many': `{"code":"${CODE}",}`,
      'quotes of the wrong kind': `{'code':'${CODE}'}`,
      NaN: '{"code":NaN}',
      'a number beyond numbers': `{"code":1e400}`,
      nested: `{"code":${'['.repeat(900)}${']'.repeat(900)}}`,
      'nested and not closed': '['.repeat(2_000),
      'a lone surrogate': String.raw`{"code":"${CODE}\ud800"}`,
      'half a surrogate': String.raw`{"code":"${CODE}\ud8"}`,
      'bytes that are no UTF-8': Buffer.concat([
        Buffer.from(`{"code":"${CODE}`),
        Buffer.from([0xc3, 0x28, 0xff]),
        Buffer.from('"}'),
      ]),
      'UTF-16': Buffer.from(good, 'utf16le'),
      NULs: Buffer.alloc(64),
      blanks: ' '.repeat(100),
    }
    for (const path of LOGIN_PATHS) {
      for (const [what, body] of Object.entries(bodies)) {
        const reply = await sendRaw(
          harness.url,
          rawRequest(`POST ${path} HTTP/1.1`, ['content-type: application/json'], Buffer.from(body)),
        )
        expect(expectProblem(reply, what).code, what).toBe('request_invalid')
      }
    }
    expectUnasked(harness)
  })

  test('that is JSON but no login is refused', async () => {
    const harness = await startHarness()
    const values: unknown[] = [
      ...NO_TEXTS,
      'a text',
      { Code: CODE },
      { js_code: CODE },
      { code: CODE, [MARK]: 1 },
      { code: CODE, role: 'admin' },
      { code: CODE, openid: 'o-somebody-else' },
      { code: CODE, session_key: 'x' },
      { code: CODE, expires_in: 1e9 },
      { data: { code: CODE } },
      ...NO_TEXTS.map((code) => ({ code })),
      ...NO_TEXTS.map((appid) => ({ code: CODE, appid })),
      ...NO_TEXTS.map((nonce) => ({ code: CODE, nonce })),
      ...BAD_CODES.map((code) => ({ code })),
      ...['', 'wx', 'wx0123456789abcdef&x=1', `wx ${MARK}`, 'x'.repeat(65)].map((appid) => ({
        code: CODE,
        appid,
      })),
      ...['', 'short', `${MARK} with a blank`, 'x'.repeat(65)].map((nonce) => ({ code: CODE, nonce })),
    ]
    for (const path of LOGIN_PATHS) {
      for (const value of values) {
        const what = `${path} ${JSON.stringify(value)}`
        expect(expectProblem(await postJson(harness, path, JSON.stringify(value)), what).code, what).toBe(
          'request_invalid',
        )
      }
    }
    expectUnasked(harness)
  })

  test('of a length that a code cannot have does not reach WeChat, and of one that it can have does', async () => {
    const { login, wechat } = await startHarness()
    const lengths = [1, 15, 16, 32, 128, 129, 1_000]
    for (const length of lengths) await login({ code: 'x'.repeat(length) })
    expect(wechat.history().map(({ code }) => code?.length)).toEqual([16, 32, 128])
  })

  test('with the name of an app that is not here is refused', async () => {
    const harness = await startHarness()
    const reply = await harness.login({ code: CODE, appid: `wx${MARK}` })
    expect(expectProblem(reply, 'appid').code).toBe('appid_unknown')
    expectUnasked(harness)
  })

  test('may have 2 KiB and not a byte more', async () => {
    const harness = await startHarness()
    expect(expectProblem(await postJson(harness, '/login', bodyOf(2_048)), '2048').code).toBe(
      'request_invalid',
    )
    for (const bytes of [2_049, 4_096, 10_000]) {
      const reply = await sendRaw(
        harness.url,
        rawRequest('POST /login HTTP/1.1', ['content-type: application/json'], Buffer.from(bodyOf(bytes))),
      )
      expect(expectProblem(reply, String(bytes)).code).toBe('body_too_large')
    }
    expectUnasked(harness)
  })

  // The gateway runs in this process: what it did to prototypes would be seen here.
  test('cannot reach for the prototype', async () => {
    const harness = await startHarness()
    const before = Reflect.ownKeys(Object.prototype)
    const bodies = [
      `{"__proto__":{"polluted":"${MARK}"},"code":"${CODE}"}`,
      `{"code":"${CODE}","constructor":{"prototype":{"polluted":true}}}`,
      `{"code":{"__proto__":{"polluted":true}}}`,
      String.raw`{"\u005f_proto__":{"polluted":true},"code":"${CODE}"}`,
      `{"__proto__":{"code":"${CODE}"}}`,
      `{"code":"${CODE}","toString":"x"}`,
      `{"code":"${CODE}","hasOwnProperty":1}`,
    ]
    for (const path of LOGIN_PATHS) {
      for (const body of bodies) expectProblem(await postJson(harness, path, body), body)
      for (const name of ['__proto__[polluted]', '__proto__.polluted', 'constructor[prototype][polluted]']) {
        expectProblem(await harness.get(`${path}?code=${CODE}&${name}=1`), name)
      }
    }
    expect(Reflect.ownKeys(Object.prototype)).toEqual(before)
    expect(({} as Record<string, unknown>)['polluted']).toBeUndefined()
    expectUnasked(harness)
  })

  test.each([
    'text/plain',
    'text/json',
    'application/x-www-form-urlencoded',
    'multipart/form-data; boundary=x',
    'application/octet-stream',
    'application/jsonx',
    'application/vnd.api+json',
    'application/json\ta',
    'application/json garbage',
    'application/json, text/plain',
    'application/json; charset=utf-16',
    'application/json; charset=utf-8; x=y',
    'application/json; x',
    'application/json;',
    'application/',
    'application',
    'json',
    '*/*',
    ';;;',
    '"',
  ])('called %j is refused unread', async (type) => {
    const harness = await startHarness()
    for (const path of LOGIN_PATHS) {
      const reply = await harness.send('POST', path, {
        headers: { 'content-type': type },
        body: JSON.stringify({ code: CODE }),
      })
      expect(expectProblem(reply, type).code).toBe('media_type_unsupported')
    }
    expectUnasked(harness)
  })

  test('may be called JSON in the ways that clients do', async () => {
    const { send, wechat } = await startHarness()
    const types = [
      'application/json',
      'Application/JSON',
      'application/json;charset=utf-8',
      'application/json; charset=UTF-8',
    ]
    for (const type of types) {
      const body = JSON.stringify({ code: wechat.issueCode().code })
      const reply = await send('POST', '/login', { headers: { 'content-type': type }, body })
      expect(reply.status, type).toBe(200)
    }
  })
})

describe('the address of a login', () => {
  test('is as strict as the body', async () => {
    const harness = await startHarness()
    const queries = [
      '',
      'code',
      'code=',
      ...BAD_CODES.map((code) => `code=${encode(code)}`),
      `code=${'x'.repeat(4_096)}`,
      `code=${CODE}&appid=${'x'.repeat(65)}`,
      `code=${CODE}&nonce=short`,
      `code=${CODE}&code=${CODE}`,
      `code=${CODE}&code=`,
      `code[]=${CODE}`,
      `code[0]=${CODE}`,
      `code.x=${CODE}`,
      `code=${CODE}&appid=wx0123456789abcdef&appid=evil`,
      `code=${CODE}&${MARK}=1`,
      `code=${CODE}&secret=${MARK}`,
      `code=${CODE}&js_code=${MARK}`,
      `js_code=${CODE}`,
      `code=${CODE}&__proto__=${MARK}`,
      `code=${CODE}&__proto__[polluted]=1`,
      `code=${CODE}&constructor[prototype][polluted]=1`,
      `__proto__[code]=${CODE}`,
      `code=${CODE}%00`,
      `code=%zz${CODE}`,
      `code=${CODE}%ff%fe`,
      `code=${CODE};appid=x`,
      `code=${CODE}?code=${CODE}`,
      `;code=${CODE}`,
    ]
    for (const path of LOGIN_PATHS) {
      for (const query of queries) {
        const what = `GET ${path}?${query}`
        expect(expectProblem(await harness.get(`${path}?${query}`), what).code, what).toBe('request_invalid')
      }
    }
    expectUnasked(harness)
  })

  test('says nothing beside the body', async () => {
    const harness = await startHarness()
    for (const path of LOGIN_PATHS) {
      for (const query of [`code=${CODE}`, `appid=${MARK}`, `${MARK}=1`, '__proto__=1']) {
        const reply = await postJson(harness, `${path}?${query}`, JSON.stringify({ code: CODE }))
        expect(expectProblem(reply, query).code).toBe('request_invalid')
      }
      const body = JSON.stringify({ code: CODE })
      expectProblem(await harness.send('GET', path, { headers: JSON_TYPE, body }), 'a GET with a body')
    }
    expectUnasked(harness)
  })
})

describe('an address', () => {
  const ADDRESSES = [
    `/${MARK}`,
    `/login/${MARK}`,
    '/login/',
    '/Login',
    '//login',
    '/login;x',
    '/login%2f',
    '/login%00',
    '/session/../login',
    '/../../etc/passwd',
    `/${MARK}?code=${MARK}`,
    '/__proto__',
    '/constructor',
    // Patterns of the router, should it take an address for one.
    '/:',
    '/::',
    '/:a(',
    '/:a(b',
    '/:a(^(a+)+$)',
    '/:a?',
    '/:a?/b',
    '/:a-:b',
    '/*',
    '/*a',
    '/a*b*',
    '/(',
    '/[',
    `/${'a('.repeat(100)}`,
  ]

  // By hand: a client would tidy up some of them.
  test('where nothing is: 404, and nothing of it comes back', async () => {
    const { url } = await startHarness()
    for (const address of ADDRESSES) {
      for (const method of ['GET', 'POST', 'DELETE', 'PATCH']) {
        const line = `${method} ${address} HTTP/1.1`
        expect(expectProblem(await sendRaw(url, rawRequest(line)), line).code, line).toBe('not_found')
      }
    }
  })

  test('that is wrongly encoded: 400', async () => {
    const { url } = await startHarness()
    for (const address of [`/%zz${MARK}`, '/%', '/login%', '/%c3%28', '/%ff']) {
      const reply = await sendRaw(url, rawRequest(`GET ${address} HTTP/1.1`))
      expect(expectProblem(reply, address).code, address).toBe('request_invalid')
    }
  })

  test('that does not answer a method: 405, with those that it does answer', async () => {
    const { url, send } = await startHarness()
    const allowed: Record<string, string[]> = {
      '/login': ['GET', 'POST'],
      '/onLogin': ['GET', 'POST'],
      '/session': ['DELETE', 'GET'],
      '/sessions': ['DELETE', 'GET'],
      '/livez': ['GET'],
      '/readyz': ['GET'],
    }
    for (const [path, methods] of Object.entries(allowed)) {
      for (const method of ['GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'TRACE', 'PROPFIND']) {
        if (methods.includes(method)) continue
        const what = `${method} ${path}`
        const reply = await sendRaw(url, rawRequest(`${method} ${path}?${MARK} HTTP/1.1`))
        expect(expectProblem(reply, what).code, what).toBe('method_not_allowed')
        expect(reply.headers['allow']?.split(', ').toSorted(), what).toEqual(methods)
      }
      const head = await send('HEAD', path)
      expect([head.status, head.text]).toEqual([405, ''])
    }
    expect(expectProblem(await sendRaw(url, rawRequest('TRACE /auth HTTP/1.1')), 'TRACE').code).toBe(
      'method_not_allowed',
    )
  })
})
