/**
 * Every fault a rule can cause, seen from the client's side of the wire, and what it leaves of the code.
 *
 * A fault that could not be observed would let a test of the gateway pass without testing anything.
 */
import { connect } from 'node:net'
import { gunzipSync } from 'node:zlib'
import { describe, expect, test } from 'vitest'
import { LOCALHOST_CERTIFICATE } from './certificate.ts'
import type { Client } from './client.ts'
import { exchangeParameters, parse, writeQuery } from './client.ts'
import { ERRMSG } from './errcodes.ts'
import type { FaultRule } from './faults.ts'
import { drawDelayMs } from './faults.ts'
import { createRandom } from './random.ts'
import type { Simulator } from './server.ts'
import { setUp } from './setting.ts'

const errcodeOf = (text: string): unknown => parse(text)['errcode'] ?? 'ok'

/** Exchanges the code over a bare socket: all that came, in how many pieces, and how it ended. */
function exchangeRaw(
  wechat: Simulator,
  code: string,
): Promise<{ received: string; pieces: number; end: 'fin' | 'reset' }> {
  return new Promise((resolve) => {
    let received = ''
    let pieces = 0
    const socket = connect(Number(new URL(wechat.url).port), '127.0.0.1', () => {
      const target = `/sns/jscode2session?${writeQuery(exchangeParameters(code))}`
      socket.write(`GET ${target} HTTP/1.1\r\nHost: wechat\r\nConnection: close\r\n\r\n`)
    })
    socket.on('data', (chunk) => {
      received += chunk.toString('latin1')
      pieces += 1
    })
    socket.on('end', () => resolve({ received, pieces, end: 'fin' }))
    socket.on('error', () => resolve({ received, pieces, end: 'reset' }))
  })
}

/** Exchanges one new code under the rule, and then once more without it. */
async function exchangeUnder(rule: FaultRule): Promise<{
  answer: Awaited<ReturnType<Client['exchange']>>
  afterwards: unknown
  wechat: Simulator
}> {
  const { wechat, client } = await setUp({ seed: 'faults' })
  const { code } = wechat.issueCode({ unionid: null })
  wechat.addFault({ ...rule, times: 1 })
  const answer = await client.exchange(code)
  const afterwards = errcodeOf((await client.exchange(code)).text)
  return { answer, afterwards, wechat }
}

const UNUSED = 'ok'
const USED = 40163

describe('errcodes', () => {
  test.each(Object.entries(ERRMSG))('%i is answered with its text: %s', async (errcode, errmsg) => {
    const { answer, afterwards } = await exchangeUnder({ kind: 'errcode', errcode: Number(errcode) })
    expect(answer.status).toBe(200)
    expect(parse(answer.text)).toEqual({
      errcode: Number(errcode),
      errmsg: expect.stringMatching(/, rid: [0-9a-f]{8}-[0-9a-f]{8}-[0-9a-f]{8}$/),
    })
    expect(answer.text).toContain(errmsg)
    expect(afterwards).toBe(UNUSED)
  })

  test('a failing call may use the code up, and have words of its own', async () => {
    const { answer, afterwards } = await exchangeUnder({
      kind: 'errcode',
      errcode: -1,
      errmsg: 'busy',
      when: 'after',
    })
    expect(parse(answer.text)['errmsg']).toMatch(/^busy, rid: /)
    expect(afterwards).toBe(USED)
  })
})

