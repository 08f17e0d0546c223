/**
 * The exchange with WeChat when WeChat answers: what counts as an answer, and what does not. What is retried
 * and how often is the table at the top of src/wechat/code2session.ts.
 */
import { gzipSync } from 'node:zlib'
import { describe, expect, test } from 'vitest'
import { startHarness } from './harness/gateway.ts'
import type { Harness } from './harness/gateway.ts'
import { startTcpServer } from './harness/tcp-server.ts'
import { inOrder } from './harness/wechat.ts'
import type { FaultRule } from './simulator/faults.ts'

const OPENID = 'o--sB5rdWBfwTidbZzzn4FXfWpEg'
const SESSION_KEY = 'tQY+38pdTVnAIWCBNiM1+A=='

/** WeChat answers with this instead, and with it has used the code up. */
function answer(body: unknown, more: { contentType?: string; status?: number } = {}) {
  const text = typeof body === 'string' ? body : JSON.stringify(body)
  return { kind: 'body', body: text, when: 'after', ...more } satisfies FaultRule
}

const user = (more: object = {}) => ({ openid: OPENID, session_key: SESSION_KEY, ...more })

/** How many users have a session. */
async function userCount({ redis, keys }: Harness): Promise<number> {
  return (await redis.keys(keys.user('*').replaceAll(/[{}]/g, '?'))).length
}

describe('an answer that makes sense', () => {
  test.each<[string, FaultRule]>([
    ['as JSON called JSON', answer(user(), { contentType: 'application/json; charset=utf-8' })],
    ['as JSON called HTML', answer(user(), { contentType: 'text/html' })],
    ['with a byte order mark', answer(`\uFEFF${JSON.stringify(user())}`)],
    [
      'with slashes escaped, as WeChat does',
      answer(String.raw`{"session_key":"AmBppkx\/wIcgLBfesd\/mig==","openid":"${OPENID}"}`),
    ],
    ['with errcode 0, as the documentation shows', answer(user({ errcode: 0, errmsg: 'ok' }))],
    ['with errcode "0"', answer(user({ errcode: '0' }))],
    ['with expires_in, as in old captures', answer(user({ expires_in: 7200 }))],
    [
      'with fields nobody knows',
      answer(`{"__proto__":{"errcode":1},"is_new":true,${JSON.stringify(user()).slice(1)}`),
    ],
    ['with an empty unionid', answer(user({ unionid: '' }))],
  ])('%s logs in', async (_what, fault) => {
    const harness = await startHarness()
    const { login, wechat } = harness
    wechat.addFault(fault)
    const reply = await login({ code: wechat.issueCode().code })
    expect(reply.status).toBe(200)
    expect(await userCount(harness)).toBe(1)
    expect(reply.body.openid).toBe(OPENID)
    expect(reply.body).not.toHaveProperty('unionid')
    expect(reply.text).not.toContain('session_key')
  })
})

