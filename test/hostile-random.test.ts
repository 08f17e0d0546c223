/**
 * Thousands of random requests: whatever comes, the answer is a problem of the catalogue below 500, and what goes
 * to WeChat is an exchange with one of each parameter. fast-check prints the seed of a failure and makes it small.
 */
import * as fc from 'fast-check'
import { expect, test } from 'vitest'
import { APPID } from './harness/environment.ts'
import { startHarness } from './harness/gateway.ts'
import { expectProblem } from './harness/problem.ts'
import { rawRequest, sendRaw } from './harness/raw-http.ts'

/** Time for all of it; a machine that is busy tries fewer requests. */
const TIME_LIMIT_MS = 12_000
const ROUNDS_MAX = 400
const REQUESTS_PER_ROUND = 16
/** What an exchange carries; a second one of them would be somebody else's. */
const EXCHANGE_PARAMETERS = ['appid', 'grant_type', 'js_code', 'secret']
/** Addresses that answer 200 to anybody. */
const OPEN = new Set(['/livez', '/readyz'])

const PATHS = [
  '/login',
  '/onLogin',
  '/session',
  '/sessions',
  '/session/decrypt',
  '/session/verify',
  '/session/phone',
  '/token',
  '/auth',
  `/push/${APPID}`,
  '/livez',
  '/readyz',
]
const METHODS = ['GET', 'POST', 'PUT', 'DELETE', 'PATCH', 'OPTIONS']
const ODD_METHODS = ['TRACE', 'PROPFIND', 'QUERY', 'get', 'G\u00cbT', '']
const FIELDS = ['timestamp', 'code', 'appid', 'nonce', 'js_code', 'secret', '__proto__', 'constructor', 'x']
const TYPES = [
  'application/json; charset=utf-8',
  'application/json;',
  'text/plain',
  'multipart/form-data',
  ';',
  '',
]
const HEADERS = [
  'content-type',
  'authorization',
  'x-forwarded-for',
  'x-request-id',
  'user-agent',
  'expect',
  'cookie',
]
const TRICKY = '%&=+#?/:*(){}[]\\"\'<>;,. \t\0\u007f\u0080\u00ffaZ09_-'.split('')

const text = (maxLength: number) =>
  fc.oneof(
    fc.string({ unit: 'binary', maxLength }),
    fc.string({ unit: 'grapheme', maxLength }),
    fc.string({ unit: fc.constantFrom(...TRICKY), maxLength }),
  )
/** Without the bytes that end a line and so a header; those have tests of their own. */
const lineText = (maxLength: number) => text(maxLength).map((line) => line.replaceAll(/[\r\n]/g, ''))
const headerText = (maxLength: number) =>
  lineText(maxLength).map((line) => line.replaceAll(/[^\t\x20-\x7e\x80-\xff]/g, ''))

const goodCode = fc.stringMatching(/^[A-Za-z0-9_-]{16,32}$/)
const fieldValue = fc.oneof(goodCode, fc.stringMatching(/^[A-Za-z0-9_-]{0,18}$/), text(40))
const fieldName = fc.oneof(
  { weight: 3, arbitrary: fc.constantFrom(...FIELDS) },
  { weight: 1, arbitrary: text(8) },
)

/** Well-formed HTTP, so that what is odd in it gets past the parser. */
const formedQuery = fc
  .array(fc.tuple(fieldName, fieldValue), { maxLength: 3 })
  .map((pairs) => pairs.map(([name, value]) => `${encode(name)}=${encode(value)}`).join('&'))
const formedTarget = fc
  .tuple(fc.constantFrom(...PATHS), fc.oneof(fc.constant(''), formedQuery))
  .map(([path, query]) => (query === '' ? path : `${path}?${query}`))
