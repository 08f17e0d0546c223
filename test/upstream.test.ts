/**
 * The exchange with WeChat when WeChat cannot be reached or breaks off. What is retried, where and how often is
 * the table at the top of src/wechat/code2session.ts; the rows about answers are in upstream-answers.test.ts.
 */
import type { Socket } from 'node:net'
import { describe, expect, test } from 'vitest'
import { freePort } from '../deploy/local/ports.ts'
import { startHarness } from './harness/gateway.ts'
import type { Harness } from './harness/gateway.ts'
import { httpAnswer, startTcpServer } from './harness/tcp-server.ts'
import { until } from './harness/until.ts'
import {
  closedHost,
  inOrder,
  startWechat,
  trustTheTestCertificate,
  untrustedWechat,
} from './harness/wechat.ts'
import { LOCALHOST_CERTIFICATE } from './simulator/certificate.ts'

function codeOf(text: string): string {
  return new URL(text.split(' ')[1] ?? '', 'http://host').searchParams.get('js_code') ?? ''
}

function success(openid = 'o-somebody'): string {
  return httpAnswer(JSON.stringify({ openid, session_key: 'tQY+38pdTVnAIWCBNiM1+A==' }))
}

const calls = (harness: Harness, url: string, outcome: string) =>
  harness.metric('wechat_exchange_duration_seconds_count', { host: new URL(url).host, outcome })

describe('a host that cannot be reached', () => {
  test.each([
    ['refuses the connection', closedHost],
    ['has no address', async () => 'http://wechat.invalid'],
    ['shows a certificate that nobody vouches for', async () => (await untrustedWechat()).url],
  ])('that %s: the next host gets the code, once', async (_what, deadHost) => {
    const wechat = await startWechat()
    const dead = await deadHost()
    const harness = await startHarness({ wechat, env: inOrder(dead, wechat) })
    const { code, openid } = wechat.issueCode()

    const reply = await harness.login({ code })

    expect(reply.status).toBe(200)
    expect(reply.body.openid).toBe(openid)
    expect(wechat.history()).toHaveLength(1)
    expect(await calls(harness, dead, 'unreachable')).toBe(1)
    expect(await calls(harness, wechat.url, 'ok')).toBe(1)
  })

  // A TLS handshake carries nothing of the request, so here silence is proof enough.
  test('that accepts and then never shakes hands over TLS: the next host gets the code', async () => {
    const wechat = await startWechat()
    const silent = await startTcpServer(() => {})
    const dead = silent.url.replace('http:', 'https:')
    const harness = await startHarness({
      wechat,
      env: { ...inOrder(dead, wechat), LOGIN_DEADLINE_MS: '4500' },
    })
    expect((await harness.login({ code: wechat.issueCode().code })).status).toBe(200)
    expect(await calls(harness, dead, 'unreachable')).toBe(1)
    expect(silent.requests.map(({ text }) => text).join('')).not.toContain('jscode2session')
  })

  test('is never asked without TLS', async () => {
    const wechat = await untrustedWechat()
    const harness = await startHarness({ env: inOrder(wechat) })
    const reply = await harness.login({ code: wechat.issueCode().code })
    expect(reply.status).toBe(503)
    expect(reply.body).toMatchObject({ code: 'wechat_unreachable', retry: 'same_code' })
    expect(wechat.history()).toHaveLength(0)
  })

  test('alone: three attempts, and the code can be sent again when the host is back', async () => {
    const port = await freePort()
    const seed = 'the same codes twice'
    const before = await startWechat({ seed })
    const { code } = before.issueCode()
    const harness = await startHarness({ env: inOrder(`http://127.0.0.1:${port}`) })

    const reply = await harness.login({ code })

    expect(reply.status).toBe(503)
    expect(reply.body).toMatchObject({ code: 'wechat_unreachable', retry: 'same_code' })
    expect(reply.headers['retry-after']).toMatch(/^[2-4]$/)
    expect(await calls(harness, `http://127.0.0.1:${port}`, 'unreachable')).toBe(3)

    const back = await startWechat({ seed, port })
    expect(back.issueCode().code).toBe(code)
    expect((await harness.login({ code })).status).toBe(200)
    expect(back.history({ code })).toHaveLength(1)
  })

  // The fail-over must not eat the credit for retries: while a host is down every login needs it.
  test('costs no login, however many come, and soon is not asked any more', async () => {
    const wechat = await startWechat()
    const dead = await closedHost()
    const harness = await startHarness({ wechat, env: inOrder(dead, wechat) })
    const replies = []
    for (const { code } of wechat.issueCodes(40)) replies.push(await harness.login({ code }))

    expect(replies.map((reply) => reply.status)).toEqual(Array(40).fill(200))
    expect(wechat.summary().codes).toMatchObject({ exchanged: 40, moreThanOnce: 0 })
    expect(await calls(harness, dead, 'unreachable')).toBeLessThan(30)
    expect(await harness.metric('wechat_breaker_state', { host: new URL(dead).host })).toBe(2)
  })
})