describe('an answer that makes no sense', () => {
  const openidOf = (openid: unknown) => answer(user({ openid }))
  const keyOf = (sessionKey: unknown) => answer(user({ session_key: sessionKey }))

  test.each<[string, FaultRule]>([
    ['garbage', { kind: 'garbage', when: 'after' }],
    ['JSON that ends in the middle', { kind: 'truncate' }],
    ['nothing', { kind: 'empty', when: 'after' }],
    ['null', answer(null)],
    ['a list', answer([user()])],
    ['a number', answer(200)],
    ['a text', answer('"ok"')],
    ['{}', answer({})],
    ['JSON and something behind it', answer(`${JSON.stringify(user())}{}`)],
    ['no openid', openidOf(undefined)],
    ['an empty openid', openidOf('')],
    ['an openid that is a number', openidOf(42)],
    ['an openid that is a list', openidOf([OPENID])],
    ['an openid that is null', openidOf(null)],
    ['an openid with a line break', openidOf(`${OPENID}\r\nx-auth-openid: admin`)],
    ['an openid of 129 characters', openidOf('o'.repeat(129))],
    ['an openid of 1 MB', openidOf('o'.repeat(1_000_000))],
    ['a unionid that is a number', answer(user({ unionid: 7 }))],
    ['no session_key', keyOf(undefined)],
    ['a session_key of 15 bytes', keyOf(Buffer.alloc(15, 1).toString('base64'))],
    ['a session_key of 17 bytes', keyOf(Buffer.alloc(17, 1).toString('base64'))],
    ['a session_key that is not base64', keyOf('!'.repeat(24))],
    ['a session_key in the alphabet of URLs', keyOf('tQY-38pdTVnAIWCBNiM1-A==')],
    ['a session_key that is a number', keyOf(1)],
    ['an errcode that is null', answer(user({ errcode: null }))],
    ['an errcode that is true', answer(user({ errcode: true }))],
    ['an errcode that is a list', answer(user({ errcode: [0] }))],
    ['an errcode that is no number', answer(user({ errcode: 'ok' }))],
    ['an errcode that is empty', answer(user({ errcode: '' }))],
    ['an errcode with a fraction', answer(user({ errcode: 0.5 }))],
    ['100 MB', { kind: 'huge', when: 'after' }],
    ['a body that never ends', { kind: 'huge', bytes: 0, when: 'after' }],
    ['a gzip bomb', { kind: 'gzip_bomb', when: 'after' }],
    ['a redirect', { kind: 'redirect', location: 'http://127.0.0.1:9/', when: 'after' }],
    ['a redirect for good', { kind: 'redirect', status: 308, location: '/sns/elsewhere', when: 'after' }],
    ['HTTP status 404', { kind: 'status', status: 404 }],
    ['HTTP status 204', { kind: 'status', status: 204 }],
  ])('%s: 503, no session, and the code is not tried again', async (_what, fault) => {
    // Of a random seed's garbage a 256th begins like a page.
    const harness = await startHarness({ simulator: { seed: 'garbage that is no page' } })
    const { login, wechat } = harness
    const { code } = wechat.issueCode()
    wechat.addFault(fault)

    const reply = await login({ code })

    expect(reply.status).toBe(503)
    expect(reply.body).toMatchObject({ code: 'wechat_answer_invalid', retry: 'new_code', status: 503 })
    expect(reply.headers['retry-after']).toMatch(/^[1-3]$/)
    expect(reply.text).not.toContain(OPENID)
    wechat.clearFaults()
    expect((await login({ code })).body).toEqual(reply.body)
    expect(wechat.history()).toHaveLength(1)
    expect(await userCount(harness)).toBe(0)
  })

  test('is cut at 64 KiB, long before its end', async () => {
    const { login, wechat } = await startHarness()
    for (const fault of [{ kind: 'huge' }, { kind: 'huge', bytes: 0 }, { kind: 'gzip_bomb' }] as const) {
      const rule = wechat.addFault(fault)
      const startedMs = performance.now()
      expect((await login({ code: wechat.issueCode().code })).body.code).toBe('wechat_answer_invalid')
      expect(performance.now() - startedMs).toBeLessThan(500)
      rule.remove()
    }
  })

  // Nothing is unpacked: a small body in gzip is as little JSON as a large one.
  test('also when it would make sense unpacked', async () => {
    const packed = gzipSync(JSON.stringify(user()))
    const wechat = await startTcpServer((socket) => {
      socket.write(`HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: ${packed.length}\r\n\r\n`)
      socket.write(packed)
    })
    const { login } = await startHarness({ env: inOrder(wechat) })
    expect((await login({ code: 'a-code-of-this-test' })).body.code).toBe('wechat_answer_invalid')
    expect(wechat.requests[0]?.text).toMatch(/accept-encoding: identity\r\n/i)
  })

  test('that breaks off in the middle: 503, and the code is not tried again', async () => {
    const { login, wechat } = await startHarness()
    for (const kind of ['reset', 'close'] as const) {
      const { code } = wechat.issueCode()
      wechat.addFault({ kind, when: 'mid_body', code })
      const reply = await login({ code })
      expect(reply.body).toMatchObject({ code: 'wechat_failed', retry: 'new_code' })
      expect((await login({ code })).body).toEqual(reply.body)
      expect(wechat.history({ code })).toMatchObject([{ decided: 'ok' }])
    }
  })
})

