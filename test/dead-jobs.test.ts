/** Dead jobs are kept, shown, put back and deleted by `npm run jobs`, which shows no openid unless asked to. */
import { randomUUID } from 'node:crypto'
import { Queue } from 'bullmq'
import { expect, onTestFinished, test, vi } from 'vitest'
import { DEAD_JOBS_KEPT, JOB_OPTIONS, PROVISION_JOB, PROVISION_QUEUE } from '../src/provisioning.ts'
import { runCommand } from './harness/command.ts'
import { workerEnvironment } from './harness/environment.ts'
import { startHarness } from './harness/gateway.ts'
import type { Harness } from './harness/gateway.ts'
import { startWorkerProcess } from './harness/processes.ts'
import { newDatabase, queuedJobs, queueOf, workerMetric } from './harness/provisioning.ts'
import { createWaitingCount } from '../workers/provision-worker.ts'
import { until } from './harness/until.ts'

// Each starts a worker and some commands: processes, on a machine that runs others too.
vi.setConfig({ testTimeout: 60_000 })

const OPENID = 'o6_bmjrPTlm6_2sgVt7hMZOPfL2M'
const UNIONID = 'o6_bmasdasdsad6_2sgVt7hMZOPf'

async function startSystem() {
  const harness = await startHarness()
  const env = workerEnvironment(harness.env)
  const { REDIS_URL = '', KEY_PREFIX = '' } = env
  const queue = new Queue(PROVISION_QUEUE, {
    connection: harness.redis,
    prefix: harness.keys.queue(PROVISION_QUEUE),
    skipMetasUpdate: true,
  })
  onTestFinished(() => queue.close())
  return {
    harness,
    queue,
    /** A worker with a database of its own, until the test ends. */
    startWorker: async () => startWorkerProcess({ ...env, ...(await newDatabase()).env }),
    jobs: (...args: string[]) => runCommand('workers/jobs/main.ts', args, { REDIS_URL, KEY_PREFIX }),
    /** As a gateway of another release would enqueue it. */
    add: (data: Record<string, unknown>) =>
      queue.add(PROVISION_JOB, data, { ...JOB_OPTIONS, jobId: randomUUID() }),
  }
}

const jobOfTomorrow = {
  v: 3,
  sub: 'hHUnC9xZkIXnZl0s3mGdrA',
  appid: 'wx-tomorrow',
  user: { openid: OPENID, unionid: UNIONID },
  openid: OPENID,
  seenAtMs: 1_000,
}

function dead(harness: Harness, count: number) {
  return until(
    `${count} dead jobs`,
    async () => (await queueOf(harness).counts())['failed'] === count || undefined,
    20_000,
  )
}

test('a job of another version is dead at once, and listed with its reason and no openid', async () => {
  const { harness, startWorker, jobs, add } = await startSystem()
  const { id = '' } = await add(jobOfTomorrow)
  await startWorker()
  await dead(harness, 1)

  const list = await jobs('list')
  expect(list.stdout).toMatch(
    new RegExp(`^${id}  20\\S+Z  wx-tomorrow o6_b…  1 attempt: provision job of version 3`),
  )
  expect(list.stderr).toBe('1 dead job.\n')
  const shown = await jobs('show', id)
  expect(JSON.parse(shown.stdout)).toMatchObject({ id, attempts: 1, data: { v: 3, sub: jobOfTomorrow.sub } })
  for (const { code, stdout, stderr } of [list, shown]) {
    expect(code).toBe(0)
    expect(stdout + stderr).not.toContain(OPENID.slice(0, 10))
    expect(stdout + stderr).not.toContain(UNIONID.slice(0, 10))
  }

  expect(JSON.parse((await jobs('show', id, '--openid')).stdout)).toMatchObject({ data: jobOfTomorrow })
  expect((await jobs('list', '--openid')).stdout).toContain(OPENID)
})

test('a replayed job is run anew and done, once what it died of has been mended', async () => {
  const { harness, queue, startWorker, jobs } = await startSystem()
  await startWorker()
  const { body } = await harness.login({ code: harness.wechat.issueCode().code })
  await until('the user to be provisioned', async () => (await queuedJobs(harness)) === 0)
  // Of a user who has logged in: its sub is real, and what the worker acknowledges can be seen.
  await harness.redis.hdel(harness.keys.user(body.sub), 'i', 'g')
  const job = { sub: body.sub, appid: harness.env['WECHAT_APPID'] ?? '', openid: '', seenAtMs: 1_000 }
  await queueOf(harness).enqueue(job)
  await dead(harness, 1)
  const [failed] = await queue.getFailed()
  await failed?.updateData({ ...job, v: 1, openid: body.openid })

  const replay = await jobs('replay', '--all')
  expect(replay).toMatchObject({ code: 0, stdout: '1 dead job put back into the queue.\n', stderr: '' })
  await until('the user to be acknowledged', async () => {
    const session = await harness.get('/session', body.token)
    return session.body.provisioned
  })
  expect(await queueOf(harness).counts()).toMatchObject({ failed: 0, waiting: 0 })
})

