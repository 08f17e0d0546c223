/** The end of a gateway, as clients, load balancers and operators see it: real processes, real signals. */
import { once } from 'node:events'
import { connect } from 'node:net'
import { setTimeout as pause } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { describe, expect, onTestFinished, test } from 'vitest'
import { freePort } from '../deploy/local/ports.ts'
import { startRedis } from '../deploy/local/redis-server.ts'
import { createClient } from './harness/client.ts'
import { gatewayEnvironment, SIMULATED } from './harness/environment.ts'
import type { TestEnvironment } from './harness/environment.ts'
import { metricIn } from './harness/gateway.ts'
import { launchGateway, startGatewayProcess } from './harness/processes.ts'
import { startTcpServer } from './harness/tcp-server.ts'
import { until } from './harness/until.ts'
import { startSimulator } from './simulator/server.ts'

/** Everything of closing that is bounded, with room for two busy cores; GATEWAY_CLOSE_MS_MAX is twice this. */
const END_MS_MAX = 10_000
const NONCE = 'a-nonce-of-this-very-client'

async function startWechat() {
  const wechat = await startSimulator(SIMULATED)
  onTestFinished(() => wechat.close())
  return wechat
}

/** A Redis of the test's own, to be hung or killed. */
async function startOwnRedis() {
  const redis = await startRedis({ persistent: false, allowDocker: false })
  const { pid } = redis
  if (pid === undefined) throw new Error('this Redis is ours')
  let ended = false
  void redis.exited.then(() => (ended = true))
  onTestFinished(async () => {
    if (!ended) process.kill(pid, 'SIGCONT')
    await redis.stop()
  })
  return { ...redis, hang: () => process.kill(pid, 'SIGSTOP'), resume: () => process.kill(pid, 'SIGCONT') }
}

/** How it ended, and how long that took. */
async function endOf(running: { child: ReturnType<typeof launchGateway>['child'] }) {
  const startedMs = performance.now()
  const { child } = running
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
  return { code: child.exitCode, signal: child.signalCode, ms: performance.now() - startedMs }
}

async function startOne(env: TestEnvironment = {}) {
  const wechat = await startWechat()
  const all = gatewayEnvironment(wechat, env)
  const gateway = await startGatewayProcess(all)
  return { wechat, env: all, gateway }
}

