/**
 * Webhooks from end to end: what happens to users arrives, signed, at least once and with one id, whatever happens
 * to the worker and to the receiver. Real gateways, worker processes and stores.
 */
import { setTimeout as pause } from 'node:timers/promises'
import { sql } from 'kysely'
import { expect, inject, onTestFinished, test, vi } from 'vitest'
import { subjectOf } from '../src/subject.ts'
import { openDatabase } from '../workers/database.ts'
import { writeTemporary } from './harness/configuration.ts'
import { dumpDatabase } from './harness/dumps.ts'
import { APPID, workerEnvironment } from './harness/environment.ts'
import { startHarness } from './harness/gateway.ts'
import type { Harness } from './harness/gateway.ts'
import { startWorkerProcess } from './harness/processes.ts'
import { newDatabase, queuedJobs, workerMetric } from './harness/provisioning.ts'
import { until } from './harness/until.ts'
import { startReceiver, webhookEnvironment } from './harness/webhooks.ts'
import type { Receiver } from './harness/webhook-receiver.ts'
import { LOCALHOST_CERTIFICATE } from './simulator/certificate.ts'

// Processes, on a machine that runs others too.
vi.setConfig({ testTimeout: 60_000 })

type Endpoints = Parameters<typeof webhookEnvironment>[0]

async function startSystem(endpoints: Endpoints, gateway: Record<string, string> = {}) {
  const harness = await startHarness({ env: gateway })
  const { env, location } = await newDatabase()
  const settings = workerEnvironment(harness.env, { ...env, ...webhookEnvironment(endpoints) })
  return { harness, settings, location, startWorker: () => startWorkerProcess(settings) }
}

/** A look at the rows, and a hand on them, past the worker. With Postgres only: the embedded one is the worker's. */
async function openRows(location: { url: string | undefined; dataDir: string }) {
  const database = await openDatabase({ ...location, onConnectionError: () => {} })
  onTestFinished(() => database.close())
  return database.db
}

const logIn = async (harness: Harness, user: { openid?: string; unionid?: string } = {}) =>
  (await harness.login({ code: harness.wechat.issueCode(user).code })).body

const received = (receiver: Receiver, type: string, count = 1) =>
  until(
    `${count} ${type}`,
    () => {
      const found = receiver.ofType(type)
      return found.length >= count && found
    },
    20_000,
  )

test('a first login arrives as user.created, signed, and without a word of who it is', async () => {
  const receiver = await startReceiver()
  const { harness, startWorker } = await startSystem([{ receiver }])
  const worker = await startWorker()
  const session = await logIn(harness, { unionid: 'o6_bmasdasdsad6_2sgVt7hMZOPfL' })
  const [webhook] = await received(receiver, 'user.created')
  expect(webhook?.verified).toBe(true)
  expect(webhook?.id).toMatch(/^[0-9a-f-]{36}$/)
  expect(webhook?.headers['content-type']).toBe('application/json')
  const userId = await until('the user id', async () => {
    const { body } = await harness.get('/session', session.token)
    return body.user_id
  })
  expect(webhook?.event.data).toEqual({ user_id: userId, sub: session.sub })
  await until(
    'it to be counted',
    async () =>
      (await workerMetric(worker, 'webhook_deliveries_total', {
        endpoint: 'endpoint-1',
        outcome: 'delivered',
      })) === 1,
  )
  expect(worker.output()).not.toContain(receiver.secret)
})

test('by https the certificate counts: one that nobody vouches for gets nothing', async () => {
  const receiver = await startReceiver(undefined, LOCALHOST_CERTIFICATE)
  const { harness, settings } = await startSystem([{ receiver }])
  const distrustful = await startWorkerProcess(settings)
  await logIn(harness)
  await until(
    'the attempt to fail',
    async () => (await workerMetric(distrustful, 'webhook_deliveries_total', { outcome: 'failed' })) === 1,
    20_000,
  )
  await distrustful.end('SIGTERM')
  expect(receiver.received).toEqual([])
  expect(distrustful.output()).toContain('"result":"tls"')
  await startWorkerProcess({ ...settings, NODE_EXTRA_CA_CERTS: writeTemporary(LOCALHOST_CERTIFICATE.cert) })
  const [webhook] = await received(receiver, 'user.created')
  expect(webhook?.verified).toBe(true)
})

