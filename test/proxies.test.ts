/**
 * The proxies of deploy/proxies/ before a backend: whoever is logged in gets through, and the backend is told who
 * it is; nobody else does, also when the gateway is in trouble. Traefik and Envoy are not in Debian; of theirs,
 * the request that they would send is tested.
 */
import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { createClient } from './harness/client.ts'
import { startHarness } from './harness/gateway.ts'
import { proxyAbsence, startBackend, startProxy } from './harness/proxies.ts'
import type { BackendRequest, ProxyName } from './harness/proxies.ts'
import { httpAnswer, startTcpServer } from './harness/tcp-server.ts'

const UNIONID = 'o6_bmasdasdsad6_2sgVt7hMZOPfL'
const AUTH_HEADERS = ['x-auth-subject', 'x-auth-appid', 'x-auth-openid', 'x-auth-unionid']

/** Who a client would like to be. */
const FORGED = {
  'x-auth-subject': 'forged',
  'X-AUTH-APPID': 'forged',
  'X-Auth-Openid': 'forged',
  'X-Auth-Unionid': 'forged',
  x_auth_subject: 'forged',
  'X-Auth_Openid': 'forged',
}

const told = ({ headers }: BackendRequest) => AUTH_HEADERS.map((name) => headers[name] ?? '')

async function startAll(name: ProxyName) {
  const harness = await startHarness()
  const backend = await startBackend()
  const proxyUrl = await startProxy(name, { gateway: harness.url, backend: backend.url })
  const client = createClient(proxyUrl)
  return { harness, backend, client, proxyUrl }
}

