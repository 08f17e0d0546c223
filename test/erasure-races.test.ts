/**
 * Erasures beside what is on its way: jobs that wait or run, logins, log-outs that are still to be told of. None of it brings
 * the user back, and whoever logs in again is a new one.
 */
import { Queue } from 'bullmq'
import { Client } from 'pg'
import { describe, expect, inject, onTestFinished, test } from 'vitest'
import { createProvisioning } from '../src/provisioning.ts'
import { SESSION_EVENTS_QUEUE } from '../src/session-events.ts'
import { APPID, workerEnvironment } from './harness/environment.ts'
import {
  erase,
  receiptOf,
  done,
  provisioned,
  provisionQueue,
  outcomeOf,
  newDatabase,
  traces,
  holdIdentity,
} from './harness/erasures.ts'
import { startHarness } from './harness/gateway.ts'
import { startWorkerProcess } from './harness/processes.ts'
import { logIn } from './harness/session-values.ts'
import { until } from './harness/until.ts'
import { startReceiver, webhookEnvironment } from './harness/webhooks.ts'

const postgresUrl = inject('postgresUrl')

test('what is on its way does not bring a user back; their next login does', async () => {
  const harness = await startHarness()
  const { env } = await newDatabase()
  const worker = await startWorkerProcess(workerEnvironment(harness.env, env))
  const before = await logIn(harness, { openid: 'o-coming-back' })
  const { openid, sub } = before
  const { user_id: formerId } = await provisioned(harness, before.token)
  const provisioning = createProvisioning(harness.redis, harness.keys, () => {})
  onTestFinished(() => provisioning.close())

  const seenAtMs = Date.now() - 10
  const erasure = await erase(harness, openid)
  await done(harness, erasure)
  await provisioning.enqueue({ sub, appid: APPID, openid, seenAtMs })
  await until(
    'the late job to be run',
    async () => (await outcomeOf(worker, 'provisioned_users_total', 'erased')) === 1,
  )
  expect(await traces(harness, undefined, [openid])).toEqual([])

  const again = await logIn(harness, { openid })
  const { user_id: userId } = await provisioned(harness, again.token)
  expect(userId).not.toBe(formerId)
  // A job of before that stands for this login, for it was found waiting.
  await provisioning.enqueue({ sub, appid: APPID, openid, seenAtMs })
  await until(
    'the late job to be run',
    async () => (await outcomeOf(worker, 'provisioned_users_total', 'known')) === 1,
  )
  expect((await harness.get('/session', again.token)).body).toMatchObject({ user_id: userId })
}, 60_000)

test('who logs in again before the worker has erased them is a new user', async () => {
  const harness = await startHarness()
  const { env } = await newDatabase()
  const first = await startWorkerProcess(workerEnvironment(harness.env, env))
  const before = await logIn(harness, { openid: 'o-in-a-hurry' })
  const { user_id: formerId } = await provisioned(harness, before.token)
  await first.end('SIGTERM')

  const erasure = await erase(harness, before.openid)
  const again = await logIn(harness, { openid: before.openid })
  await startWorkerProcess(workerEnvironment(harness.env, env))
  expect(await done(harness, erasure)).toMatchObject({ erased: { identities: 1, users: 1 } })
  const session = await until('the new user to be known', async () => {
    const { body } = await harness.get('/session', again.token)
    return body.user_id !== undefined && body.user_id !== formerId && body
  })
  expect(session.provisioned).toBe(true)
}, 60_000)