test('an endpoint that asks gets openid and unionid, an event that it does not want it does not get', async () => {
  const [curious, picky] = [await startReceiver(), await startReceiver()]
  const { harness, startWorker } = await startSystem([
    { receiver: curious, include_openid: true },
    { receiver: picky, events: ['user.login'] },
  ])
  await startWorker()
  const { openid, unionid } = await logIn(harness, { unionid: 'o6_bmasdasdsad6_2sgVt7hMZOPfL' })
  const [webhook] = await received(curious, 'user.created')
  expect(webhook?.event.data).toMatchObject({ appid: APPID, openid, unionid })
  await received(picky, 'user.login')
  expect(picky.received.map(({ event }) => event.type)).toEqual(['user.login'])
  expect(curious.received.map(({ event }) => event.type)).toEqual(['user.created'])
})

test('100 first logins of one user at once are one user.created', async () => {
  const receiver = await startReceiver()
  const { harness, startWorker } = await startSystem([{ receiver }], { SESSIONS_PER_USER: '50' })
  await startWorker()
  const codes = harness.wechat.issueCodes(100, { openid: 'o-logs-in-everywhere' })
  const replies = await Promise.all(codes.map(({ code }) => harness.login({ code })))
  expect(replies.every(({ status }) => status === 200)).toBe(true)
  await until('the queue to be empty', async () => (await queuedJobs(harness)) === 0)
  // Somebody later, so that an event too many would have been here before.
  const { sub } = await logIn(harness)
  const subs = () => receiver.ofType('user.created').map(({ event }) => event.data['sub'])
  await until('the later user', () => subs().includes(sub))
  expect(subs()).toEqual([subjectOf(APPID, 'o-logs-in-everywhere'), sub])
})

test('with workers killed five times under load every user is told of, verified, with one id', async () => {
  const users = 1_000
  const receiver = await startReceiver()
  const { harness, startWorker } = await startSystem([{ receiver }])
  const codes = harness.wechat.issueCodes(users)
  const subs = new Set(codes.map(({ openid }) => subjectOf(APPID, openid)))
  const lane = async () => {
    for (let next = codes.pop(); next !== undefined; next = codes.pop()) {
      expect((await harness.login({ code: next.code })).status).toBe(200)
    }
  }
  const distinct = () => new Set(receiver.received.map(({ event }) => event.data['sub'])).size
  // The embedded database is one worker's alone.
  const workers = [await startWorker(), ...(inject('postgresUrl') ? [await startWorker()] : [])]
  const logins = Promise.all(Array.from({ length: 8 }, lane))
  for (let kills = 1; kills <= 5; kills += 1) {
    await until(`${kills * 100} users told of`, () => distinct() >= kills * 100, 40_000)
    await workers.shift()?.end('SIGKILL')
    workers.push(await startWorker())
  }
  await logins
  await until('everybody to be told of', () => distinct() === users, 60_000)
  const ids = new Map<unknown, Set<string>>()
  for (const { event, id } of receiver.received)
    ids.set(event.data['sub'], (ids.get(event.data['sub']) ?? new Set()).add(id))
  expect(new Set(ids.keys())).toEqual(subs)
  expect([...ids.values()].filter((each) => each.size !== 1)).toEqual([])
  expect(receiver.received.filter(({ verified }) => !verified)).toEqual([])
  console.log(`${receiver.received.length} deliveries for ${users} users, workers killed five times`)
}, 150_000)

test('what failed is sent again, the same id and body with a new time', async () => {
  let failures = 1
  const receiver = await startReceiver((response) => {
    failures -= 1
    response.writeHead(failures >= 0 ? 500 : 204).end()
  })
  const { harness, startWorker } = await startSystem([{ receiver }])
  const worker = await startWorker()
  await logIn(harness)
  const [first, second] = await received(receiver, 'user.created', 2)
  expect(second?.id).toBe(first?.id)
  expect(second?.body).toBe(first?.body)
  expect(Number(second?.headers['webhook-timestamp'])).toBeGreaterThanOrEqual(
    Number(first?.headers['webhook-timestamp']) + 5,
  )
  expect(second?.verified).toBe(true)
  expect(await workerMetric(worker, 'webhook_deliveries_total', { outcome: 'failed' })).toBe(1)
})

test('an endpoint that hangs holds nobody else up', async () => {
  const hanging = await startReceiver(() => {})
  const sound = await startReceiver()
  const { harness, startWorker } = await startSystem([
    { receiver: hanging, concurrency: 2 },
    { receiver: sound },
  ])
  await startWorker()
  for (let at = 0; at < 5; at += 1) await logIn(harness)
  await received(hanging, 'user.created', 2)
  for (let at = 0; at < 15; at += 1) await logIn(harness)
  await received(sound, 'user.created', 20)
  expect(hanging.received).toHaveLength(2)
})

