/** Log-outs are told of (session.revoked), and are none the slower or less certain for it. */
import { Queue } from 'bullmq'
import { Redis } from 'ioredis'
import { expect, onTestFinished, test, vi } from 'vitest'
import { startRedis } from '../deploy/local/redis-server.ts'
import { SESSION_EVENTS_QUEUE } from '../src/session-events.ts'
import type { SessionEventJob } from '../src/session-events.ts'
import { APPID, workerEnvironment } from './harness/environment.ts'
import { startHarness } from './harness/gateway.ts'
import type { Harness } from './harness/gateway.ts'
import { startWorkerProcess } from './harness/processes.ts'
import { newDatabase } from './harness/provisioning.ts'
import { until } from './harness/until.ts'
import { startReceiver, webhookEnvironment } from './harness/webhooks.ts'

// Processes, on a machine that runs others too.
vi.setConfig({ testTimeout: 60_000 })

const logIn = async (harness: Harness, openid?: string) =>
  (await harness.login({ code: harness.wechat.issueCode(openid === undefined ? {} : { openid }).code })).body

const provisioned = (harness: Harness, token: string) =>
  until('the user id', async () => (await harness.get('/session', token)).body.user_id, 20_000)

function queueOf(harness: Harness) {
  const queue = new Queue<SessionEventJob>(SESSION_EVENTS_QUEUE, {
    connection: harness.redis,
    prefix: harness.keys.queue(SESSION_EVENTS_QUEUE),
    skipMetasUpdate: true,
  })
  onTestFinished(() => queue.close())
  return queue
}

test('every kind of log-out arrives, with the ids of user and session, and openid for who asks', async () => {
  const receiver = await startReceiver()
  const curious = await startReceiver()
  const harness = await startHarness({ env: { SESSION_EVENTS: 'true' } })
  const { env } = await newDatabase()
  const endpoints = [
    { receiver, events: ['session.revoked'] },
    { receiver: curious, events: ['session.revoked'], include_openid: true },
  ]
  await startWorkerProcess(workerEnvironment(harness.env, { ...env, ...webhookEnvironment(endpoints) }))

  const first = await logIn(harness, 'o-alice')
  const userId = await provisioned(harness, first.token)
  const listed = (await harness.get('/sessions', first.token)).body['sessions'] as { id: string }[]
  expect((await harness.delete('/session', first.token)).status).toBe(204)
  expect((await harness.delete('/session', first.token)).status).toBe(401) // and is not told of

  const kept = await logIn(harness, 'o-alice')
  await provisioned(harness, kept.token)
  await logIn(harness, 'o-alice')
  expect((await harness.delete('/sessions?keep=current', kept.token)).status).toBe(204)
  const keptId = ((await harness.get('/sessions', kept.token)).body['sessions'] as { id: string }[])[0]?.id
  expect((await harness.delete('/sessions', kept.token)).status).toBe(204)

  const last = await logIn(harness, 'o-alice')
  await provisioned(harness, last.token)
  const headers = {
    authorization: `Bearer ${harness.env['ADMIN_TOKEN'] ?? ''}`,
    'content-type': 'application/json',
  }
  const block = () => harness.admin.send('PUT', `/users/${APPID}/o-alice/block`, { headers, body: '{}' })
  expect((await block()).status).toBe(204)
  expect((await block()).status).toBe(204) // nothing ends by this one

  const user = { user_id: userId, sub: first.sub }
  await until('all of them', () => receiver.received.length >= 4 && curious.received.length >= 4, 20_000)
  const inOrder = receiver.received.toSorted((a, b) => a.event.timestamp.localeCompare(b.event.timestamp))
  expect(inOrder.map(({ event }) => event.data)).toEqual([
    { ...user, scope: 'one', sid: listed[0]?.id },
    { ...user, scope: 'others', kept_sid: keptId },
    { ...user, scope: 'all' },
    { ...user, scope: 'blocked' },
  ])
  expect(receiver.received.every(({ verified }) => verified)).toBe(true)
  expect(curious.received.map(({ event }) => event.data['openid'])).toEqual(Array(4).fill('o-alice'))
  expect(await harness.metric('session_events_total', { outcome: 'queued' })).toBe(4)
})

test('a job holds neither openid nor token, and waits for a worker', async () => {
  const harness = await startHarness({ env: { SESSION_EVENTS: 'true' } })
  const queue = queueOf(harness)
  const { token, openid } = await logIn(harness)
  await harness.delete('/session', token)
  const [job] = await until('the job', async () => {
    const jobs = await queue.getWaiting()
    return jobs.length > 0 && jobs
  })
  const text = JSON.stringify(job?.asJSON())
  expect(text).not.toContain(openid)
  expect(text).not.toContain(token.slice(-32))
  expect(job?.data.id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-7/)
})

test('a job that is run twice is one event', async () => {
  const receiver = await startReceiver()
  const harness = await startHarness({ env: { SESSION_EVENTS: 'true' } })
  const queue = queueOf(harness)
  const { sub } = await logIn(harness)
  const data: SessionEventJob = {
    v: 1,
    id: '019ab4c2-0000-7000-8000-000000000000',
    sub,
    scope: 'all',
    endedAtMs: Date.now(),
  }
  await queue.add('session', data, { jobId: 'one' })
  await queue.add('session', data, { jobId: 'two' })
  const later = { ...data, id: '019ab4c2-0000-7000-8000-000000000001' }
  const { env } = await newDatabase()
  await startWorkerProcess(
    workerEnvironment(harness.env, { ...env, ...webhookEnvironment([{ receiver, concurrency: 1 }]) }),
  )
  await until('the event', () => receiver.ofType('session.revoked').length === 1, 20_000)
  await queue.add('session', later, { jobId: 'three' })
  await until('the later event', () => receiver.ofType('session.revoked').some(({ id }) => id === later.id))
  expect(receiver.ofType('session.revoked').map(({ id }) => id)).toEqual([data.id, later.id])
  expect(receiver.ofType('session.revoked')[0]?.event.data).toEqual({ sub, scope: 'all' })
})

test('nothing is queued unless SESSION_EVENTS says so', async () => {
  const harness = await startHarness()
  const queue = queueOf(harness)
  await harness.delete('/session', (await logIn(harness)).token)
  expect(await harness.metric('sessions_revoked_total', { scope: 'one' })).toBe(1)
  expect(await queue.getJobCounts('waiting', 'delayed', 'active')).toEqual({
    waiting: 0,
    delayed: 0,
    active: 0,
  })
})

test('a log-out succeeds although it cannot be queued, which is counted', async () => {
  const server = await startRedis({ persistent: false, allowDocker: false })
  onTestFinished(() => server.stop())
  const operator = new Redis(server.url)
  onTestFinished(() => operator.disconnect())
  const keys = ['user:*', 'code:*', 'limit:*', 'block:*', 'app*', '{provision}*'].map((key) => `~${key}`)
  await operator.call('ACL', 'SETUSER', 'gateway', 'on', '>only-for-tests', ...keys, '&*', '+@all')
  const url = `redis://gateway:only-for-tests@127.0.0.1:${server.port}`
  const harness = await startHarness({ env: { SESSION_EVENTS: 'true', REDIS_URL: url, KEY_PREFIX: '' } })
  const { token } = await logIn(harness)
  expect((await harness.delete('/session', token)).status).toBe(204)
  expect((await harness.get('/session', token)).status).toBe(401)
  await until(
    'it to be counted',
    async () => (await harness.metric('session_events_total', { outcome: 'lost' })) === 1,
  )
})
