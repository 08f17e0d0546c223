/**
 * Users who ask to be forgotten (PIPL 47): they are logged out at once on every gateway, and a search of Redis, the
 * queues and the database finds nothing of them; what is on its way does not bring them back. Real worker processes,
 * and Postgres where one can be had, else the embedded database.
 */
import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Queue, UnrecoverableError, Worker } from 'bullmq'
import { Client } from 'pg'
import { describe, expect, inject, onTestFinished, test } from 'vitest'
import { createProvisioning } from '../src/provisioning.ts'
import { SESSION_EVENTS_QUEUE } from '../src/session-events.ts'
import { subjectOf } from '../src/subject.ts'
import type { ReplyBody } from './harness/client.ts'
import { createClient } from './harness/client.ts'
import { dumpDatabase, dumpRedis } from './harness/dumps.ts'
import { APP_SECRET, APPID, SIMULATED, workerEnvironment } from './harness/environment.ts'
import { metricIn, startHarness } from './harness/gateway.ts'
import type { Harness } from './harness/gateway.ts'
import { startWorkerProcess } from './harness/processes.ts'
import type { RunningProcess } from './harness/processes.ts'
import { logIn } from './harness/session-values.ts'
import { until } from './harness/until.ts'
import { startReceiver, webhookEnvironment } from './harness/webhooks.ts'
import { createPostgresDatabase } from './postgres-database.ts'
import { startSimulator } from './simulator/server.ts'

const OTHER_APPID = 'wxfedcba9876543210'
const BOUND_MS = 1_000
const DONE_WITHIN_MS = 30_000
const postgresUrl = inject('postgresUrl')

/** A database of its own for the test. */
async function newDatabase() {
  if (postgresUrl === '') {
    const dataDir = mkdtempSync(join(tmpdir(), 'gateway-data-'))
    return { env: { DATA_DIR: dataDir }, location: { url: undefined, dataDir } }
  }
  const { url } = await createPostgresDatabase(postgresUrl)
  return { env: { DATABASE_URL: url }, location: { url, dataDir: '' } }
}

const authorized = (harness: Harness) => ({ authorization: `Bearer ${harness.env['ADMIN_TOKEN'] ?? ''}` })
const ask = (harness: Harness, method: string, path: string) =>
  harness.admin.send(method, path, { headers: authorized(harness) })
const erase = async (harness: Harness, openid: string, appid = APPID): Promise<ReplyBody> => {
  const reply = await ask(harness, 'DELETE', `/users/${appid}/${openid}`)
  expect(reply.status).toBe(202)
  expect(reply.headers['location']).toBe(`/erasures/${String(reply.body['receipt'])}`)
  return reply.body
}
const receiptOf = async (harness: Harness, { receipt }: ReplyBody) =>
  (await ask(harness, 'GET', `/erasures/${String(receipt)}`)).body
const done = (harness: Harness, erasure: ReplyBody) =>
  until(
    'the erasure to be done',
    async () => {
      const receipt = await receiptOf(harness, erasure)
      return receipt['state'] === 'done' && receipt
    },
    DONE_WITHIN_MS,
  )
const provisioned = (harness: Harness, token: string) =>
  until(
    'the session to be provisioned',
    async () => {
      const { status, body } = await harness.get('/session', token)
      return status === 200 && body.provisioned && body
    },
    DONE_WITHIN_MS,
  )
const provisionQueue = (harness: Harness) => {
  const queue = new Queue<unknown>('provision', {
    connection: harness.redis,
    prefix: harness.keys.queue('provision'),
  })
  onTestFinished(() => queue.close())
  return queue
}
const outcomeOf = async (worker: RunningProcess, name: string, outcome: string) => {
  const client = createClient(worker.url)
  const { text } = await client.get('/metrics')
  await client.close()
  return metricIn(text, name, { outcome })
}

/** Where something of a user is still to be found. @param location undefined: while a worker holds the database */
async function traces(
  harness: Harness,
  location: { url: string | undefined; dataDir: string } | undefined,
  what: readonly string[],
) {
  const places = {
    Redis: await dumpRedis(harness.redis, `${harness.env['KEY_PREFIX']}*`),
    database: location === undefined ? '' : await dumpDatabase(location),
  }
  return Object.entries(places).flatMap(([place, text]) =>
    what.filter((trace) => text.includes(trace)).map((trace) => `${trace} in ${place}`),
  )
}