describe.each(postgresUrl === '' ? [] : ['Postgres'])('on %s', () => {
  test('a job that is being run meanwhile is waited for', async () => {
    const harness = await startHarness()
    const { env, location } = await newDatabase()
    const openid = 'o-in-flight'
    const client = new Client({ connectionString: location.url })
    await client.connect()
    onTestFinished(() => client.end())
    const worker = await startWorkerProcess(workerEnvironment(harness.env, env))
    await holdIdentity(client, openid)
    const { token } = await logIn(harness, { openid })
    const queue = provisionQueue(harness)
    await until('the job to be run', async () => (await queue.getActiveCount()) === 1)
    const erasure = await erase(harness, openid)
    expect((await harness.get('/auth', token)).status).toBe(401)
    await until(
      'the erasure to wait',
      async () => (await outcomeOf(worker, 'erasure_jobs_total', 'failed')) >= 1,
    )
    expect(await receiptOf(harness, erasure)).toMatchObject({ state: 'pending' })
    await client.query('commit')
    await done(harness, erasure)
    expect(await traces(harness, location, [openid])).toEqual([])
  }, 60_000)

  test('what was to be told of somebody goes, also if they never became a user', async () => {
    const receiver = await startReceiver((response) => void response.writeHead(503).end())
    const harness = await startHarness({ env: { SESSION_EVENTS: 'true' } })
    const { env, location } = await newDatabase()
    const client = new Client({ connectionString: location.url })
    await client.connect()
    onTestFinished(() => client.end())
    await provisionQueue(harness).pause()
    const endpoints = [{ receiver, events: ['session.revoked'] }]
    await startWorkerProcess(workerEnvironment(harness.env, { ...env, ...webhookEnvironment(endpoints) }))
    const { token, openid, sub } = await logIn(harness, { openid: 'o-never-a-user' })
    await harness.delete('/session', token)
    const held = async () =>
      (await client.query('select event_id from webhook_deliveries where sub = $1', [sub])).rows.length
    await until('the log-out to be written down', async () => (await held()) === 1)
    await done(harness, await erase(harness, openid))
    expect(await held()).toBe(0)
  }, 60_000)

  test('who logs in again while a job of before runs, which stands for both logins, is a new user', async () => {
    const harness = await startHarness()
    const { env, location } = await newDatabase()
    const openid = 'o-in-flight-and-back'
    const client = new Client({ connectionString: location.url })
    await client.connect()
    onTestFinished(() => client.end())
    await startWorkerProcess(workerEnvironment(harness.env, env))
    await holdIdentity(client, openid)
    await logIn(harness, { openid })
    const queue = provisionQueue(harness)
    await until('the job to be run', async () => (await queue.getActiveCount()) === 1)
    const erasure = await erase(harness, openid)
    const { token } = await logIn(harness, { openid })
    expect(await queue.getWaitingCount()).toBe(0) // the running one stands for it
    await client.query('commit')
    await done(harness, erasure)
    const { body } = await harness.get('/session', token)
    const { rows } = await client.query('select user_id from identities where openid = $1', [openid])
    expect(rows).toEqual([{ user_id: body.user_id }])
    expect((await client.query('select id from users')).rows).toEqual([{ id: body.user_id }])
  }, 60_000)
})

test('a log-out of before that nobody has told of yet is not told of behind the erasure', async () => {
  const receiver = await startReceiver()
  const harness = await startHarness({ env: { SESSION_EVENTS: 'true' } })
  const { env } = await newDatabase()
  const events = new Queue(SESSION_EVENTS_QUEUE, {
    connection: harness.redis,
    prefix: harness.keys.queue(SESSION_EVENTS_QUEUE),
  })
  onTestFinished(() => events.close())
  const endpoints = [{ receiver, events: ['session.revoked', 'user.erased'], include_openid: true }]
  await startWorkerProcess(workerEnvironment(harness.env, { ...env, ...webhookEnvironment(endpoints) }))
  const waiting = () => events.getJobCountByTypes('waiting', 'active', 'delayed')

  const users = ['o-left', 'o-stays']
  const sessions = await Promise.all(users.map((openid) => logIn(harness, { openid })))
  for (const { token } of sessions) await provisioned(harness, token)
  await events.pause()
  for (const { token } of sessions) await harness.delete('/session', token)
  await until('both log-outs to wait', async () => (await waiting()) === 2)
  await done(harness, await erase(harness, 'o-left'))
  await events.resume()
  await until('them to be taken', async () => (await waiting()) === 0)

  await until('those to arrive that are told', () => receiver.received.length >= 2)
  const told = receiver.received.map(({ event }) => `${event.type} ${String(event.data['openid'])}`)
  expect(told.toSorted()).toEqual(['session.revoked o-stays', 'user.erased undefined'])
}, 60_000)

test('a login that was under way ends with the user erased or logged in anew, and the worker agrees', async () => {
  const harness = await startHarness()
  const { env, location } = await newDatabase()
  const worker = await startWorkerProcess(workerEnvironment(harness.env, env))
  const { code, openid } = harness.wechat.issueCode({ openid: 'o-under-way' })
  const hold = harness.wechat.addFault({ kind: 'hold', code })
  const login = harness.login({ code })
  await harness.wechat.received(code)
  await done(harness, await erase(harness, openid))
  hold.release()
  const { status, body } = await login
  expect(status).toBe(200) // the session was opened after the erasure: it is a login of its own
  await provisioned(harness, body.token)
  await done(harness, await erase(harness, openid))
  await worker.end('SIGTERM')
  expect(await traces(harness, location, [openid])).toEqual([])
}, 60_000)