test('a replayed job that dies again is a dead job again; a worker’s loss is not held against it', async () => {
  const { harness, queue, startWorker, jobs, add } = await startSystem()
  const { id = '' } = await add(jobOfTomorrow)
  const worker = await startWorker()
  await dead(harness, 1)
  await worker.end('SIGTERM')
  // As BullMQ leaves a job that was taken over too often.
  await harness.redis.hset(queue.toKey(id), { stc: '4', defa: 'job stalled more than allowable limit' })

  expect((await jobs('replay', id)).code).toBe(0)
  await startWorker()
  await dead(harness, 1)
  const [again] = await queue.getFailed()
  expect(again).toMatchObject({ stalledCounter: 0, attemptsMade: 1 })
  expect(again?.failedReason).toContain('version 3')
})

test('a dead job of a user who is queued again is dropped by its replay, not doubled', async () => {
  const { harness, startWorker, jobs } = await startSystem()
  const worker = await startWorker()
  const job = { sub: 'a-user', appid: 'wx-app', openid: '', seenAtMs: 1_000 }
  await queueOf(harness).enqueue(job)
  await dead(harness, 1)
  await worker.end('SIGTERM')
  await queueOf(harness).enqueue({ ...job, openid: OPENID })

  const { code, stdout } = await jobs('replay', '--all')
  expect(code).toBe(0)
  expect(stdout).toBe(
    '0 dead jobs put back into the queue.\n1 more dropped: a newer job of the same user waits there.\n',
  )
  expect(await queueOf(harness).counts()).toMatchObject({ failed: 0, waiting: 1 })
})

test('dead jobs are deleted by name or all together, and what is no dead job is said and left alone', async () => {
  const { harness, startWorker, jobs, add } = await startSystem()
  const ids = await Promise.all(Array.from({ length: 3 }, () => add(jobOfTomorrow)))
  const worker = await startWorker()
  await dead(harness, 3)
  await worker.end('SIGTERM')
  const { id: waiting = '' } = await add(jobOfTomorrow)

  const one = await jobs('remove', ids[0]?.id ?? '', waiting, 'nonsense')
  expect(one).toMatchObject({
    code: 1,
    stdout: '1 dead job deleted.\n',
    stderr: `There is no dead job ${waiting}, nonsense.\n`,
  })
  expect(await jobs('replay', waiting)).toMatchObject({ code: 1 })
  expect(await queueOf(harness).counts()).toMatchObject({ failed: 2, waiting: 1 })
  expect(await jobs('remove', '--all')).toMatchObject({ code: 0, stdout: '2 dead jobs deleted.\n' })
  expect(await queueOf(harness).counts()).toMatchObject({ failed: 0, waiting: 1 })
})

test('dead jobs are kept for a week and 10,000 at most, also those that lost their options', async () => {
  const { harness, queue, startWorker } = await startSystem()
  expect(DEAD_JOBS_KEPT).toEqual({ age: 604_800, count: 10_000 })
  const { id = '' } = await queue.add(PROVISION_JOB, jobOfTomorrow, { jobId: randomUUID() })
  // As old and as many as it takes: only their places in the set count.
  const set = queue.toKey('failed')
  const weekAgoMs = Date.now() - 8 * 24 * 3_600_000
  await harness.redis.zadd(set, ...Array.from({ length: 5 }, (_, at) => [weekAgoMs, `old-${at}`]).flat())
  await startWorker()
  await until('the job to be dead', async () => (await harness.redis.zscore(set, id)) !== null)
  expect(await harness.redis.zcard(set)).toBe(1)
})

test.each([
  [[]],
  [['bury']],
  [['replay']],
  [['replay', '--all', 'id']],
  [['remove', '--everything']],
  [['list', '--limit', '0']],
  [['list', 'id']],
  [['show', '--all']],
])('what it does not understand it does not do: %j', async (args) => {
  const { code, stdout, stderr } = await runCommand('workers/jobs/main.ts', args)
  expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
  expect(stderr).toContain('usage: npm run -s jobs')
})

test('without Redis it says so', async () => {
  const { code, stderr } = await runCommand('workers/jobs/main.ts', ['list'], {
    REDIS_URL: 'redis://127.0.0.1:1',
  })
  expect({ code, stderr }).toEqual({ code: 1, stderr: 'Redis does not answer.\n' })
})

test('a paused queue keeps what is queued, which counts for no stuck worker, and goes on when it is told to', async () => {
  const { harness, startWorker, jobs } = await startSystem()
  const worker = await startWorker()
  expect(await jobs('pause')).toMatchObject({ code: 0, stderr: '' })
  const { body } = await harness.login({ code: harness.wechat.issueCode().code })

  const status = await jobs('status')
  expect(status.stdout).toBe('waiting  1\nactive  0\ndelayed  0\nfailed  0\nThe queue is paused.\n')
  const countWaiting = createWaitingCount(harness.redis, harness.keys.queue(PROVISION_QUEUE))
  expect(await countWaiting()).toBe(0)
  expect(await workerMetric(worker, 'provisioning_jobs_total', { outcome: 'done' })).toBe(0)

  expect((await jobs('resume')).code).toBe(0)
  await until(
    'the user to be provisioned',
    async () => (await harness.get('/session', body.token)).body.provisioned,
  )
  expect((await jobs('status')).stdout).toContain('The queue is not paused.')
  expect((await jobs('pause', 'provision')).code).toBe(2)
})