test('nothing is found of an erased user but the hash; the same person stays in another app, and others too', async () => {
  const apps = [APPID, OTHER_APPID].map((appid) => ({ appid, secret: APP_SECRET }))
  const wechat = await startSimulator({ ...SIMULATED, apps })
  onTestFinished(() => wechat.close())
  const harness = await startHarness({ wechat })
  const added = await harness.admin.send('POST', '/apps', {
    headers: { ...authorized(harness), 'content-type': 'application/json' },
    body: JSON.stringify({ appid: OTHER_APPID, secret: APP_SECRET }),
  })
  expect(added.status).toBe(201)
  const { env, location } = await newDatabase()
  const worker = await startWorkerProcess(workerEnvironment(harness.env, env))

  const unionid = 'o6_bmasdasdsad6_2sgVt7hMZOPfL'
  const [here, there] = [APPID, OTHER_APPID].map((appid) => wechat.issueCode({ appid, unionid }))
  if (!here || !there) throw new Error('two codes were issued')
  const one = (await harness.login({ code: here.code, appid: APPID })).body
  const two = (await harness.login({ code: there.code, appid: OTHER_APPID })).body
  const alone = await logIn(harness, { appid: APPID, openid: 'o-somebody-alone' })
  const bystander = await logIn(harness, { appid: APPID })
  const { user_id: aloneId = '' } = await provisioned(harness, alone.token)
  const { user_id: sharedId = '' } = await provisioned(harness, one.token)
  for (const { token } of [two, bystander]) await provisioned(harness, token)
  expect(await traces(harness, undefined, [here.openid])).toHaveLength(1) // the search finds

  const receipts = [await erase(harness, here.openid), await erase(harness, alone.openid)]
  for (const { token } of [one, alone]) expect((await harness.get('/auth', token)).status).toBe(401)
  const [ofOne, ofAlone] = await Promise.all(receipts.map((erasure) => done(harness, erasure)))
  expect(ofOne).toMatchObject({ sessions: 1, erased: { jobs: 0, identities: 1, users: 0 } })
  expect(ofAlone).toMatchObject({ sessions: 1, erased: { jobs: 0, identities: 1, users: 1 } })
  expect(JSON.stringify([ofOne, ofAlone])).not.toContain(one.sub)
  expect(await outcomeOf(worker, 'erasure_jobs_total', 'done')).toBe(2)
  for (const { token } of [two, bystander]) expect((await harness.get('/auth', token)).status).toBe(200)

  // Who logs in again is new, or, known by the other app, the same person again.
  const [back, backAlone] = [
    await logIn(harness, { appid: APPID, openid: 'o-somebody-alone' }),
    await logIn(harness, { appid: APPID }),
  ]
  expect((await provisioned(harness, back.token)).user_id).not.toBe(aloneId)
  expect((await provisioned(harness, two.token)).user_id).toBe(sharedId)
  await provisioned(harness, backAlone.token)
  await worker.end('SIGTERM')
  expect(await traces(harness, location, [here.openid, one.token, aloneId])).toEqual([])
  expect(worker.output()).not.toContain(here.openid)
  expect(await traces(harness, location, [sharedId])).not.toEqual([])
}, 60_000)

