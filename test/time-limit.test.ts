/** A request is answered in its time, also when each step of its handler keeps its own. */
import { connect } from 'node:net'
import { performance } from 'node:perf_hooks'
import { setTimeout as pause } from 'node:timers/promises'
import { describe, expect, inject, onTestFinished, test } from 'vitest'
import { startTcpProxy } from './faults/tcp-proxy.ts'
import { gatewayEnvironment, SIMULATED } from './harness/environment.ts'
import { metricIn, startHarness } from './harness/gateway.ts'
import { startGatewayProcess } from './harness/processes.ts'
import { logIn } from './harness/session-values.ts'
import { until } from './harness/until.ts'
import { startSimulator } from './simulator/server.ts'

/** A handler has a second more. */
const LOGIN_DEADLINE_MS = 500
const LIMIT_MS = LOGIN_DEADLINE_MS + 1_000
/** Each way, and so below what one command may take. */
const LATENCY_MS = 500

async function startProxy() {
  const { port, hostname } = new URL(inject('redisUrl'))
  return startTcpProxy(
    { defer: (close) => onTestFinished(async () => void (await close())) },
    Number(port),
    hostname,
  )
}

test('a handler whose Redis is slow, but not too slow for one command, is cut off and its client told', async () => {
  const proxy = await startProxy()
  const harness = await startHarness({
    env: {
      REDIS_URL: `redis://127.0.0.1:${proxy.port}`,
      REDIS_COMMAND_TIMEOUT_MS: '2000',
      LOGIN_DEADLINE_MS: String(LOGIN_DEADLINE_MS),
    },
  })
  const { token } = await logIn(harness)
  proxy.set({ latencyMs: LATENCY_MS })

  const startedMs = performance.now()
  // Two commands, one after the other.
  const reply = await harness.send('DELETE', '/sessions', { headers: { authorization: `Bearer ${token}` } })
  const tookMs = performance.now() - startedMs

  expect([reply.status, reply.body.code, reply.body.retry]).toEqual([503, 'overloaded', 'same_code'])
  expect(tookMs).toBeGreaterThanOrEqual(LIMIT_MS - 50)
  expect(tookMs).toBeLessThan(4 * LATENCY_MS)
})

async function startSlowGateway() {
  const proxy = await startProxy()
  const wechat = await startSimulator(SIMULATED)
  onTestFinished(() => wechat.close())
  const env = gatewayEnvironment(wechat, {
    REDIS_URL: `redis://127.0.0.1:${proxy.port}`,
    LOGIN_DEADLINE_MS: String(LOGIN_DEADLINE_MS),
    LOG_LEVEL: 'debug',
  })
  const gateway = await startGatewayProcess(env)
  const metric = async (name: string, labels: Record<string, string>) =>
    metricIn((await gateway.admin.get('/metrics')).text, name, labels)
  return { proxy, wechat, env, gateway, metric }
}

type Gateway = Awaited<ReturnType<typeof startSlowGateway>>['gateway']

/** The one line of a request, and nothing of the second answer. */
function expectNoTrace({ output }: Pick<Gateway, 'output'>, route: string, secret: string) {
  expect(output()).not.toContain(secret)
  expect(output()).not.toContain('FST_ERR')
  expect(output().split(`"route":"${route}"`)).toHaveLength(2)
}

describe('an answer that comes after its request was told `overloaded`', () => {
  test('leaves the code of a login out of the log', async () => {
    const { proxy, wechat, gateway, metric } = await startSlowGateway()
    const hold = wechat.addFault({ kind: 'hold' })
    const { code } = wechat.issueCode()
    const login = gateway.get(`/login?code=${code}`)
    await wechat.received(code)
    proxy.set({ latencyMs: LATENCY_MS })
    hold.release()

    expect((await login).status).toBe(503)
    proxy.clear()
    await until('the login to succeed', async () => (await metric('login_total', { outcome: 'ok' })) === 1)
    expect(await metric('http_requests_total', { route: '/login', method: 'GET', status: '503' })).toBe(1)
    expectNoTrace(gateway, '/login', code)
  })

  // Its handler sends, and does not return, what it has to say.
  test('leaves the openid of a user who is erased out of the log', async () => {
    const { proxy, env, gateway, metric } = await startSlowGateway()
    const openid = 'oGZUI0egBJY1zhBYw2KhdUfwVJJE'
    proxy.set({ latencyMs: LATENCY_MS })
    const erased = await gateway.admin.delete(`/users/wx0123456789abcdef/${openid}`, env['ADMIN_TOKEN'])
    expect(erased.status).toBe(503)
    proxy.clear()
    await until('the user to be erased', async () => (await metric('users_erased_total', {})) === 1)
    await pause(500) // its job is enqueued after that
    expectNoTrace(gateway, '/users/:appid/:openid', openid)
  })

  test('leaves out of the log the code in an address whose body came late and is not JSON', async () => {
    const { gateway, wechat } = await startSlowGateway()
    const { code } = wechat.issueCode()
    const { hostname, port } = new URL(gateway.url)
    const client = connect({ host: hostname, port: Number(port) })
    const head = ['host: gateway', 'content-type: application/json', 'content-length: 2']
    client.write([`POST /login?code=${code} HTTP/1.1`, ...head, '', '{'].join('\r\n'))
    const told = await new Promise<string>(
      (resolve) => void client.once('data', (bytes) => resolve(String(bytes))),
    )
    expect(told).toMatch(/^HTTP\/1.1 503 /)
    client.write('!')
    await pause(500)
    client.destroy()
    expectNoTrace(gateway, '/login', code)
  })
})