const login = fc.record(
  { code: fc.oneof(goodCode, fc.jsonValue({ maxDepth: 2 })), appid: fc.constant(APPID), nonce: goodCode },
  { requiredKeys: ['code'] },
)
const json = fc.oneof(
  login,
  fc.dictionary(fieldName, fc.oneof(fieldValue, fc.jsonValue({ maxDepth: 2 })), { maxKeys: 3 }),
  fc.jsonValue({ maxDepth: 5 }),
)
const formedRequest = fc.record({
  method: fc.oneof(fc.constantFrom('GET', 'POST'), fc.constantFrom(...METHODS)),
  target: formedTarget,
  headers: fc
    .array(fc.tuple(fc.constantFrom(...HEADERS.slice(1)), headerText(60)), { maxLength: 2 })
    .chain((own) =>
      fc
        .oneof(
          { weight: 6, arbitrary: fc.constant('application/json') },
          { weight: 1, arbitrary: fc.constantFrom(...TYPES) },
        )
        .map((type) => [`content-type: ${type}`, ...own.map(([name, value]) => `${name}: ${value}`)]),
    ),
  body: fc.tuple(json, fc.oneof(fc.constant(0), fc.nat(8))).map(([value, cut]) => {
    const written = JSON.stringify(value)
    return Buffer.from(written.slice(0, written.length - cut))
  }),
})

/** Anything in any place. */
const wildRequest = fc.record({
  method: fc.constantFrom(...METHODS, ...ODD_METHODS),
  target: fc.oneof(
    fc.tuple(fc.constantFrom(...PATHS), lineText(60)).map(([path, rest]) => `${path}?${rest}`),
    headerText(40).map((rest) => `/${rest.replaceAll(/[\t ]/g, '')}`),
    lineText(40),
  ),
  headers: fc.array(
    fc.oneof(
      fc.tuple(fc.constantFrom(...HEADERS), lineText(80)).map((parts) => parts.join(': ')),
      lineText(60),
    ),
    { maxLength: 3 },
  ),
  body: fc.uint8Array({ maxLength: 2_200 }).map((bytes) => Buffer.from(bytes)),
})
const request = fc.oneof({ weight: 3, arbitrary: formedRequest }, { weight: 1, arbitrary: wildRequest })

test(
  'random requests are refused, each with a problem, and WeChat sees nothing odd',
  async () => {
    const { url, wechat } = await startHarness({
      env: { TRUST_PROXY: '127.0.0.1', WECHAT_PUSH_TOKEN: 'AAAAA' },
    })
    let count = 0
    const round = fc.array(request, { minLength: REQUESTS_PER_ROUND, maxLength: REQUESTS_PER_ROUND })
    await fc.assert(
      fc.asyncProperty(round, async (requests) => {
        const replies = await Promise.all(
          requests.map(({ method, target, headers, body }) =>
            sendRaw(url, rawRequest(`${method} ${target} HTTP/1.1`, headers, body)),
          ),
        )
        for (const [index, reply] of replies.entries()) {
          const { method, target } = requests[index] ?? { method: '', target: '' }
          count += 1
          if (OPEN.has(target.split('?')[0] ?? '') && reply.status === 200) continue
          expectProblem(reply, `${method} ${target}`)
        }
      }),
      { numRuns: ROUNDS_MAX, interruptAfterTimeLimit: TIME_LIMIT_MS, markInterruptAsFailure: false },
    )

    expect(count).toBeGreaterThan(300)
    for (const { method, path, parameters, appid } of wechat.history()) {
      expect([method, path, appid]).toEqual(['GET', '/sns/jscode2session', APPID])
      expect(parameters.toSorted()).toEqual(EXCHANGE_PARAMETERS)
    }
    expect(wechat.summary()).toMatchObject({ repeatedParameters: 0, wrongSecrets: 0 })
    expect(Reflect.ownKeys(Object.prototype)).toEqual(OWN_KEYS)
  },
  2 * TIME_LIMIT_MS + 10_000,
)

/** Before the gateway has seen anything. */
const OWN_KEYS = Reflect.ownKeys(Object.prototype)

function encode(text: string): string {
  return encodeURIComponent(text.toWellFormed())
}
