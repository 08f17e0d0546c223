/**
 * Users who ask to be forgotten (PIPL 47): they are logged out at once on every gateway, and a search of Redis, the
 * queues and the database finds nothing of them; what is on its way does not bring them back. Real worker processes,
 * and Postgres where one can be had, else the embedded database.
 */
import { UnrecoverableError, Worker } from 'bullmq'
import { expect, onTestFinished, test } from 'vitest'
import { subjectOf } from '../src/subject.ts'
import { APP_SECRET, APPID, workerEnvironment, SIMULATED } from './harness/environment.ts'
import {
  authorized,
  ask,
  erase,
  receiptOf,
  done,
  provisioned,
  provisionQueue,
  outcomeOf,
  newDatabase,
  traces,
  DONE_WITHIN_MS,
} from './harness/erasures.ts'
import { startHarness } from './harness/gateway.ts'
import { startWorkerProcess } from './harness/processes.ts'
import { logIn } from './harness/session-values.ts'
import { until } from './harness/until.ts'
import { startSimulator } from './simulator/server.ts'

const OTHER_APPID = 'wxfedcba9876543210'
const BOUND_MS = 1_000

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