describe.each(['nginx', 'haproxy', 'caddy'] as const)('%s', (name) => {
  const missing = proxyAbsence(name)
  if (missing !== undefined) console.log(`Not tested: ${missing}`)

  test.skipIf(missing)('lets a logged-in user through, and tells the backend who it is', async () => {
    const { harness, backend, client } = await startAll(name)
    const { code, openid } = harness.wechat.issueCode({ unionid: UNIONID })
    const login = await client.login({ code }) // the gateway's own routes are behind the proxy too
    expect(login.status).toBe(200)
    const { token, sub } = login.body
    const who = [sub, 'wx0123456789abcdef', openid, UNIONID]

    const get = await client.get('/api/orders?page=2', token)
    const post = await client.send('POST', '/api/orders', {
      headers: { 'content-type': 'application/json', authorization: `Bearer ${token}` },
      body: '{"item":7}',
    })

    expect([get.status, get.text, post.status]).toEqual([200, 'backend 200', 200])
    expect(backend.requests).toMatchObject([
      { method: 'GET', url: '/api/orders?page=2', body: '' },
      { method: 'POST', url: '/api/orders', body: '{"item":7}' },
    ])
    expect(backend.requests.map(told)).toEqual([who, who])
    expect((await client.get('/session', token)).body).toMatchObject({ sub })
  })

  test.skipIf(missing)('passes on nothing that a client says about itself', async () => {
    const { harness, backend, client } = await startAll(name)
    const { code, openid } = harness.wechat.issueCode({ unionid: null }) // what is not known is not forged either
    const { token, sub } = (await client.login({ code })).body

    const reply = await client.send('GET', '/', { headers: { ...FORGED, authorization: `Bearer ${token}` } })

    expect(reply.status).toBe(200)
    const [request] = backend.requests
    expect(request && told(request)).toEqual([sub, 'wx0123456789abcdef', openid, ''])
    expect(JSON.stringify(request?.headers)).not.toContain('forged')
  })

  test.skipIf(missing)('turns everybody else away as the gateway does', async () => {
    const { harness, backend, client } = await startAll(name)
    const { token } = (await client.login({ code: harness.wechat.issueCode().code })).body
    await harness.delete('/session', token)
    const bad = [undefined, token, `${token}x`, 'wxs_', 'x'.repeat(300)]
    for (const presented of bad) {
      for (const method of ['GET', 'POST', 'DELETE']) {
        const headers = {
          ...FORGED,
          ...(presented === undefined ? {} : { authorization: `Bearer ${presented}` }),
        }
        const reply = await client.send(method, '/api', { headers })
        expect(reply.status, `${method} ${presented}`).toBe(401)
        expect(reply.headers).toMatchObject({ 'www-authenticate': 'Bearer', 'cache-control': 'no-store' })
        expect(reply.headers['content-type']).toMatch(/^application\/problem\+json/)
        expect(reply.body).toEqual((await harness.get('/auth')).body)
      }
    }
    expect(backend.requests).toEqual([])
  })

  test.skipIf(missing)('keeps /auth to itself', async () => {
    const { harness, client } = await startAll(name)
    const { token, openid } = (await client.login({ code: harness.wechat.issueCode().code })).body
    for (const path of ['/auth', '/_auth', '/auth/', '//auth', '/%61uth', '/session/../auth']) {
      const stranger = await client.get(path)
      expect(stranger.status, path).toBeGreaterThanOrEqual(400)
      const reply = await client.get(path, token)
      expect(JSON.stringify(reply.headers), path).not.toContain(openid)
    }
  })

  test.skipIf(missing)("leaves the backend's own answers alone", async () => {
    const { harness, client } = await startAll(name)
    const { token } = (await client.login({ code: harness.wechat.issueCode().code })).body
    for (const status of [401, 403, 404, 418, 500, 503]) {
      const reply = await client.get(`/answer/${status}`, token)
      expect([reply.status, reply.text]).toEqual([status, `backend ${status}`])
    }
  })

  // Whoever may choose the address that limits count could get others shut out, and never be shut out itself.
  test.skipIf(missing)('tells the gateway where the client is, whatever the client says', async () => {
    const gateway = await startTcpServer((socket) => {
      socket.end(httpAnswer('{}').replace('\r\n', '\r\nconnection: close\r\n'))
    })
    const client = createClient(await startProxy(name, { gateway: gateway.url, backend: gateway.url }))
    const reply = await client.login({ code: 'a-code-of-the-client' }, { 'x-forwarded-for': '203.0.113.7' })
    expect(reply.status).toBe(200)
    expect(gateway.requests[0]?.text).toMatch(/^POST \/login HTTP\/1\.1\r\n/)
    expect(gateway.requests[0]?.text).toMatch(/^x-forwarded-for: 127\.0\.0\.1\r$/im)
    expect(gateway.requests[0]?.text).not.toContain('203.0.113.7')
  })

  test.skipIf(missing)('lets nobody in while the gateway is in trouble', async () => {
    const backend = await startBackend()
    const troubles = {
      'it is draining or has lost Redis': 'HTTP/1.1 503 Service Unavailable',
      'it has failed': 'HTTP/1.1 500 Internal Server Error',
      'it limits': 'HTTP/1.1 429 Too Many Requests',
      'another server is at its address': 'HTTP/1.1 404 Not Found',
      'it hangs up': '',
    }
    for (const [what, line] of Object.entries(troubles)) {
      const gateway = await startTcpServer((socket) => {
        if (line === '') socket.destroy()
        else socket.end(httpAnswer('').replace('HTTP/1.1 200 OK', `${line}\r\nconnection: close`))
      })
      const client = createClient(await startProxy(name, { gateway: gateway.url, backend: backend.url }))
      const reply = await client.get('/api', `wxs_${'A'.repeat(54)}`)
      expect(reply.status, what).toBeGreaterThanOrEqual(400)
      expect(line.includes(' 50') ? reply.status : 500, what).toBeGreaterThanOrEqual(500)
      expect(gateway.requests.length, what).toBeGreaterThan(0)
    }
    const client = createClient(
      await startProxy(name, { gateway: 'http://127.0.0.1:1', backend: backend.url }),
    )
    expect((await client.get('/api', `wxs_${'A'.repeat(54)}`)).status).toBeGreaterThanOrEqual(500)
    expect(backend.requests).toEqual([])
  })

  test.skipIf(missing)('does not wait for ever for a gateway that hangs', async () => {
    const backend = await startBackend()
    const gateway = await startTcpServer(() => {})
    const client = createClient(await startProxy(name, { gateway: gateway.url, backend: backend.url }))
    const startedMs = performance.now()
    const reply = await client.get('/api', `wxs_${'A'.repeat(54)}`)
    expect(reply.status).toBeGreaterThanOrEqual(500)
    expect(performance.now() - startedMs).toBeLessThan(5_000)
    expect(backend.requests).toEqual([])
  })
})

describe('/auth', () => {
  test('answers as Envoy asks: with the path of the client for a query', async () => {
    const { send, login, wechat } = await startHarness()
    const envoy = readFileSync(new URL('../deploy/proxies/envoy.yaml', import.meta.url), 'utf8')
    const prefix = /path_prefix: (\S+)/.exec(envoy)?.[1] ?? ''
    const { token, sub } = (await login({ code: wechat.issueCode().code })).body
    const headers = { authorization: `Bearer ${token}`, 'content-length': '0' }
    for (const path of ['/', '/api/orders', '/api/orders?page=2&x=%2F', '/?a=?b', '/login?code=1']) {
      for (const method of ['GET', 'POST', 'DELETE']) {
        const reply = await send(method, prefix + path, { headers })
        expect([reply.status, reply.headers['x-auth-subject']], path).toEqual([200, sub])
        expect((await send(method, prefix + path)).status).toBe(401)
      }
    }
  })
})
