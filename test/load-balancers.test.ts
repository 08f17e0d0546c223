/**
 * The load balancers of deploy/load-balancers/ before three gateways: what clients may ask gets through, once more at
 * another gateway when one is gone; nothing else does. What they do under load is for the fault bench (N1 to N5).
 */
import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { PUSH_BODY_BYTES_MAX } from '../src/http/push-routes.ts'
import { SERVER_LIMITS } from '../src/http/server.ts'
import { SETTINGS } from '../src/settings.ts'
import { createClient } from './harness/client.ts'
import { startHarness } from './harness/gateway.ts'
import { absence, LOAD_BALANCERS, loadBalancerStart } from './harness/load-balancers.ts'
import type { LoadBalancerName, ThreeGateways } from './harness/load-balancers.ts'
import { startDaemon } from './harness/proxies.ts'
import { httpAnswer, startTcpServer } from './harness/tcp-server.ts'
import { until } from './harness/until.ts'

const NOBODY = 'http://127.0.0.1:1'

async function startLoadBalancer(name: LoadBalancerName, gateways: ThreeGateways) {
  const url = await startDaemon(name, (folder, listen) => {
    const { args, env } = loadBalancerStart(name, { folder, listen, gateways })
    return [args, env]
  })
  return createClient(url)
}

/** Answers everything, health checks as well, and keeps what it was asked. */
function startStub() {
  return startTcpServer((socket) => {
    socket.end(httpAnswer('{}').replace('\r\n', '\r\nconnection: close\r\n'))
  })
}

describe.each(LOAD_BALANCERS)('%s', (name) => {
  const missing = absence(name)
  if (missing !== undefined) console.log(`Not tested: ${missing}`)

  test.skipIf(missing)('lets through what clients ask, and keeps the rest from them', async () => {
    const harness = await startHarness()
    const client = await startLoadBalancer(name, [harness.url, NOBODY, NOBODY])
    const login = await until('the gateway to be taken for well', async () => {
      const reply = await client.login({ code: harness.wechat.issueCode().code })
      return reply.status === 200 && reply
    })
    const { token, sub } = login.body
    expect((await client.get('/session', token)).body).toMatchObject({ sub })

    // What the gateway answers carries its id.
    const open = [
      '/login',
      '/onLogin',
      '/session',
      '/sessions',
      '/session/decrypt',
      '/session/verify',
      '/session/phone',
      '/token',
      '/push/wx0123',
      '/.well-known/jwks.json',
    ]
    for (const path of open) expect((await client.get(path)).headers['x-request-id'], path).toBeDefined()
    const shut = [
      '/auth',
      '/auth/',
      '//auth',
      '/%61uth',
      '/session/../auth',
      '/livez',
      '/readyz',
      '/metrics',
      '/',
      '/login/x',
    ]
    for (const path of shut) {
      const reply = await client.get(path, token)
      expect(reply.status, path).toBeGreaterThanOrEqual(400)
      expect(reply.headers['x-auth-subject'], path).toBeUndefined()
      expect(reply.body.code, path).toBe('not_found')
    }
    expect((await client.get('/auth', token)).headers['x-request-id']).toBeUndefined()
  })

  test.skipIf(missing)('tells the gateway where the client is, whatever the client says', async () => {
    const gateway = await startStub()
    const client = await startLoadBalancer(name, [gateway.url, gateway.url, gateway.url])
    const logins = () => gateway.requests.filter(({ text }) => text.startsWith('POST /login'))
    await until('a login to arrive', async () => {
      await client.login({ code: 'a-code-of-the-client' }, { 'x-forwarded-for': '203.0.113.7' })
      return logins().length > 0
    })
    expect(logins()[0]?.text.match(/^x-forwarded-for: .*$/gim)).toEqual([
      expect.stringMatching(/^x-forwarded-for: 127\.0\.0\.1\r?$/i),
    ])
  })

  test.skipIf(missing)('asks another gateway when one has died with the login in it', async () => {
    // It passes for well, and hangs up at every login.
    const dying = await startTcpServer((socket, { text }) => {
      if (text.startsWith('GET /readyz'))
        socket.end(httpAnswer('{}').replace('\r\n', '\r\nconnection: close\r\n'))
      else socket.resetAndDestroy()
    })
    const harness = await startHarness()
    const client = await startLoadBalancer(name, [dying.url, NOBODY, harness.url])
    const died = () => dying.requests.filter(({ text }) => text.startsWith('POST'))
    await until('the gateways to be known', async () => (await client.get('/session')).status === 401)
    for (let login = 0; login < 20 || died().length === 0; login += 1) {
      expect(login).toBeLessThan(100)
      expect((await client.login({ code: harness.wechat.issueCode().code })).status).toBe(200)
    }
  })

  test.skipIf(missing)('does not spread a refusal: a 503 is the answer', async () => {
    const refusing = await startTcpServer((socket, { text }) => {
      const answer = httpAnswer('{}').replace('\r\n', '\r\nconnection: close\r\n')
      socket.end(text.startsWith('POST') ? answer.replace('200 OK', '503 Service Unavailable') : answer)
    })
    const client = await startLoadBalancer(name, [refusing.url, refusing.url, refusing.url])
    await until('the gateways to be known', async () => (await client.get('/session')).status === 200)
    expect((await client.login({ code: 'a-code-of-the-client' })).status).toBe(503)
    expect(refusing.requests.filter(({ text }) => text.startsWith('POST'))).toHaveLength(1)
  })

  test.skipIf(missing)('says as the gateway would that there is none', async () => {
    const silent = await startTcpServer(() => {})
    for (const gateways of [
      [NOBODY, NOBODY, NOBODY],
      [silent.url, silent.url, silent.url],
    ] as const) {
      const client = await startLoadBalancer(name, gateways)
      const reply = await client.login({ code: 'a-code-of-the-client' })
      expect(reply.status).toBe(503)
      expect(reply.headers['content-type']).toMatch(/^application\/problem\+json/)
      expect(reply.headers).toMatchObject({ 'retry-after': '2', 'cache-control': 'no-store' })
      expect(reply.body).toMatchObject({ code: 'gateway_unavailable', retry: 'same_code', status: 503 })
    }
  })
})