test.runIf(inject('postgresUrl'))(
  '410 disables an endpoint, and enabled again it gets what has waited',
  async () => {
    let gone = true
    const receiver = await startReceiver((response) => response.writeHead(gone ? 410 : 204).end())
    const { harness, location, startWorker } = await startSystem([{ receiver, concurrency: 1 }])
    const worker = await startWorker()
    const rows = await openRows(location)
    await logIn(harness)
    await until(
      'the endpoint to be disabled',
      async () =>
        (await sql`select from webhook_endpoints where disabled_at is not null`.execute(rows)).rows.length ===
        1,
    )
    await logIn(harness)
    await until('the queue to be empty', async () => (await queuedJobs(harness)) === 0)
    await until(
      'the metric',
      async () => (await workerMetric(worker, 'webhook_endpoint_disabled')) === 1,
      20_000,
    )
    const before = receiver.received.length
    await pause(2_500) // longer than two looks for what is due: nothing must come
    expect(receiver.received).toHaveLength(before)
    gone = false
    await rows.updateTable('webhook_endpoints').set({ disabled_at: null }).execute()
    await until('both', () => new Set(receiver.received.map(({ id }) => id)).size === 2)
  },
)

test.runIf(inject('postgresUrl'))('Retry-After is obeyed, by all that waits for the endpoint', async () => {
  const receiver = await startReceiver((response) => response.writeHead(429, { 'retry-after': '1800' }).end())
  const { harness, location, startWorker } = await startSystem([{ receiver, concurrency: 1 }])
  await startWorker()
  await logIn(harness)
  await received(receiver, 'user.created')
  const rows = await openRows(location)
  const row = await until('the attempt to be over', async () => {
    const [row] = await rows.selectFrom('webhook_deliveries').selectAll().execute()
    return row?.last_result === '429' && row
  })
  const waitSeconds = (row.due_at.getTime() - Date.now()) / 1_000
  expect(waitSeconds).toBeGreaterThan(1_780)
  expect(waitSeconds).toBeLessThan(1_800 * 1.2 + 5)
  await logIn(harness)
  await until('the queue to be empty', async () => (await queuedJobs(harness)) === 0)
  await pause(2_500) // longer than two looks for what is due: nothing must come
  expect(receiver.received).toHaveLength(1)
})

test('during a rotation both secrets sign', async () => {
  const receiver = await startReceiver()
  const other = await startReceiver()
  const { harness, startWorker } = await startSystem([{ receiver, secrets: [other.secret, receiver.secret] }])
  await startWorker()
  await logIn(harness)
  const [webhook] = await received(receiver, 'user.created')
  expect(webhook?.headers['webhook-signature']).toMatch(/^v1,\S+ v1,\S+$/)
  expect(webhook?.verified).toBe(true)
})

test('of a user who was erased only that is told, and nothing of before', async () => {
  let away = true
  const receiver = await startReceiver((response) => response.writeHead(away ? 500 : 204).end())
  const { harness, location, startWorker } = await startSystem([{ receiver, include_openid: true }])
  const worker = await startWorker()
  const { openid, token } = await logIn(harness, { unionid: 'o6_bmasdasdsad6_2sgVt7hMZOPfL' })
  const userId = await until('the user id', async () => (await harness.get('/session', token)).body.user_id)
  await received(receiver, 'user.created')
  const headers = { authorization: `Bearer ${harness.env['ADMIN_TOKEN'] ?? ''}` }
  const { status } = await harness.admin.send('DELETE', `/users/${APPID}/${openid}`, { headers })
  expect(status).toBe(202)
  away = false
  const [erased] = await received(receiver, 'user.erased')
  expect(erased?.event.data).toEqual({ user_id: userId })
  const before = receiver.ofType('user.created').length
  // Somebody later, so that an event too many would have been here before.
  const { sub } = await logIn(harness)
  await until(
    'the later user',
    () => receiver.received.some(({ event }) => event.data['sub'] === sub),
    20_000,
  )
  expect(receiver.ofType('user.created')).toHaveLength(before + 1)
  await worker.end('SIGTERM')
  const dump = await dumpDatabase(location)
  for (const trace of [openid, 'o6_bmasdasdsad6_2sgVt7hMZOPfL']) expect(dump).not.toContain(trace)
})