describe('a gateway that is told to go', () => {
  test('goes on answering, says that it is not ready, and closes the connection behind each answer', async () => {
    const { gateway, wechat } = await startOne({ DRAIN_DELAY_MS: '2000' })
    expect((await gateway.get('/readyz')).headers['connection']).not.toBe('close')
    gateway.child.kill('SIGTERM')
    const leaving = await until('it to say that it is not ready', async () => {
      const reply = await gateway.get('/readyz')
      return reply.status === 503 && reply
    })
    expect(leaving.body).toEqual({ status: 'not ready', reason: 'draining' })

    const login = await gateway.login({ code: wechat.issueCode().code })
    const replies = {
      login,
      session: await gateway.get('/session', login.body.token),
      alive: await gateway.get('/livez'),
      none: await gateway.get('/nothing-here'),
      undecodable: await gateway.get('/%zz'),
    }
    const statuses = Object.values(replies).map(({ status }) => status)
    expect(statuses).toEqual([200, 200, 200, 404, 400])
    for (const [name, { headers }] of Object.entries(replies))
      expect(headers['connection'], name).toBe('close')
    expect((await endOf(gateway)).code).toBe(0)
  })

  test('finishes the login that is at WeChat, and answers all who wait for it', async () => {
    const { gateway, wechat, env } = await startOne()
    const other = await startGatewayProcess(env)
    const { code } = wechat.issueCode()
    const hold = wechat.addFault({ kind: 'hold' })
    const logins = Array.from({ length: 20 }, () => gateway.login({ code, nonce: NONCE }))
    await wechat.received(code)
    const elsewhere = Array.from({ length: 5 }, () => other.login({ code, nonce: NONCE }))
    await until('somebody to wait for the other gateway', async () =>
      /code_claims_total\{outcome="wait"\} [1-9]/.test((await other.admin.get('/metrics')).text),
    )
    // On a busy machine some would still be on their way to a port that closes.
    await until('all to have arrived', async () => {
      const inFlight = await Promise.all(
        [gateway, other].map(async ({ admin }) =>
          metricIn((await admin.get('/metrics')).text, 'http_requests_in_flight'),
        ),
      )
      return (inFlight[0] ?? 0) >= logins.length && (inFlight[1] ?? 0) >= elsewhere.length
    })
    gateway.child.kill('SIGTERM')
    other.child.kill('SIGTERM')
    await until(
      'both to go',
      async () => gateway.output().includes('"draining"') && other.output().includes('"draining"'),
    )
    hold.release()

    const replies = await Promise.all([...logins, ...elsewhere])
    expect(replies.map(({ status }) => status)).toEqual(replies.map(() => 200))
    expect(new Set(replies.map(({ body }) => body.token)).size).toBe(1)
    expect(wechat.history({ code })).toHaveLength(1)
    expect([(await endOf(gateway)).code, (await endOf(other)).code]).toEqual([0, 0])
  })

  // The phone went to the background: it will send the code again. WeChat has used it up by then.
  test('keeps the answer of a login whose client has hung up', async () => {
    const { gateway, wechat, env } = await startOne()
    const { code } = wechat.issueCode()
    const hold = wechat.addFault({ kind: 'hold' })
    const client = createClient(gateway.url)
    const abandoned = client.login({ code, nonce: NONCE }).catch((error: unknown) => error)
    await wechat.received(code)
    await client.close()
    expect(await abandoned).toBeInstanceOf(Error)
    gateway.child.kill('SIGTERM')
    await until('it to go', () => gateway.output().includes('"draining"'))
    hold.release()
    expect((await endOf(gateway)).code).toBe(0)

    const other = await startGatewayProcess(env)
    expect((await other.login({ code, nonce: NONCE })).status).toBe(200)
    expect(wechat.history({ code })).toHaveLength(1)
  })

  // Node stops looking after slow requests when its server closes, and Fastify waits for whoever is connected.
  test('is not held by a client that says nothing, stops in the middle, or keeps its connection', async () => {
    const { gateway } = await startOne()
    const { hostname, port } = new URL(gateway.url)
    const texts = [
      '',
      'GET /livez HT',
      'POST /login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 30\r\n\r\n{',
    ]
    for (const text of texts) {
      const socket = connect({ host: hostname, port: Number(port) }).on('error', () => {})
      onTestFinished(() => void socket.destroy())
      await once(socket, 'connect')
      socket.write(text)
    }
    await gateway.get('/livez') // the connection stays open
    gateway.child.kill('SIGTERM')
    const { code, ms } = await endOf(gateway)
    expect(code).toBe(0)
    expect(ms).toBeLessThan(END_MS_MAX)
  })

  test('ends at once, with 1, when it is told twice', async () => {
    const { gateway } = await startOne({ DRAIN_DELAY_MS: '30000' })
    gateway.child.kill('SIGTERM')
    await until('it to go', () => gateway.output().includes('"draining"'))
    gateway.child.kill('SIGINT')
    const { code, ms } = await endOf(gateway)
    expect(code).toBe(1)
    expect(ms).toBeLessThan(2_000)
  })

  test('gives up with 1 when something does not close at all', { timeout: 60_000 }, async () => {
    // No part of it is known to hang so; this stands in for one that does.
    const stuck = 'import { Server } from "node:net"; Server.prototype.close = function () { return this }'
    const { gateway } = await startOne({
      NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(stuck)}`,
    })
    gateway.child.kill('SIGTERM')
    const { code, ms } = await endOf(gateway)
    expect(code).toBe(1)
    expect(ms).toBeGreaterThan(15_000)
    expect(ms).toBeLessThan(25_000)
    expect(gateway.output()).toContain('could not close in time')
  })
})

describe('a gateway that is told to go while Redis', () => {
  test('is gone: ends with 0', async () => {
    const redis = await startOwnRedis()
    const { gateway } = await startOne({ REDIS_URL: redis.url })
    await redis.stop()
    await until('it to notice', async () => (await gateway.admin.get('/metrics')).text.includes('redis_up 0'))
    gateway.child.kill('SIGTERM')
    const { code, ms } = await endOf(gateway)
    expect(code).toBe(0)
    expect(ms).toBeLessThan(END_MS_MAX)
  })

  test('is hung: ends with 0', async () => {
    const redis = await startOwnRedis()
    const { gateway } = await startOne({ REDIS_URL: redis.url })
    redis.hang()
    gateway.child.kill('SIGTERM')
    const { code, ms } = await endOf(gateway)
    expect(code).toBe(0)
    expect(ms).toBeLessThan(END_MS_MAX)
  })
})

test('the admin listener can be watched until the end, and refuses what it can do no longer', async () => {
  const { gateway, env } = await startOne({ DRAIN_DELAY_MS: '1000' })
  const headers = { authorization: `Bearer ${env['ADMIN_TOKEN'] ?? ''}`, 'content-type': 'application/json' }
  // What was begun is waited for; this never ends, so that there is time to look.
  const { hostname, port } = new URL(gateway.adminUrl ?? '')
  const begun = connect({ host: hostname, port: Number(port) }).on('error', () => {})
  onTestFinished(() => void begun.destroy())
  const lines = [
    'POST /introspect HTTP/1.1',
    'host: x',
    `authorization: ${headers.authorization}`,
    'content-type: application/json',
    'content-length: 99',
  ]
  begun.write(`${lines.join('\r\n')}\r\n\r\n{`)
  gateway.child.kill('SIGTERM')
  const ended = endOf(gateway)

  const refused = await until('the routes of the administrator to be closed', async () => {
    const reply = await gateway.admin.send('GET', '/apps', { headers })
    expect([200, 503]).toContain(reply.status)
    return reply.status === 503 && reply
  })
  expect(refused.body).toMatchObject({ code: 'gateway_unavailable', retry: 'same_code' })
  expect(refused.headers).toMatchObject({
    'retry-after': expect.stringMatching(/^[1-3]$/),
    connection: 'close',
  })
  expect((await gateway.admin.get('/metrics')).text).toContain('process_cpu_seconds_total')
  expect((await gateway.admin.get('/livez')).status).toBe(200)
  expect((await gateway.admin.get('/readyz')).status).toBe(503)
  expect((await ended).code).toBe(0)
})

const unready = async () => gatewayEnvironment(await startWechat(), { DRAIN_DELAY_MS: '30000' })

describe('a gateway that is told to go before it is ready', () => {
  // The parts of a start that it may fall into: loading, listening, waiting for Redis.
  test.each([0, 300, 900])('ends with 0 when that comes %d ms after its first breath', async (ms) => {
    const listening =
      'process.on("newListener", (name) => name === "SIGTERM" && process.stderr.write("awake"))'
    const gateway = launchGateway({
      ...(await unready()),
      REDIS_URL: `redis://127.0.0.1:${await freePort()}`,
      NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(listening)}`,
    })
    await until('it to breathe', () => gateway.output().includes('awake'))
    await pause(ms)
    gateway.child.kill('SIGTERM')
    const { code, ms: endMs } = await endOf(gateway)
    expect(code, gateway.output()).toBe(0)
    expect(endMs).toBeLessThan(END_MS_MAX)
  })

  test.each(['SIGTERM', 'SIGINT'] as const)(
    'ends with 0 on %s while it waits for a Redis that is not there',
    async (signal) => {
      const gateway = launchGateway({
        ...(await unready()),
        REDIS_URL: `redis://127.0.0.1:${await freePort()}`,
      })
      await until('it to wait', () => gateway.output().includes('waiting for Redis'))
      gateway.child.kill(signal)
      const { code, ms } = await endOf(gateway)
      expect(code).toBe(0)
      expect(ms).toBeLessThan(END_MS_MAX)
      expect(gateway.output()).not.toMatch(/"level":"(error|fatal)"/)
    },
  )

  test('ends with 0 while it waits for a Redis that says nothing', async () => {
    const silent = await startTcpServer(() => {})
    const gateway = launchGateway({ ...(await unready()), REDIS_URL: silent.url.replace('http', 'redis') })
    await until('it to wait', () => gateway.output().includes('waiting for Redis'))
    gateway.child.kill('SIGTERM')
    const { code, ms } = await endOf(gateway)
    expect(code).toBe(0)
    expect(ms).toBeLessThan(END_MS_MAX)
  })
})

