/**
 * `npm run webhooks`, and the same over the worker's listener: dead deliveries are listed and tried again with their ids,
 * endpoints switched off and on.
 */
import { randomBytes, randomUUID } from 'node:crypto'
import { describe, expect, inject, onTestFinished, test, vi } from 'vitest'
import { Secret } from '../src/secret.ts'
import { EVENT_TYPES } from '../src/webhook-endpoints.ts'
import { createDeliveries } from '../workers/webhooks/deliveries.ts'
import { createOutbox } from '../workers/webhooks/outbox.ts'
import { createClient } from './harness/client.ts'
import { runCommand } from './harness/command.ts'
import { workerEnvironment } from './harness/environment.ts'
import { startHarness } from './harness/gateway.ts'
import { expectProblem } from './harness/problem.ts'
import { startWorkerProcess } from './harness/processes.ts'
import { until } from './harness/until.ts'
import { startReceiver, webhookEnvironment } from './harness/webhooks.ts'
import { createPostgresDatabase } from './postgres-database.ts'

// Each starts some processes, on a machine that runs others too.
vi.setConfig({ testTimeout: 60_000 })

const OPENID = 'o6_bmjrPTlm6_2sgVt7hMZOPfL2M'
const TOKEN = randomBytes(24).toString('base64url')

/** A database with so many dead deliveries to `orders`. */
async function startSystem(deadCount: number) {
  const receiver = await startReceiver()
  const { url, open, drop } = await createPostgresDatabase(inject('postgresUrl'))
  const database = await open()
  onTestFinished(async () => {
    await database.close()
    await drop()
  })
  await database.migrate()
  const endpoint = {
    name: 'orders',
    url: receiver.url,
    secrets: [new Secret(Buffer.alloc(32))],
    events: new Set(EVENT_TYPES),
    includeOpenid: true,
    concurrency: 1,
  }
  const ids = Array.from({ length: deadCount }, () => randomUUID())
  const identity = { appid: 'wx', openid: OPENID }
  await database.db.transaction().execute((tx) =>
    createOutbox([endpoint]).record(
      tx,
      ids.map((id) => ({ type: 'user.created' as const, userId: 'u', id, identity })),
    ),
  )
  const deliveries = createDeliveries(database.db)
  for (const delivery of await deliveries.claim('orders', deadCount))
    await deliveries.finish(delivery, { state: 'dead' }, '500')
  const harness = await startHarness()
  const env = workerEnvironment(harness.env, {
    DATABASE_URL: url,
    ...webhookEnvironment([{ receiver, name: 'orders' }]),
  })
  return {
    receiver,
    ids,
    deliveries,
    startWorker: () => startWorkerProcess(env),
    /** A worker with a token, and a way to ask it. */
    async startAdministered() {
      const { url } = await startWorkerProcess({ ...env, WORKER_TOKEN: TOKEN })
      const client = createClient(url)
      onTestFinished(() => client.close())
      return client
    },
    command: (...args: string[]) => runCommand('workers/webhooks/main.ts', args, env),
  }
}

test.runIf(inject('postgresUrl'))('the dead are listed, without a word of what was told', async () => {
  const { command, ids, receiver } = await startSystem(2)
  const { code, stdout } = await command('dead')
  expect(code).toBe(0)
  for (const id of ids)
    expect(stdout).toMatch(new RegExp(`^${id}  \\S+  orders  user.created  1 attempts: 500$`, 'm'))
  expect((await command('dead', '--endpoint', 'crm')).stdout).toBe('')
  const status = await command('status')
  expect(status).toMatchObject({ code: 0, stdout: 'orders: 0 waiting; 2 dead\n' })
  for (const secret of [OPENID, receiver.secret]) expect(stdout + status.stdout).not.toContain(secret)
})

test.runIf(inject('postgresUrl'))('one is tried again with its id, then all of them', async () => {
  const { command, ids, receiver, startWorker } = await startSystem(3)
  await startWorker()
  expect(await command('replay', ids[0] ?? '')).toMatchObject({ code: 0, stdout: '1 put back.\n' })
  await until('the first', () => receiver.received.length === 1)
  expect(receiver.received[0]).toMatchObject({ id: ids[0], verified: true })
  const again = await command('replay', ids[0] ?? '')
  expect(again).toMatchObject({ code: 1, stderr: `Not dead: ${ids[0]}.\n` })
  expect(await command('replay', '--all', '--endpoint', 'orders')).toMatchObject({ stdout: '2 put back.\n' })
  await until('all', () => receiver.received.length === 3)
  expect(new Set(receiver.received.map(({ id }) => id))).toEqual(new Set(ids))
})

test.runIf(inject('postgresUrl'))('an endpoint is disabled and enabled again', async () => {
  const { command, deliveries, ids, receiver, startWorker } = await startSystem(1)
  expect(await command('disable', 'orders')).toMatchObject({ code: 0, stdout: 'orders is disabled.\n' })
  expect((await command('status')).stdout).toMatch(/^orders: 0 waiting; 1 dead; disabled since \d{4}-/)
  await deliveries.replay({ eventIds: ids })
  await startWorker()
  expect(await command('enable', 'orders')).toMatchObject({ code: 0, stdout: 'orders is enabled.\n' })
  await until('it to be delivered', () => receiver.received.length === 1)
  expect(await command('enable', 'nobody')).toMatchObject({ code: 1 })
})

