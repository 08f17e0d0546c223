/**
 * The gateway and the worker on a Redis Cluster: three masters, a replica each, real processes. What touches Redis
 * is tried once, with many users, so that every master is met; and one master dies.
 */
import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Cluster } from 'ioredis'
import { afterAll, beforeAll, beforeEach, expect, inject, onTestFinished, test } from 'vitest'
import { loadGatewayConfig } from '../src/config.ts'
import { connectFailFast, listenTo, waitUntilReady } from '../src/redis/connections.ts'
import { createKeys } from '../src/redis/keys.ts'
import { startCluster } from './faults/redis-servers.ts'
import type { ClusterRedis } from './faults/redis-servers.ts'
import { createClient } from './harness/client.ts'
import { APPID, newPrefix, workerEnvironment } from './harness/environment.ts'
import { metricIn, startHarness } from './harness/gateway.ts'
import type { Harness } from './harness/gateway.ts'
import { startWorkerProcess } from './harness/processes.ts'
import { logIn } from './harness/session-values.ts'
import { until } from './harness/until.ts'
import { createPostgresDatabase } from './postgres-database.ts'

/** Enough for each master to hold some. */
const USERS = 24

let cluster: ClusterRedis
let prefix: string
beforeAll(async () => {
  cluster = await startCluster()
})
beforeEach(() => {
  prefix = newPrefix()
})
afterAll(() => cluster.close())

const env = () => ({ ...cluster.env, KEY_PREFIX: prefix })
const start = (own: Record<string, string> = {}, wechat?: Harness['wechat']) =>
  startHarness({ env: { ...env(), ...own }, ...(wechat ? { wechat } : {}) })

async function logInMany(harness: Harness) {
  const users = await Promise.all(Array.from({ length: USERS }, () => logIn(harness)))
  const keys = createKeys(prefix)
  const masters = await Promise.all(users.map(({ sub }) => cluster.masterOf(keys.user(sub))))
  expect(new Set(masters.map(({ port }) => port)).size).toBe(3)
  return users
}

test('users log in, are found, listed and logged out, on whichever master they are', async () => {
  const harness = await start()
  for (const { token, openid } of await logInMany(harness)) {
    expect((await harness.get('/auth', token)).status).toBe(200)
    const again = await logIn(harness, { openid })
    expect((await harness.get('/sessions', token)).body.sessions).toHaveLength(2)
    expect((await harness.delete('/session', token)).status).toBe(204)
    expect((await harness.get('/auth', token)).status).toBe(401)
    expect((await harness.delete('/sessions', again.token)).status).toBe(204)
    expect((await harness.get('/auth', again.token)).status).toBe(401)
  }
})

test('copies of a code become one exchange, over two gateways', async () => {
  const one = await start()
  const other = await start(one.env, one.wechat)
  for (const { code } of one.wechat.issueCodes(USERS)) {
    const replies = await Promise.all([one, other, one, other].map((harness) => harness.login({ code })))
    expect(new Set(replies.map(({ body }) => body.token)).size).toBe(1)
    expect(one.wechat.history({ code })).toHaveLength(1)
  }
})

test('limits are counted over two gateways', async () => {
  const one = await start({ LIMIT_LOGIN_PER_IP: '6', LIMIT_EXCHANGE_PER_APP: '100' })
  const other = await start(one.env, one.wechat)
  const codes = one.wechat.issueCodes(8)
  const statuses: number[] = []
  for (const [at, { code }] of codes.entries())
    statuses.push((await (at % 2 === 0 ? one : other).login({ code })).status)
  expect(statuses).toEqual([200, 200, 200, 200, 200, 200, 429, 429])
  expect(await one.metric('limit_total', { outcome: 'degraded' })).toBe(0)
})

test('users are blocked and looked up, and apps are added, for all gateways', async () => {
  const one = await start()
  const other = await start(one.env, one.wechat)
  const headers = { authorization: `Bearer ${String(one.env['ADMIN_TOKEN'])}` }
  const [first] = await logInMany(one)
  if (first === undefined) throw new Error('there are users')
  const user = `/users/${APPID}/${first.openid}`
  expect((await one.admin.send('GET', user, { headers })).body['sub']).toBe(first.sub)
  expect((await one.admin.send('PUT', `${user}/block`, { headers })).status).toBe(204)
  expect((await other.get('/auth', first.token)).status).toBe(401)

  const app = { appid: 'wx00000000000000aa', secret: 'f00dfeedf00dfeedf00dfeedf00dfeed' }
  const added = await one.admin.send('POST', '/apps', {
    headers: { ...headers, 'content-type': 'application/json' },
    body: JSON.stringify(app),
  })
  expect(added.status).toBe(201)
  await until('the other to know the app', async () => {
    const { text } = await other.admin.send('GET', '/apps', { headers })
    return text.includes(app.appid)
  })
})