test('jobs of the user are taken out of the queue in every state, also when the worker comes back only later', async () => {
  const harness = await startHarness()
  const { env, location } = await newDatabase()
  const { openid, sub } = await logIn(harness, { openid: 'o-with-many-jobs' })
  const others = [await logIn(harness), await logIn(harness)]
  const queue = provisionQueue(harness)
  const job = { v: 1 as const, sub, appid: APPID, openid, seenAtMs: Date.now() }
  const other = { ...job, sub: subjectOf(APPID, 'o-other'), openid: 'o-other' }

  // One that is dead, one that is done and kept, one that will be run in an hour; and the waiting one of the login.
  const ending = new Worker(
    'provision',
    async ({ name }) => {
      if (name === 'dies') throw new UnrecoverableError('never')
    },
    {
      connection: harness.redis.duplicate({ maxRetriesPerRequest: null }),
      prefix: harness.keys.queue('provision'),
    },
  )
  await until('the jobs of the logins to be gone', async () => (await queue.getWaitingCount()) === 0)
  await queue.add('dies', job)
  await queue.add('dies', other)
  await queue.add('ends', job)
  await until('the jobs to have ended', async () => {
    const { failed = 0, completed = 0 } = await queue.getJobCounts('failed', 'completed')
    return failed === 2 && completed >= 1
  })
  await ending.close()
  await queue.add('user', job, { delay: 3_600_000 })
  await queue.add('user', other, { delay: 3_600_000 })
  await queue.add('user', { ...job, unionid: 'u-of-them' })
  for (let i = 0; i < 600; i += 1) await queue.add('user', { ...other, openid: `o-other-${i}` })
  await queue.add('user', { ...job, unionid: 'u-of-them-2' })

  const erasure = await erase(harness, openid)
  expect(await receiptOf(harness, erasure)).toMatchObject({ state: 'pending', sessions: 1 })
  const worker = await startWorkerProcess(workerEnvironment(harness.env, env))
  const receipt = await done(harness, erasure)
  expect((receipt['erased'] as { jobs: number }).jobs).toBeGreaterThanOrEqual(3)
  expect(await queue.getFailedCount()).toBe(1)
  expect(await queue.getDelayedCount()).toBe(1)
  await until('the other jobs to be done', async () => (await queue.getWaitingCount()) === 0, DONE_WITHIN_MS)
  for (const { token } of others) expect((await harness.get('/auth', token)).status).toBe(200)
  await worker.end('SIGTERM')
  expect(await traces(harness, location, [openid, 'u-of-them'])).toEqual([])
}, 60_000)

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
    // As another worker's transaction about the same identity would.
    await client.query('begin')
    await client.query('select pg_advisory_xact_lock($1::int, hashtext($2))', [
      0x77_78_69,
      JSON.stringify([APPID, openid]),
    ])
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
})

describe.each(postgresUrl === '' ? [] : ['Postgres'])('on %s', () => {
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
    // As another worker's transaction about the same identity would.
    await client.query('begin')
    await client.query('select pg_advisory_xact_lock($1::int, hashtext($2))', [
      0x77_78_69,
      JSON.stringify([APPID, openid]),
    ])
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

test('on every gateway, whatever is in its cache, no token is valid from then on', async () => {
  const one = await startHarness({ env: { SESSION_CACHE_SECONDS: '5' } })
  const others = [
    await startHarness({ env: one.env, wechat: one.wechat }),
    await startHarness({ env: one.env, wechat: one.wechat }),
  ]
  const user = await logIn(one, { openid: 'o-everywhere' })
  const second = await logIn(one, { openid: 'o-everywhere' })
  const gateways = [one, ...others]
  for (const { get } of gateways) expect((await get('/auth', user.token)).status).toBe(200)
  const erasedAtMs = performance.now()
  expect(await erase(one, 'o-everywhere')).toMatchObject({ sessions: 2 })
  for (const { get } of gateways) {
    for (const { token } of [user, second])
      await until('the erasure to be known', async () => (await get('/auth', token)).status === 401)
  }
  expect(performance.now() - erasedAtMs).toBeLessThan(BOUND_MS)
})

test('may be asked for again, of anybody, and lifts no block', async () => {
  const harness = await startHarness()
  const { openid, sub } = await logIn(harness)
  await harness.admin.send('PUT', `/users/${APPID}/${openid}/block`, { headers: authorized(harness) })
  for (const who of [openid, openid, 'o-nobody']) {
    expect(await erase(harness, who)).toMatchObject({ state: 'pending', sessions: 0 })
  }
  expect((await ask(harness, 'GET', `/users/${APPID}/${openid}`)).body).toMatchObject({ blocked: true })
  expect(await harness.redis.exists(harness.keys.user(sub), harness.keys.userLimit(sub))).toBe(0)
  expect(await harness.metric('users_erased_total')).toBe(3)
})

test('only an administrator erases and reads receipts; a receipt that is none is not found', async () => {
  const harness = await startHarness()
  const { token } = await logIn(harness, { openid: 'o-stays' })
  for (const [method, path] of [
    ['DELETE', `/users/${APPID}/o-stays`],
    ['GET', '/erasures/00000000-0000-0000-0000-000000000000'],
  ] as const) {
    expect((await harness.admin.send(method, path)).status).toBe(401)
    expect(
      (await harness.admin.send(method, path, { headers: { authorization: `Bearer ${token}` } })).status,
    ).toBe(401)
  }
  expect((await harness.get('/auth', token)).status).toBe(200)
  expect((await ask(harness, 'GET', '/erasures/00000000-0000-0000-0000-000000000000')).status).toBe(404)
  expect((await ask(harness, 'GET', '/erasures/o-stays')).status).toBe(400)
})
