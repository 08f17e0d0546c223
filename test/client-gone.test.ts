/** A client that hangs up before its answer: its request ends like any other, and holds nobody up. */
import { once } from 'node:events'
import { connect } from 'node:net'
import { expect, inject, onTestFinished, test } from 'vitest'
import { startTcpProxy } from './faults/tcp-proxy.ts'
import { APPID, gatewayEnvironment, SIMULATED } from './harness/environment.ts'
import { metricIn } from './harness/gateway.ts'
import { startGatewayProcess } from './harness/processes.ts'
import { logLines, startTracedGateway } from './harness/tracing.ts'
import { until } from './harness/until.ts'
import { startSimulator } from './simulator/server.ts'

/** What a gateway waits for at most that waits for a request: LOGIN_DEADLINE_MS and a second. */
const WAIT_MS_MAX = 4_000
const LATENCY_MS = 300

const defer = (close: () => unknown) => onTestFinished(async () => void (await close()))

/** Sends the head of a request that has no body. */
function send(url: string | undefined, line: string, headers: readonly string[] = []) {
  const { hostname, port } = new URL(url ?? '')
  const socket = connect({ host: hostname, port: Number(port) }).on('error', () => {})
  socket.write([`${line} HTTP/1.1`, 'host: gateway', ...headers, '', ''].join('\r\n'))
  return socket
}

test('a login whose client is gone has its line, its count and its span, once, and goes on', async () => {
  const { gateway, wechat, collector } = await startTracedGateway()
  const metric = async (name: string, labels: Record<string, string>) =>
    metricIn((await gateway.admin.get('/metrics')).text, name, labels)
  const linesOf = () =>
    logLines(gateway.output()).filter(({ msg, route }) => msg === 'request' && route === '/login')
  const hold = wechat.addFault({ kind: 'hold' })
  const { code } = wechat.issueCode()
  const client = send(gateway.url, `GET /login?code=${code}`)
  await wechat.received(code)
  client.destroy()

  const [line] = await until('its line', () => linesOf().length > 0 && linesOf())
  expect(line).toMatchObject({ method: 'GET', status: 499, outcome: 'client_gone' })
  const span = await collector.span('GET /login', ({ spanId }) => spanId === line?.['span_id'])
  expect(span.attributes).toMatchObject({
    'http.response.status_code': 499,
    'gateway.outcome': 'client_gone',
  })
  expect(await metric('http_requests_in_flight', {})).toBe(1)

  hold.release()
  await until('the login to succeed', async () => (await metric('login_total', { outcome: 'ok' })) === 1)
  const counted = { route: '/login', method: 'GET' }
  expect(await metric('http_requests_total', { ...counted, status: '499' })).toBe(1)
  expect(await metric('http_requests_total', { ...counted, status: '200' })).toBe(0)
  expect(await metric('http_requests_in_flight', {})).toBe(0)
  expect(linesOf()).toHaveLength(1)
  expect(gateway.output()).not.toContain(code)
})

test('a request of an administrator who is gone is finished, and does not hold up the end', async () => {
  const { port, hostname } = new URL(inject('redisUrl'))
  const proxy = await startTcpProxy({ defer }, Number(port), hostname)
  const wechat = await startSimulator(SIMULATED)
  onTestFinished(() => wechat.close())
  const env = gatewayEnvironment(wechat, {
    REDIS_URL: `redis://127.0.0.1:${proxy.port}`,
    LOGIN_DEADLINE_MS: '4500', // and a second more, if it were waited for
  })
  const gateway = await startGatewayProcess(env)
  proxy.set({ latencyMs: LATENCY_MS })
  const authorization = `authorization: Bearer ${env['ADMIN_TOKEN'] ?? ''}`
  const client = send(gateway.adminUrl, `DELETE /users/${APPID}/o-of-somebody`, [authorization])
  await once(client, 'connect')
  expect((await gateway.admin.get('/livez')).status).toBe(200) // came later, so the request is at work
  client.destroy()
  proxy.clear()
  expect((await gateway.admin.get('/livez')).status).toBe(200)

  const startedMs = performance.now()
  expect(await gateway.end('SIGTERM')).toBe(0)
  expect(performance.now() - startedMs).toBeLessThan(WAIT_MS_MAX)
  const lines = logLines(gateway.output()).filter(({ route }) => route === '/users/:appid/:openid')
  expect(lines).toMatchObject([{ status: 499, outcome: 'client_gone' }])
})
