/** Requests that are wrong below what an HTTP library would send: framing, sizes, slowness, half-closed sockets. */
import { once } from 'node:events'
import { connect } from 'node:net'
import { promisify } from 'node:util'
import { describe, expect, onTestFinished, test } from 'vitest'
import { startHarness } from './harness/gateway.ts'
import type { Harness } from './harness/gateway.ts'
import { expectProblem, MARK } from './harness/problem.ts'
import { rawRequest, sendRaw } from './harness/raw-http.ts'
import { until } from './harness/until.ts'

const CODE = 'a-code-that-is-well-formed'
const BODY = JSON.stringify({ code: CODE })
const JSON_LINE = 'content-type: application/json'
const POST_LOGIN = 'POST /login HTTP/1.1'

/** A login whose length is told by these header lines; the rest is as given. */
function framed(headerLines: readonly string[], rest: string): string {
  return [POST_LOGIN, 'host: gateway', JSON_LINE, ...headerLines, '', rest].join('\r\n')
}

/** Would be a second request, for whoever takes the first to have ended before it. */
const SMUGGLED = `GET /session?${MARK} HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n`
const LENGTH = `content-length: ${BODY.length}`
const CHUNKED = 'transfer-encoding: chunked'
const CHUNKS = `${BODY.length.toString(16)}\r\n${BODY}\r\n0\r\n\r\n`

const connectionCount = ({ gateway }: Harness) =>
  promisify(gateway.app.server.getConnections.bind(gateway.app.server))()

describe('a request whose end is in doubt', () => {
  test.each<[string, string]>([
    ['a length and chunks', framed([LENGTH, CHUNKED], CHUNKS)],
    ['chunks and a length', framed([CHUNKED, LENGTH], CHUNKS)],
    ['two lengths', framed([LENGTH, 'content-length: 5'], BODY)],
    ['two lengths in one header', framed(['content-length: 5, 6'], BODY)],
    ['a length that is no number', framed(['content-length: five'], BODY)],
    ['a length below nothing', framed(['content-length: -1'], BODY)],
    ['a length with a sign', framed([`content-length: +${BODY.length}`], BODY)],
    ['a length in hexadecimal', framed(['content-length: 0x20'], BODY)],
    ['a length beyond numbers', framed(['content-length: 99999999999999999999'], BODY)],
    ['a blank before the colon', framed(['transfer-encoding : chunked'], CHUNKS)],
    ['a blank before the colon of the length', framed([`content-length : ${BODY.length}`], BODY)],
    ['another encoding after chunks', framed(['transfer-encoding: chunked, identity'], CHUNKS)],
    ['chunks twice', framed([CHUNKED, CHUNKED], CHUNKS)],
    ['an encoding that looks like chunks', framed(['transfer-encoding: xchunked'], CHUNKS)],
    ['chunks with a control character', framed(['transfer-encoding: \u000bchunked'], CHUNKS)],
    ['a chunk of no number', framed([CHUNKED], `zz\r\n${BODY}\r\n0\r\n\r\n`)],
    ['a chunk below nothing', framed([CHUNKED], `-1\r\n${BODY}\r\n0\r\n\r\n`)],
    ['a chunk beyond numbers', framed([CHUNKED], `fffffffffffffffff\r\n${BODY}\r\n0\r\n\r\n`)],
    ['a chunk longer than it says', framed([CHUNKED], `2\r\n${BODY}\r\n0\r\n\r\n`)],
    ['lines that end in LF alone', framed([LENGTH], BODY).replaceAll('\r\n', '\n')],
    ['a header that ends in CR alone', framed([`x: y\r${LENGTH}`], BODY)],
    ['a header folded over two lines', framed([LENGTH, 'x: y\r\n z'], BODY)],
  ])('by %s: 400, one answer, and hung up', async (what, bytes) => {
    const { url, wechat } = await startHarness()
    const reply = await sendRaw(url, bytes + SMUGGLED)
    expect(expectProblem(reply, what).code).toBe('request_invalid')
    expect(reply.everything.match(/HTTP\/1\.1 \d/g)).toHaveLength(1)
    expect(reply.headers['connection']).toBe('close')
    expect(wechat.history()).toEqual([])
  })
})