describe.runIf(inject('postgresUrl'))('the listener of a worker that has WORKER_TOKEN', () => {
  test('lists the dead and tries them again, one by its id, then all', async () => {
    const { ids, receiver, startAdministered } = await startSystem(3)
    const worker = await startAdministered()
    const summary = await worker.get('/webhooks', TOKEN)
    const orders = { name: 'orders', configured: true, waiting: 0, oldest_seconds: 0, dead: 3 }
    expect({ status: summary.status, body: summary.body }).toEqual({
      status: 200,
      body: { endpoints: [orders] },
    })
    const listed = await worker.get('/webhooks/dead?endpoint=orders&limit=2', TOKEN)
    const dead = listed.body['dead'] as Record<string, unknown>[]
    expect(dead).toHaveLength(2)
    for (const row of dead) {
      expect(ids).toContain(row['id'])
      expect(row).toMatchObject({ endpoint: 'orders', type: 'user.created', attempts: 1, last_result: '500' })
    }
    expect((await worker.get('/webhooks/dead?endpoint=crm', TOKEN)).body).toEqual({ dead: [] })
    for (const { text } of [summary, listed])
      for (const secret of [OPENID, receiver.secret]) expect(text).not.toContain(secret)

    const [first = ''] = ids
    const one = await worker.post('/webhooks/replay', { ids: [first] }, TOKEN)
    expect({ status: one.status, body: one.body }).toEqual({
      status: 200,
      body: { replayed: 1, not_dead: [] },
    })
    await until('the first', () => receiver.received.length === 1)
    expect(receiver.received[0]).toMatchObject({ id: first, verified: true })
    const again = await worker.post('/webhooks/replay', { ids: [first] }, TOKEN)
    expect(again.body).toEqual({ replayed: 0, not_dead: [first] })
    const all = await worker.post('/webhooks/replay', { all: true, endpoint: 'orders' }, TOKEN)
    expect(all.body).toEqual({ replayed: 2, not_dead: [] })
    await until('all', () => receiver.received.length === 3)
    expect(new Set(receiver.received.map(({ id }) => id))).toEqual(new Set(ids))
  })

  test('answers nobody without it, and does nothing that is not meant', async () => {
    const { ids, startAdministered, deliveries } = await startSystem(1)
    const worker = await startAdministered()
    for (const path of ['/webhooks', '/webhooks/dead', '/webhooks/what'])
      for (const token of [undefined, 'x'.repeat(32)])
        expect(expectProblem(await worker.get(path, token), path).code).toBe('admin_unauthorized')
    const bodies = [
      {},
      { all: true, ids },
      { all: 1 },
      { ids: [] },
      { ids: ['x'] },
      { ids, endpoint: 'orders' },
      { all: true, endpoint: '\0' },
      { what: 1 },
      [],
    ]
    for (const body of bodies) {
      const reply = await worker.post('/webhooks/replay', body, TOKEN)
      expect(expectProblem(reply, JSON.stringify(body)).code).toBe('request_invalid')
    }
    const headers = { authorization: `Bearer ${TOKEN}`, 'content-type': 'application/json' }
    const send = (method: string, path: string, body?: string, own = headers) =>
      worker.send(method, path, { headers: own, ...(body !== undefined && { body }) })
    const refused: [Parameters<typeof send>, string][] = [
      [['POST', '/webhooks/replay', '{"all":'], 'request_invalid'],
      [['POST', '/webhooks/replay', `{"ids":"${'x'.repeat(20_000)}"}`], 'body_too_large'],
      [
        ['POST', '/webhooks/replay', 'all=true', { ...headers, 'content-type': 'text/plain' }],
        'media_type_unsupported',
      ],
      [['GET', '/webhooks/replay'], 'method_not_allowed'],
      [['DELETE', '/webhooks/dead'], 'method_not_allowed'],
      [['GET', '/webhooks/what'], 'not_found'],
      [['GET', '/webhooks/dead?limit=0'], 'request_invalid'],
      [['GET', '/webhooks/dead?endpoint=%00'], 'request_invalid'],
      [['GET', '/webhooks/dead?endpoint='], 'request_invalid'],
    ]
    for (const [asked, code] of refused) {
      const [method, path] = asked
      expect(expectProblem(await send(...asked), `${method} ${path}`).code).toBe(code)
    }
    expect(await deliveries.dead(10)).toHaveLength(1)
  })

  test('is not there where the worker has none', async () => {
    const { startWorker } = await startSystem(1)
    const { url } = await startWorker()
    expect((await fetch(`${url}/webhooks`, { headers: { authorization: `Bearer ${TOKEN}` } })).status).toBe(
      404,
    )
  })
})

test.each([
  [[]],
  [['bury']],
  [['replay']],
  [['replay', 'id']],
  [['replay', '--all', '019ab4c2-0000-7000-8000-000000000000']],
  [['status', '--all']],
  [['dead', '--limit', '0']],
  [['enable']],
  [['enable', 'a', 'b']],
  [['status', '--what']],
])('what it does not understand it does not do: %j', async (args) => {
  const { code, stdout, stderr } = await runCommand('workers/webhooks/main.ts', args)
  expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
  expect(stderr).toContain('usage: npm run -s webhooks')
})

test('without a database it says so, and quotes no password', async () => {
  const env = { REDIS_URL: 'redis://127.0.0.1:1', DATABASE_URL: 'postgres://me:pass-word@127.0.0.1:1/db' }
  const { code, stderr } = await runCommand('workers/webhooks/main.ts', ['status'], env)
  expect(code).toBe(1)
  expect(stderr).toContain('ECONNREFUSED')
  expect(stderr).not.toContain('pass-word')
})