test('an ended session leaves the memory of the other gateway at once', async () => {
  const one = await start({ SESSION_CACHE_SECONDS: '5' })
  const other = await start(one.env, one.wechat)
  for (const { token } of await logInMany(one)) {
    expect((await other.get('/auth', token)).status).toBe(200)
    expect((await one.delete('/session', token)).status).toBe(204)
    await until('the other to hear of it', async () => (await other.get('/auth', token)).status === 401)
  }
})

test('whoever listens goes to another node when its own is lost, and says that there was a gap', async () => {
  const { redis: config } = loadGatewayConfig({ ...(await start()).env })
  const connection = connectFailFast(config)
  onTestFinished(() => connection.disconnect())
  await waitUntilReady(connection, 5_000)
  const heard: string[] = []
  let gaps = 0
  const listener = listenTo(config, 'a-channel', {
    onMessage: (text) => heard.push(text),
    onGap: () => (gaps += 1),
    onRefused() {},
  })
  onTestFinished(() => listener.disconnect())
  await until('it to listen', () => gaps === 1)
  const port = listener.options.port
  await connection.publish('a-channel', 'first')
  await until('the message', () => heard.includes('first'))

  const node = cluster.servers.find((server) => server.port === port)
  await node?.admin.call('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await until('it to listen again', () => gaps === 2)
  expect(listener.options.port).not.toBe(port)
  await connection.publish('a-channel', 'second')
  await until('the message', () => heard.includes('second'))
})

test('a worker provisions who logs in', async () => {
  const harness = await start()
  const serverUrl = inject('postgresUrl')
  const database =
    serverUrl === ''
      ? { DATA_DIR: mkdtempSync(join(tmpdir(), 'gateway-data-')) }
      : { DATABASE_URL: (await createPostgresDatabase(serverUrl)).url }
  const worker = await startWorkerProcess(workerEnvironment(harness.env, { ...env(), ...database }))
  const users = await logInMany(harness)
  for (const { token } of users) {
    await until('the user to be provisioned', async () => {
      const { body } = await harness.get('/session', token)
      return body.provisioned && body.user_id
    })
  }
  const status = createClient(worker.url)
  onTestFinished(() => status.close())
  const { text } = await status.get('/metrics')
  expect(metricIn(text, 'provisioning_jobs_total', { outcome: 'done' })).toBe(USERS)
  expect(metricIn(text, 'provisioning_queue_jobs', { state: 'waiting' })).toBe(0)
})

test('one access_token is fetched for all gateways', async () => {
  const one = await start()
  const other = await start(one.env, one.wechat)
  const { token, openid } = await logIn(one)
  for (const harness of [one, other]) {
    const { code } = one.wechat.issuePhoneCode({ openid })
    expect((await harness.post('/session/phone', { code }, token)).status).toBe(200)
  }
  expect(one.wechat.history({ path: '/cgi-bin/stable_token' })).toHaveLength(1)
})

test('the connection pipelines nothing by itself, and queues nothing while it is away', async () => {
  const { redis: config } = loadGatewayConfig({ ...(await start()).env })
  const connection = connectFailFast(config)
  onTestFinished(() => connection.disconnect())
  if (!(connection instanceof Cluster)) throw new Error('a Cluster was configured')
  expect(connection.options).toMatchObject({ enableAutoPipelining: false, enableOfflineQueue: false })
  await waitUntilReady(connection, 5_000)
  for (const node of connection.nodes())
    expect(node.options).toMatchObject({ commandTimeout: config.commandTimeoutMs, maxRetriesPerRequest: 0 })
})

// Last, for the cluster is another one afterwards.
test('when a master dies the users of the others notice nothing, and its own are back within seconds', async () => {
  const harness = await start({ REDIS_COMMAND_TIMEOUT_MS: '250', LOG_LEVEL: 'silent' })
  const users = await logInMany(harness)
  const keys = createKeys(prefix)
  const [victim] = users
  if (victim === undefined) throw new Error('there are users')
  const dying = await cluster.masterOf(keys.user(victim.sub))
  const homes = await Promise.all(users.map(({ sub }) => cluster.masterOf(keys.user(sub))))
  const elsewhere = users.filter((_, at) => homes[at] !== dying)
  // What was written is with the replicas: a failover loses what is not.
  for (const { admin } of new Set(homes)) {
    await admin.set(`{${await keyOn(admin)}}`, '1')
    expect(await admin.wait(1, 5_000)).toBe(1)
  }
  await dying.kill()
  const diedMs = performance.now()

  const seen = new Set<number>()
  await until('the users of the dead master to be found again', async () => {
    for (const { token } of elsewhere) seen.add((await harness.get('/auth', token)).status)
    return (await harness.get('/auth', victim.token)).status === 200
  })
  expect([...seen]).toEqual([200])
  expect(performance.now() - diedMs).toBeLessThan(8_000)
  for (const { token } of users) expect((await harness.get('/auth', token)).status).toBe(200)
})

/** Some key that this node serves. */
async function keyOn(admin: ClusterRedis['servers'][number]['admin']): Promise<string> {
  for (let i = 0; ; i += 1) {
    const found = await admin.get(`{k${i}}`).then(
      () => true,
      () => false,
    )
    if (found) return `k${i}`
  }
}