describe('no answer', () => {
  test.each([
    ['hang_before', UNUSED],
    ['hang_after', USED],
  ] as const)('%s never answers, and leaves the code %s', async (kind, afterwards) => {
    const { wechat, client } = await setUp()
    const { code } = wechat.issueCode()
    wechat.addFault({ kind, times: 1 })
    const leaving = new AbortController()
    const hanging = client.exchange(code, {}, leaving.signal)
    await wechat.received(code)
    expect(wechat.stats().requests.inFlight).toBe(1)
    leaving.abort()

    await expect(hanging).rejects.toThrow('abort')
    await expect.poll(() => wechat.stats().requests.inFlight).toBe(0)
    expect(wechat.history({ code })).toMatchObject([{ outcome: kind, fault: kind, answered: false }])
    expect(errcodeOf((await client.exchange(code)).text)).toBe(afterwards)
  })

  test('close() does not wait for hanging requests', async () => {
    const { wechat, client } = await setUp()
    const { code } = wechat.issueCode()
    wechat.addFault({ kind: 'hang_before' })
    const hanging = client.exchange(code)
    await wechat.received(code)
    await Promise.all([wechat.close(), expect(hanging).rejects.toMatchObject({ code: 'UND_ERR_SOCKET' })])
  })

  test('held requests are answered when they are released', async () => {
    const { wechat, client } = await setUp()
    const [first, second] = wechat.issueCodes(2).map(({ code }) => code)
    const hold = wechat.addFault({ kind: 'hold' })
    const answers = Promise.all([client.exchange(first), client.exchange(second)])
    await expect.poll(() => wechat.stats().held).toBe(2)
    expect(wechat.history()).toMatchObject([
      { outcome: 'pending', decided: 'ok', durationMs: null },
      { outcome: 'pending' },
    ])

    hold.remove()
    expect(hold.release()).toBe(2)
    expect((await answers).map(({ text }) => errcodeOf(text))).toEqual(['ok', 'ok'])
    expect(wechat.history()).toMatchObject([{ outcome: 'ok', fault: 'hold' }, { outcome: 'ok' }])
    expect(wechat.stats().held).toBe(0)
  })

  test('an answer held on its way back is lost when the client leaves, and its code is used up', async () => {
    const { wechat, client } = await setUp()
    const { code } = wechat.issueCode()
    wechat.addFault({ kind: 'hold', times: 1 })
    const leaving = new AbortController()
    const held = client.exchange(code, {}, leaving.signal)
    await expect.poll(() => wechat.stats().held).toBe(1)
    leaving.abort()

    await expect(held).rejects.toThrow('abort')
    await expect.poll(() => wechat.history({ code })[0]).toMatchObject({ outcome: 'gone', decided: 'ok' })
    expect(errcodeOf((await client.exchange(code)).text)).toBe(USED)
  })

  test('a request held on its way in is lost when the client leaves, and its code stays unused', async () => {
    const { wechat, client } = await setUp()
    const { code } = wechat.issueCode()
    wechat.addFault({ kind: 'hold', when: 'before', times: 1 })
    const leaving = new AbortController()
    const held = client.exchange(code, {}, leaving.signal)
    await expect.poll(() => wechat.stats().held).toBe(1)
    leaving.abort()

    await expect(held).rejects.toThrow('abort')
    await expect.poll(() => wechat.history({ code })[0]?.outcome).toBe('gone')
    expect(wechat.release()).toBe(0)
    expect(errcodeOf((await client.exchange(code)).text)).toBe(UNUSED)
  })
})