describe('a host that may have seen the request', () => {
  test.each([
    ['never answers', 'wechat_timeout', 1],
    ['breaks off', 'wechat_failed', 1],
    ['says 502', 'wechat_failed', 2],
  ])('that %s: the code goes to no other host', async (what, answer, attempts) => {
    const other = await startWechat()
    const first = await startTcpServer((socket) => {
      if (what === 'breaks off') socket.resetAndDestroy()
      if (what === 'says 502') socket.write('HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n')
    })
    const harness = await startHarness({
      wechat: other,
      env: { ...inOrder(first, other), LOGIN_DEADLINE_MS: '1500' },
    })

    const reply = await harness.login({ code: other.issueCode().code })

    expect(reply.status).toBe(503)
    expect(reply.body).toMatchObject({ code: answer, retry: 'new_code' })
    expect(reply.headers['retry-after']).toMatch(/^[1-3]$/)
    expect(first.requests).toHaveLength(attempts)
    expect(other.history()).toHaveLength(0)
  })
})

describe('a connection that was kept open', () => {
  test('and that WeChat has closed meanwhile is not used', async () => {
    const harness = await startHarness({ simulator: { keepAliveTimeoutMs: 1 } })
    const { login, wechat } = harness
    expect((await login({ code: wechat.issueCode().code })).status).toBe(200)
    await until('WeChat to close it', () => wechat.stats().connections.open === 0)

    expect((await login({ code: wechat.issueCode().code })).status).toBe(200)
    expect(wechat.history().map(({ outcome }) => outcome)).toEqual(['ok', 'ok'])
    expect(wechat.stats().connections.total).toBe(2)
  })

  // WeChat closes an idle connection in the very moment in which we write to it.
  test.each(['reset', 'end'] as const)(
    'and breaks (%s) before an answer: once more, on another connection',
    async (how) => {
      const wechat = await startTcpServer((socket, { connection, nth }) => {
        if (connection !== 1 || nth !== 2) socket.write(success())
        else if (how === 'end') socket.end()
        else socket.resetAndDestroy()
      })
      const { login } = await startHarness({ env: inOrder(wechat) })
      expect((await login({ code: 'first-code-of-this-test' })).status).toBe(200)

      expect((await login({ code: 'second-code-of-this-test' })).status).toBe(200)
      expect(wechat.requests.map(({ connection, text }) => [connection, codeOf(text)])).toEqual([
        [1, 'first-code-of-this-test'],
        [1, 'second-code-of-this-test'],
        [2, 'second-code-of-this-test'],
      ])
    },
  )

  test('the same over TLS', async () => {
    trustTheTestCertificate()
    const wechat = await startWechat({ tls: LOCALHOST_CERTIFICATE })
    const { login } = await startHarness({ wechat })
    expect((await login({ code: wechat.issueCode().code })).status).toBe(200)
    const { code } = wechat.issueCode()
    wechat.addFault({ kind: 'reset', when: 'before', code, times: 1 })

    expect((await login({ code })).status).toBe(200)
    const [broken, again] = wechat.history({ code })
    expect([broken?.outcome, again?.outcome]).toEqual(['reset', 'ok'])
    expect(again?.remotePort).not.toBe(broken?.remotePort)
  })

  test('and breaks, and the other one too: no third attempt', async () => {
    const wechat = await startTcpServer((socket, { connection, nth }) => {
      if (connection === 1 && nth === 1) socket.write(success())
      else socket.resetAndDestroy()
    })
    const { login } = await startHarness({ env: inOrder(wechat) })
    expect((await login({ code: 'first-code-of-this-test' })).status).toBe(200)

    const reply = await login({ code: 'second-code-of-this-test' })
    expect(reply.body).toMatchObject({ code: 'wechat_failed', retry: 'new_code' })
    expect(wechat.requests.map(({ connection }) => connection)).toEqual([1, 1, 2])
  })

  // One byte of an answer proves that the server has read the request.
  test('and breaks after the first byte of an answer: not again', async () => {
    const wechat = await startTcpServer((socket, { nth }) => {
      if (nth === 1) socket.write(success())
      else breakWithinHeaders(socket)
    })
    const { login } = await startHarness({ env: inOrder(wechat) })
    expect((await login({ code: 'first-code-of-this-test' })).status).toBe(200)

    const reply = await login({ code: 'second-code-of-this-test' })
    expect(reply.body).toMatchObject({ code: 'wechat_failed', retry: 'new_code' })
    expect(wechat.requests).toHaveLength(2)
  })
})

describe('a new connection', () => {
  test.each([
    ['breaks before the answer', (socket: Socket) => void socket.resetAndDestroy()],
    ['is closed before the answer', (socket: Socket) => void socket.end()],
    ['breaks within the headers', breakWithinHeaders],
    ['brings what is not HTTP', (socket: Socket) => void socket.write('220 mail.example ESMTP\r\n')],
  ])('that %s: no second attempt', async (_what, act) => {
    const wechat = await startTcpServer((socket) => act(socket))
    const { login } = await startHarness({ env: inOrder(wechat) })
    const reply = await login({ code: 'first-code-of-this-test' })
    expect(reply.body).toMatchObject({ code: 'wechat_failed', retry: 'new_code' })
    expect(wechat.requests).toHaveLength(1)
  })

  test('that breaks over TLS: no second attempt', async () => {
    trustTheTestCertificate()
    const wechat = await startWechat({ tls: LOCALHOST_CERTIFICATE })
    const { login } = await startHarness({ wechat })
    const { code } = wechat.issueCode()
    wechat.addFault({ kind: 'reset', when: 'before', times: 1 })
    expect((await login({ code })).body).toMatchObject({ code: 'wechat_failed', retry: 'new_code' })
    expect(wechat.history({ code })).toHaveLength(1)
  })
})

function breakWithinHeaders(socket: Socket): void {
  // At once, the reset would take the bytes back.
  socket.write('HTTP/1.1 200 O', () => setTimeout(() => socket.resetAndDestroy(), 20))
}