async function startWithRedis(env: TestEnvironment) {
  const redis = await startOwnRedis()
  return { redis, ...(await startOne({ REDIS_URL: redis.url, ...env })) }
}

describe('/readyz', () => {
  // Were every replica taken out, the load balancer's own errors would replace ours.
  test('stays ready when Redis hangs, and so does /livez', async () => {
    const { redis, gateway } = await startWithRedis({})
    redis.hang()
    await until(
      'Redis to be missed',
      async () => (await gateway.get('/session', `wxs_${'A'.repeat(54)}`)).status === 503,
    )
    await pause(4_000) // longer than READY_REQUIRES_REDIS would wait
    expect((await gateway.get('/readyz')).status).toBe(200)
    expect((await gateway.get('/livez')).status).toBe(200)
  })

  test('says that Redis does not answer, and when it does again, where that is asked for', async () => {
    const { redis, gateway } = await startWithRedis({ READY_REQUIRES_REDIS: 'true' })
    expect((await gateway.get('/readyz')).status).toBe(200)
    redis.hang()
    const reply = await until('it not to be ready', async () => {
      const answer = await gateway.get('/readyz')
      return answer.status === 503 && answer
    })
    expect(reply.body).toEqual({ status: 'not ready', reason: 'Redis does not answer' })
    expect((await gateway.get('/livez')).status).toBe(200)
    redis.resume()
    await until('it to be ready again', async () => (await gateway.get('/readyz')).status === 200)
    const admin = new Redis(redis.url)
    onTestFinished(() => admin.disconnect())
    expect(await admin.ping()).toBe('PONG')
  })
})