describe('a broken connection', () => {
  test.each([
    ['reset', 'before', 'reset', UNUSED],
    ['reset', 'after', 'reset', USED],
    ['close', 'before', 'fin', UNUSED],
    ['close', 'after', 'fin', USED],
  ] as const)(
    '%s %s: nothing comes but a %s, and the code is then %s',
    async (kind, when, end, afterwards) => {
      const { wechat, client } = await setUp()
      const { code } = wechat.issueCode()
      wechat.addFault({ kind, when, times: 1 })
      expect(await exchangeRaw(wechat, code)).toEqual({ received: '', pieces: 0, end })
      expect(wechat.history({ code })).toMatchObject([{ outcome: kind }])
      expect(errcodeOf((await client.exchange(code)).text)).toBe(afterwards)
    },
  )

  test.each([
    ['reset', 'reset'],
    ['close', 'fin'],
  ] as const)('%s in mid body: half of the answer, then a %s', async (kind, end) => {
    const { wechat } = await setUp()
    const { code } = wechat.issueCode()
    wechat.addFault({ kind, when: 'mid_body' })
    const raw = await exchangeRaw(wechat, code)
    const [head = '', body = ''] = raw.received.split('\r\n\r\n')
    const [, announced] = /content-length: (\d+)/.exec(head) ?? []
    expect(raw.end).toBe(end)
    expect(body).toMatch(/^\{"session_key":"/)
    expect(body).toHaveLength(Math.floor(Number(announced) / 2))
  })

  test.each(['reset', 'close'] as const)('%s on accept: it ends before there is a request', async (kind) => {
    const { wechat, client } = await setUp()
    const { code } = wechat.issueCode()
    wechat.addFault({ kind, when: 'accept', times: 1 })
    await expect(client.exchange(code)).rejects.toMatchObject({
      code: expect.stringMatching(/^(ECONNRESET|UND_ERR_SOCKET)$/),
    })
    expect(wechat.history()).toEqual([])
    expect(wechat.stats().connections.refused).toBe(1)
    expect(errcodeOf((await client.exchange(code)).text)).toBe('ok')
  })

  test('a reset is a reset under https too', async () => {
    const { wechat, client } = await setUp({ tls: LOCALHOST_CERTIFICATE })
    wechat.addFault({ kind: 'reset' })
    await expect(client.exchange(wechat.issueCode().code)).rejects.toMatchObject({ code: 'ECONNRESET' })
  })
})

describe('a strange answer', () => {
  test('truncate: the first half, or the first bytes', async () => {
    const half = await exchangeUnder({ kind: 'truncate' })
    expect(half.answer.text).toMatch(/^\{"session_key":"[^}]*$/)
    expect(half.afterwards).toBe(USED)
    const few = await exchangeUnder({ kind: 'truncate', bytes: 5 })
    expect(few.answer.text).toBe('{"ses')
  })

  test('empty: nothing at all, with status 200', async () => {
    const { answer, afterwards } = await exchangeUnder({ kind: 'empty' })
    expect([answer.status, answer.text, afterwards]).toEqual([200, '', UNUSED])
  })

  test('bom: the true answer after a byte order mark', async () => {
    const { answer, afterwards } = await exchangeUnder({ kind: 'bom' })
    expect(answer.text).toMatch(/^\uFEFF\{"session_key":/)
    expect(afterwards).toBe(USED)
  })

  test('garbage: bytes that are no JSON, the same for the same seed', async () => {
    const one = await exchangeUnder({ kind: 'garbage' })
    const two = await exchangeUnder({ kind: 'garbage', when: 'after' })
    expect(() => parse(one.answer.text)).toThrow('JSON')
    expect(two.answer.text).toBe(one.answer.text)
    expect([one.afterwards, two.afterwards]).toEqual([UNUSED, USED])
  })

  test('html: the page of a proxy, 502 or another status', async () => {
    const { answer, afterwards, wechat } = await exchangeUnder({ kind: 'html' })
    expect([answer.status, answer.contentType, afterwards]).toEqual([502, 'text/html', UNUSED])
    expect(answer.text).toContain('<center>nginx</center>')
    expect(wechat.history()[0]).toMatchObject({ outcome: 'html', decided: null })
    expect((await exchangeUnder({ kind: 'html', status: 504 })).answer.status).toBe(504)
  })

  test('status: another status with nothing, or with the true answer', async () => {
    const before = await exchangeUnder({ kind: 'status', status: 503 })
    expect([before.answer.status, before.answer.text, before.afterwards]).toEqual([503, '', UNUSED])
    const after = await exchangeUnder({ kind: 'status', status: 500, when: 'after' })
    expect([after.answer.status, errcodeOf(after.answer.text), after.afterwards]).toEqual([500, 'ok', USED])
  })

  test('redirect: to a location', async () => {
    const location = 'https://evil.example/sns/jscode2session'
    const { answer } = await exchangeUnder({ kind: 'redirect', location })
    expect([answer.status, answer.headers['location']]).toEqual([302, location])
    expect((await exchangeUnder({ kind: 'redirect', location, status: 307 })).answer.status).toBe(307)
  })

  test('content_type: the true answer under another type', async () => {
    const { answer } = await exchangeUnder({ kind: 'content_type', contentType: 'text/html' })
    expect([answer.contentType, errcodeOf(answer.text)]).toEqual(['text/html', 'ok'])
  })

  test('body: any answer, word for word', async () => {
    const body = '{"session_key":"too short","openid":"a","openid":"b"}'
    const { answer, afterwards } = await exchangeUnder({
      kind: 'body',
      body,
      status: 201,
      contentType: 'application/json',
      headers: { 'x-one': '1' },
      when: 'after',
    })
    expect([answer.status, answer.text, answer.contentType]).toEqual([201, body, 'application/json'])
    expect(answer.headers['x-one']).toBe('1')
    expect(afterwards).toBe(USED)
  })

  test('trickle: the true answer byte by byte', async () => {
    const { wechat } = await setUp()
    wechat.addFault({ kind: 'trickle', ms: 1 })
    const raw = await exchangeRaw(wechat, wechat.issueCode().code)
    const [, body = ''] = raw.received.split('\r\n\r\n')
    expect(errcodeOf(body)).toBe('ok')
    expect(raw.pieces).toBeGreaterThan(body.length / 4)
  })

  test('huge: a hundred megabytes, or as many bytes as asked', async () => {
    const { answer } = await exchangeUnder({ kind: 'huge', bytes: 1_000_000 })
    expect(answer.text.length).toBeGreaterThan(1_000_000)
    expect(answer.headers['content-length']).toBeUndefined()
  })

  test.each([
    { kind: 'huge', bytes: 0 },
    { kind: 'trickle', ms: 1, endless: true },
  ] as const)('endless: $kind goes on until the client leaves', async (rule) => {
    const { wechat, client } = await setUp()
    const { code } = wechat.issueCode()
    wechat.addFault(rule)
    const leaving = new AbortController()
    const endless = client.exchange(code, {}, leaving.signal)
    await wechat.received(code)
    leaving.abort()
    await expect(endless).rejects.toThrow('abort')
    await expect.poll(() => wechat.stats().requests.inFlight).toBe(0)
  })

  test('gzip_bomb: unpacks to a thousand times its size', async () => {
    const { answer } = await exchangeUnder({ kind: 'gzip_bomb', bytes: 10_000_000 })
    expect(answer.headers['content-encoding']).toBe('gzip')
    expect(gunzipSync(answer.bytes)).toHaveLength(10_000_000)
    expect(answer.bytes.length).toBeLessThan(20_000)
  })
})

/** Twenty thousand delays in ascending order. */
function draw(delay: Parameters<typeof drawDelayMs>[0]): number[] {
  const random = createRandom('delays', 'test')
  return Array.from({ length: 20_000 }, () => drawDelayMs(delay, random)).toSorted((a, b) => a - b)
}

describe('delays', () => {
  test('a delay after: the code is used up at once and the answer is late', async () => {
    const { wechat, client } = await setUp()
    const { code } = wechat.issueCode()
    wechat.addFault({ kind: 'delay', ms: 40, times: 1 })
    const late = client.exchange(code)
    await wechat.received(code)
    expect(errcodeOf((await client.exchange(code)).text)).toBe(USED)
    expect(errcodeOf((await late).text)).toBe('ok')
    expect(wechat.history()[0]).toMatchObject({ fault: 'delay', outcome: 'ok' })
    await expect.poll(() => wechat.history()[0]?.durationMs).toBeGreaterThanOrEqual(39)
  })

  test('a delay before: another exchange may overtake', async () => {
    const { wechat, client } = await setUp()
    const { code } = wechat.issueCode()
    wechat.addFault({ kind: 'delay', ms: 40, when: 'before', times: 1 })
    const late = client.exchange(code)
    await wechat.received(code)
    expect(errcodeOf((await client.exchange(code)).text)).toBe('ok')
    expect(errcodeOf((await late).text)).toBe(USED)
  })

  test('a delay and another fault meet in one request', async () => {
    const { wechat, client } = await setUp()
    wechat.addFault({ kind: 'errcode', errcode: -1 })
    wechat.addFault({ kind: 'delay', ms: 20 })
    expect(errcodeOf((await client.exchange(wechat.issueCode().code)).text)).toBe(-1)
    await expect.poll(() => wechat.history()[0]?.durationMs).toBeGreaterThanOrEqual(19)
  })

  test('distributions have the numbers that were asked for', () => {
    const uniform = draw({ minMs: 30, maxMs: 70 })
    expect(uniform[0]).toBeGreaterThanOrEqual(30)
    expect(uniform[10_000]).toBeCloseTo(50, -0.5)
    expect(uniform.at(-1)).toBeLessThan(70)

    const lognormal = draw({ medianMs: 50, p99Ms: 400 })
    expect(lognormal[10_000]).toBeGreaterThan(48)
    expect(lognormal[10_000]).toBeLessThan(52)
    expect(lognormal[19_800]).toBeGreaterThan(360)
    expect(lognormal[19_800]).toBeLessThan(440)
  })
})