describe('a server error, or a page instead of JSON', () => {
  const FAULTS: [string, FaultRule][] = [
    ['HTML with status 502', { kind: 'html', status: 502 }],
    ['HTML with status 504', { kind: 'html', status: 504 }],
    ['HTML with status 200', { kind: 'html', status: 200 }],
    ['JSON with status 503', { ...answer(user(), { status: 503 }), when: 'before' }],
  ]

  test.each(FAULTS)('%s: asked once more', async (_what, fault) => {
    const { login, wechat } = await startHarness()
    const { code } = wechat.issueCode()
    wechat.addFault({ ...fault, times: 1 })
    expect((await login({ code })).status).toBe(200)
    expect(wechat.history({ code }).map(({ outcome }) => outcome)).toEqual([fault.kind, 'ok'])
  })

  test.each(FAULTS)('%s, twice: not a third time', async (_what, fault) => {
    const { login, wechat } = await startHarness()
    const { code } = wechat.issueCode()
    wechat.addFault(fault)
    const reply = await login({ code })
    expect(reply.status).toBe(503)
    expect(reply.body).toMatchObject({ code: 'wechat_failed', retry: 'new_code' })
    wechat.clearFaults()
    expect((await login({ code })).body).toMatchObject({ code: 'wechat_failed' })
    expect(wechat.history({ code })).toHaveLength(2)
  })

  test('is not asked again when less than a second is left', async () => {
    const { login, wechat } = await startHarness({ env: { LOGIN_DEADLINE_MS: '900' } })
    const { code } = wechat.issueCode()
    wechat.addFault({ kind: 'html', when: 'before' })
    expect((await login({ code })).body).toMatchObject({ code: 'wechat_failed', retry: 'new_code' })
    expect(wechat.history({ code })).toHaveLength(1)
  })

  test('that came after the code had been used: the client learns that it was our doing', async () => {
    const { login, wechat } = await startHarness()
    const { code } = wechat.issueCode()
    wechat.addFault({ kind: 'html', when: 'after', times: 1 })
    const reply = await login({ code })
    expect(reply.status).toBe(409)
    expect(reply.body).toMatchObject({ code: 'code_consumed', retry: 'new_code', errcode: 40163 })
    expect(wechat.history({ code })).toHaveLength(2)
  })

  // Whatever comes second: the first attempt may have used the code up, so it must not be sent again.
  test.each([-1, 45011])('and then errcode %i: still a new code is needed', async (errcode) => {
    const { login, wechat } = await startHarness()
    const { code } = wechat.issueCode()
    wechat.addFault({ kind: 'html', when: 'after', times: 1 })
    wechat.addFault({ kind: 'errcode', errcode })
    expect((await login({ code })).body).toMatchObject({ code: 'wechat_failed', retry: 'new_code', errcode })
  })
})

describe('errcode -1, "system busy"', () => {
  test('is asked again, four times', async () => {
    const { login, wechat } = await startHarness()
    const [code = '', another = ''] = wechat.issueCodes(2).map(({ code }) => code)
    wechat.addFault({ kind: 'errcode', errcode: -1, times: 4 })
    expect((await login({ code })).status).toBe(200)
    expect(wechat.history({ code }).map(({ outcome }) => outcome)).toEqual([-1, -1, -1, -1, 'ok'])

    wechat.addFault({ kind: 'errcode', errcode: -1 })
    expect((await login({ code: another })).body).toMatchObject({ code: 'wechat_busy', retry: 'same_code' })
    expect(wechat.history({ code: another })).toHaveLength(5)
  })

  // Two retries would lose 2.7 % of the logins.
  test('to three calls of ten: hardly a login fails, and the circuit stays closed', async () => {
    const { login, wechat, metric } = await startHarness()
    wechat.addFault({ kind: 'errcode', errcode: -1, probability: 0.3 })
    const replies = []
    for (let i = 0; i < 20; i += 1)
      replies.push(...(await Promise.all(wechat.issueCodes(25).map(({ code }) => login({ code })))))
    // 0.24 % fail: of 500, seven or more once in 3,000 runs.
    expect(replies.filter((reply) => reply.status !== 200).length).toBeLessThan(7)
    expect(await metric('wechat_breaker_state', { host: new URL(wechat.url).host })).toBe(0)
  })

  // WeChat says that the code is still good. Should it not be, that is nothing the client did.
  test('and then "code used": the client learns that it was our doing', async () => {
    const { login, wechat } = await startHarness()
    const { code } = wechat.issueCode()
    wechat.addFault({ kind: 'errcode', errcode: -1, when: 'after', times: 1 })
    expect((await login({ code })).body).toMatchObject({ code: 'code_consumed', retry: 'new_code' })
  })

  test('is not asked again beyond the deadline', async () => {
    const { login, wechat } = await startHarness({ env: { LOGIN_DEADLINE_MS: '500' } })
    const { code } = wechat.issueCode()
    wechat.addFault({ kind: 'delay', ms: 450 })
    wechat.addFault({ kind: 'errcode', errcode: -1 })
    const reply = await login({ code })
    expect(reply.body).toMatchObject({ code: 'wechat_busy', retry: 'same_code', errcode: -1 })
    expect(wechat.history({ code })).toHaveLength(1)
  })

  // A retry that left in the last moment would hardly be heard, and might use the code up.
  test('is not asked again in the last second of the deadline', async () => {
    const { login, wechat } = await startHarness()
    const { code } = wechat.issueCode()
    wechat.addFault({ kind: 'delay', ms: 2_000 })
    wechat.addFault({ kind: 'errcode', errcode: -1 })
    const startedMs = performance.now()
    expect((await login({ code })).body).toMatchObject({ code: 'wechat_busy', retry: 'same_code' })
    expect(performance.now() - startedMs).toBeLessThan(2_900)
    expect(wechat.history({ code })).toHaveLength(1)
  })
})
