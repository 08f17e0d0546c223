/** `npm run webhooks`: dead deliveries are listed and tried again with their ids, endpoints switched off and on. */
import { randomUUID } from 'node:crypto'
import { expect, inject, onTestFinished, test, vi } from 'vitest'
import { Secret } from '../src/secret.ts'
import { EVENT_TYPES } from '../src/webhook-endpoints.ts'
import { createDeliveries } from '../workers/webhooks/deliveries.ts'
import { createOutbox } from '../workers/webhooks/outbox.ts'
import { runCommand } from './harness/command.ts'
import { workerEnvironment } from './harness/environment.ts'
import { startHarness } from './harness/gateway.ts'
import { startWorkerProcess } from './harness/processes.ts'
import { until } from './harness/until.ts'
import { startReceiver, webhookEnvironment } from './harness/webhooks.ts'
import { createPostgresDatabase } from './postgres-database.ts'

// Each starts some processes, on a machine that runs others too.
vi.setConfig({ testTimeout: 60_000 })

const OPENID = 'o6_bmjrPTlm6_2sgVt7hMZOPfL2M'

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