describe('what is no request', () => {
  test.each<[string, string | Buffer]>([
    ['HTTP/0.9', 'GET /\r\n\r\n'],
    ['HTTP/2 without asking', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'],
    ['HTTP/3.0', 'GET /livez HTTP/3.0\r\nhost: x\r\n\r\n'],
    ['a TLS handshake', Buffer.from('16030100c8010000c40303', 'hex')],
    ['garbage', Buffer.alloc(200, 0xfe)],
    ['a method in lower case', 'post /login HTTP/1.1\r\nhost: x\r\n\r\n'],
    ['a method nobody knows', `${MARK} /login HTTP/1.1\r\nhost: x\r\n\r\n`],
    ['a method of 8 KB', `${'A'.repeat(8_192)} /login HTTP/1.1\r\nhost: x\r\n\r\n`],
    ['an address without a slash', 'GET login HTTP/1.1\r\nhost: x\r\n\r\n'],
    ['an address with a blank', `GET /login ${MARK} HTTP/1.1\r\nhost: x\r\n\r\n`],
    ['a NUL in a header', `GET /session HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${MARK}\0\r\n\r\n`],
    [
      'an escape character in a header',
      'GET /livez HTTP/1.1\r\nhost: x\r\nx-request-id: \u001b[31m12345678\r\n\r\n',
    ],
    ['a header without a colon', `GET /livez HTTP/1.1\r\nhost: x\r\n${MARK}\r\n\r\n`],
    ['a header without a name', `GET /livez HTTP/1.1\r\nhost: x\r\n: ${MARK}\r\n\r\n`],
  ])('%s: a problem, and hung up', async (what, bytes) => {
    const { url } = await startHarness()
    const reply = await sendRaw(url, bytes)
    const { code } = expectProblem(reply, what)
    expect(['request_invalid', 'not_found', 'headers_too_large']).toContain(code)
  })

  test('CONNECT: 405, and no tunnel', async () => {
    const { url } = await startHarness()
    const reply = await sendRaw(url, 'CONNECT 127.0.0.1:6379 HTTP/1.1\r\nhost: x\r\n\r\nFLUSHALL\r\n')
    expect(expectProblem(reply, 'CONNECT').code).toBe('method_not_allowed')
  })

  test('an upgrade: answered as if it had not been asked for', async () => {
    const { url } = await startHarness()
    for (const protocol of ['websocket', 'h2c']) {
      const lines = [
        'host: x',
        'connection: upgrade, close',
        `upgrade: ${protocol}`,
        'http2-settings: AAMAAABk',
      ]
      const reply = await sendRaw(url, ['GET /session HTTP/1.1', ...lines, '', ''].join('\r\n'))
      expect(expectProblem(reply, protocol).code).toBe('session_invalid')
    }
  })
})

describe('a request that is too large', () => {
  test.each<[string, string]>([
    ['a header of 16 KB', `GET /livez HTTP/1.1\r\nhost: x\r\nx: ${'a'.repeat(16_384)}\r\n\r\n`],
    ['16 KB of headers', `GET /livez HTTP/1.1\r\nhost: x\r\n${'x: aaaaaaaaaaaa\r\n'.repeat(1_024)}\r\n`],
    ['3,000 headers', `GET /livez HTTP/1.1\r\nhost: x\r\n${'x: a\r\n'.repeat(3_000)}\r\n`],
    ['an address of 64 KB', `GET /login?code=${'a'.repeat(65_536)} HTTP/1.1\r\nhost: x\r\n\r\n`],
    ['a header name of 16 KB', `GET /livez HTTP/1.1\r\nhost: x\r\n${'a'.repeat(16_384)}: x\r\n\r\n`],
    [
      'a bearer token of 16 KB',
      `GET /session HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${'a'.repeat(16_384)}\r\n\r\n`,
    ],
  ])('%s: 431', async (what, bytes) => {
    const { url } = await startHarness()
    expect(expectProblem(await sendRaw(url, bytes), what).code).toBe('headers_too_large')
  })

  test('as it says itself: 413 before any of it is read', async () => {
    const { url } = await startHarness()
    const reply = await sendRaw(url, framed(['content-length: 1000000000'], '{'))
    expect(expectProblem(reply, 'a length of 1 GB').code).toBe('body_too_large')
  })

  test('in chunks: 413 as soon as it is', async () => {
    const { url } = await startHarness()
    const reply = await sendRaw(url, framed([CHUNKED], `900\r\n${'x'.repeat(0x900)}\r\n`))
    expect(expectProblem(reply, 'a chunk of 2304 bytes').code).toBe('body_too_large')
  })
})

describe('headers that come twice, or with names of the language', () => {
  test('two content types: refused, in whichever order', async () => {
    const { url, wechat } = await startHarness()
    for (const other of ['text/plain', 'application/json', 'application/x-www-form-urlencoded']) {
      for (const lines of [
        [JSON_LINE, `Content-Type: ${other}`],
        [`Content-Type: ${other}`, JSON_LINE],
      ]) {
        const reply = await sendRaw(url, rawRequest(POST_LOGIN, lines, Buffer.from(BODY)))
        expect(expectProblem(reply, other).code).toBe('media_type_unsupported')
      }
    }
    expect(wechat.history()).toEqual([])
  })

  // Blanks around a header's value are not part of it. What must not happen is that they switch off a check.
  test('a blank before the content type: the body is checked all the same', async () => {
    const { url, wechat } = await startHarness()
    for (const blank of ['  ', '\t', ' \t ']) {
      const lines = [`content-type:${blank}application/json${blank}`]
      const bad = Buffer.from(JSON.stringify({ code: MARK }))
      expect(expectProblem(await sendRaw(url, rawRequest(POST_LOGIN, lines, bad)), 'blank').code).toBe(
        'request_invalid',
      )
    }
    expect(wechat.history()).toEqual([])
  })

  test('__proto__ and its kin: nothing comes of it', async () => {
    const { url } = await startHarness()
    const lines = [
      '__proto__: polluted',
      'constructor: polluted',
      'prototype: x',
      'toString: x',
      'hasOwnProperty: x',
    ]
    expect(expectProblem(await sendRaw(url, rawRequest('GET /session HTTP/1.1', lines)), 'GET').code).toBe(
      'session_invalid',
    )
    expect(
      expectProblem(await sendRaw(url, rawRequest(POST_LOGIN, [JSON_LINE, ...lines])), 'POST').code,
    ).toBe('request_invalid')
    expect(({} as Record<string, unknown>)['polluted']).toBeUndefined()
    expect(Object.getPrototypeOf({})).toBe(Object.prototype)
  })
})

describe('a client that takes its time', () => {
  test.each<[string, string]>([
    ['its headers', `GET /session HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${MARK}`],
    ['its body', framed([LENGTH], '{"code":')],
    ['its chunks', framed([CHUNKED], '4\r\n{"co\r\n')],
  ])('over %s: 408, and hung up', async (what, bytes) => {
    const { url } = await startHarness()
    const startedMs = performance.now()
    const reply = await sendRaw(url, bytes)
    expect(expectProblem(reply, what).code).toBe('request_timeout')
    // 1.9 s for headers, 3 s for all, looked after every half second.
    expect(performance.now() - startedMs).toBeLessThan(5_000)
  })

  // It has been told to go. Were its socket kept until it goes, a few thousand of these would be an outage.
  test('to hang up is hung up on', async () => {
    const harness = await startHarness()
    const { hostname, port } = new URL(harness.url)
    for (const bytes of ['garbage\r\n\r\n', 'CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n']) {
      const socket = connect({ host: hostname, port: Number(port), allowHalfOpen: true })
      onTestFinished(() => void socket.destroy())
      socket.on('error', () => {})
      socket.write(bytes)
      const [answer] = (await once(socket, 'data')) as [Buffer]
      expect(answer.toString()).toMatch(/^HTTP\/1\.1 4\d\d /)
    }
    await until(
      'the gateway to have no connection',
      async () => (await connectionCount(harness)) === 0,
      5_000,
    )
  })
})
