/** Dead jobs over the admin listener: what they died of, and put back by name or all together. */
import { Queue, UnrecoverableError, Worker } from 'bullmq'
import { expect, onTestFinished, test } from 'vitest'
import { PROVISION_QUEUE } from '../src/provisioning.ts'
import { subjectOf } from '../src/subject.ts'
import { startHarness } from './harness/gateway.ts'
import { expectProblem } from './harness/problem.ts'
import { queueOf } from './harness/provisioning.ts'
import { until } from './harness/until.ts'

const APP = 'wx-app'
const openidOf = (at: number) => `o6_bmjrPTlm6_2sgVt7hMZOP${at}`

async function refuse(): Promise<never> {
  throw new UnrecoverableError('database: 22021')
}

/** A gateway with so many dead jobs, each of a user of its own. */
async function startSystem(deadCount: number) {
  const harness = await startHarness()
  const at = { connection: harness.redis, prefix: harness.keys.queue(PROVISION_QUEUE) }
  const queue = new Queue(PROVISION_QUEUE, { ...at, skipMetasUpdate: true })
  onTestFinished(() => queue.close())
  for (let user = 0; user < deadCount; user += 1) {
    const identity = { appid: APP, openid: openidOf(user) }
    await queueOf(harness).enqueue({ sub: subjectOf(APP, identity.openid), ...identity, seenAtMs: user })
  }
  const worker = new Worker(PROVISION_QUEUE, refuse, {
    ...at,
    connection: harness.redis.duplicate({ maxRetriesPerRequest: null }),
  })
  await until('all to be dead', async () => (await queue.getFailedCount()) === deadCount)
  await worker.close()
  const token = harness.env['ADMIN_TOKEN'] ?? ''
  return {
    harness,
    queue,
    list: (query = '') => harness.admin.get(`/jobs/dead${query}`, token),
    replay: (body: unknown, by = token) => harness.admin.post('/jobs/dead/replay', body, by),
  }
}

test('they are listed, the latest first, with their reason and no openid', async () => {
  const { list } = await startSystem(3)
  const { status, body, text } = await list('?limit=2')
  expect({ status, count: body['count'] }).toEqual({ status: 200, count: 3 })
  const jobs = body['jobs'] as Record<string, unknown>[]
  expect(jobs).toHaveLength(2)
  for (const job of jobs) {
    expect(job).toMatchObject({ attempts: 1, takeovers: 0, reason: 'database: 22021', appid: APP })
    expect(Math.abs(Date.now() / 1_000 - Number(job['died_at']))).toBeLessThan(60)
  }
  const subs = [0, 1, 2].map((at) => subjectOf(APP, openidOf(at)))
  expect(jobs.every(({ sub }) => subs.includes(String(sub)))).toBe(true)
  expect(text).not.toContain(openidOf(0).slice(0, 10))
})

test('one is put back by its id, then all, and what is no dead job is said', async () => {
  const { list, replay, queue } = await startSystem(4)
  const [first] = (await list()).body['jobs'] as { id: string }[]
  const id = first?.id ?? ''
  const one = await replay({ ids: [id, 'nonsense'] })
  expect(one.status).toBe(200)
  expect(one.body).toEqual({ replayed: 1, waiting_already: 0, not_dead: ['nonsense'], left: 3 })
  expect((await replay({ ids: [id] })).body).toMatchObject({ replayed: 0, not_dead: [id] })
  expect((await replay({ all: true })).body).toEqual({
    replayed: 3,
    waiting_already: 0,
    not_dead: [],
    left: 0,
  })
  const waiting = await queue.getWaiting()
  expect(new Set(waiting.map(({ data }) => (data as { o: string }).o))).toEqual(
    new Set([0, 1, 2, 3].map(openidOf)),
  )
  expect(waiting.every(({ attemptsMade }) => attemptsMade === 0)).toBe(true)
})

test('a job whose user is queued again is dropped, not doubled', async () => {
  const { harness, replay, queue } = await startSystem(1)
  const openid = openidOf(0)
  await queueOf(harness).enqueue({ sub: subjectOf(APP, openid), appid: APP, openid, seenAtMs: 9 })
  expect((await replay({ all: true })).body).toMatchObject({ replayed: 0, waiting_already: 1, left: 0 })
  expect(await queue.getWaitingCount()).toBe(1)
})

test('nobody but an administrator may, and nothing but what is meant', async () => {
  const { harness, list, replay, queue } = await startSystem(1)
  for (const reply of [await replay({ all: true }, 'x'.repeat(32)), await harness.admin.get('/jobs/dead')])
    expect(expectProblem(reply, 'no token').code).toBe('admin_unauthorized')
  const bodies = [
    {},
    { all: false },
    { all: true, ids: ['a'] },
    { ids: [] },
    { ids: [7] },
    { ids: Array(201).fill('a') },
  ]
  for (const body of bodies)
    expect(expectProblem(await replay(body), JSON.stringify(body)).code).toBe('request_invalid')
  for (const query of ['?limit=0', '?limit=1000', '?openid=1'])
    expect(expectProblem(await list(query), query).code).toBe('request_invalid')
  expect(await queue.getFailedCount()).toBe(1)
})