const read = (file: string) =>
  readFileSync(new URL(`../deploy/load-balancers/${file}`, import.meta.url), 'utf8')

/** What a file gives a directive, wherever it does. */
const seconds = (text: string, directive: RegExp) => {
  const values = [...text.matchAll(directive)].map(([, value]) => Number(value))
  expect(values.length, String(directive)).toBeGreaterThan(0)
  return values
}

describe('the times of the load balancers fit those of the gateway', () => {
  const haproxy = read('haproxy.cfg')
  const nginx = read('nginx.conf.template')
  const {
    keepAliveMs,
    requestTimeoutMs,
    handlerMarginMs,
    bodyBytesMax,
    headerBytesMax,
    requestsPerConnectionMax,
    connectionsMax,
  } = SERVER_LIMITS
  const deadlineMs = Number(SETTINGS.LOGIN_DEADLINE_MS.shownDefault)
  const drainMs = Number(SETTINGS.DRAIN_DELAY_MS.shownDefault)

  // Whoever closes an idle connection may do so while a request is on its way: 15 s are margin enough.
  test('idle connections are closed by the load balancer, never by the gateway', () => {
    const idle = [
      ...seconds(haproxy, /timeout (?:http-keep-alive|client) (\d+)s/g),
      ...seconds(nginx, /^ +keepalive_timeout (\d+)s/gm),
    ]
    for (const value of idle) expect(value * 1000).toBeLessThanOrEqual(keepAliveMs - 15_000)
    for (const requests of seconds(nginx, /keepalive_requests (\d+)/g))
      expect(requests).toBeLessThan(requestsPerConnectionMax)
  })

  test('a login is waited for as long as it may take, and not much longer', () => {
    const wait = [
      ...seconds(haproxy, /timeout server (\d+)s/g),
      ...seconds(nginx, /proxy_(?:read|send)_timeout (\d+)s/g),
    ]
    for (const value of wait) {
      expect(value * 1000).toBeGreaterThan(deadlineMs + handlerMarginMs)
      expect(value).toBeLessThanOrEqual(5) // a phone in the background gives up then
    }
  })

  test('a request may take as long to arrive as at the gateway, and be as large', () => {
    const arrive = [
      ...seconds(haproxy, /timeout http-request (\d+)s/g),
      ...seconds(nginx, /client_(?:header|body)_timeout (\d+)s/g),
    ]
    for (const value of arrive) expect(value * 1000).toBe(requestTimeoutMs)
    for (const value of seconds(nginx, /client_max_body_size (\d+)k/g))
      expect(value * 1024).toBeGreaterThan(Math.max(bodyBytesMax, PUSH_BODY_BYTES_MAX))
    for (const value of seconds(nginx, /large_client_header_buffers 4 (\d+)k/g))
      expect(value * 1024).toBeGreaterThan(headerBytesMax)
  })

  test('a gateway that drains is out of the balance before it stops listening', () => {
    const [inter = 0] = seconds(haproxy, /inter (\d+)s/g)
    const [fall = 0] = seconds(haproxy, /fall (\d+)/g)
    expect((inter * fall + inter) * 1000).toBeLessThan(drainMs)
    for (const value of seconds(haproxy, /default-server .* maxconn (\d+)/g))
      expect(value).toBeLessThan(connectionsMax)
  })
})
