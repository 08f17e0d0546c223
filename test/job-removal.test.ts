/**
 * Taking the jobs of an erased user out of a long queue while others take out theirs: none is passed over, however the
 * jobs move up meanwhile.
 */
import { randomUUID } from 'node:crypto'
import { Queue } from 'bullmq'
import { Redis } from 'ioredis'
import { expect, inject, onTestFinished, test } from 'vitest'
import { JOB_OPTIONS, PROVISION_JOB, PROVISION_QUEUE } from '../src/provisioning.ts'
import { subjectOf } from '../src/subject.ts'
import { createJobRemoval } from '../workers/erase-worker.ts'

/** Of reading: jobs at once. */
const PAGE = 500

const userOf = (name: string) => ({ sub: subjectOf('wx', `o-${name}`), openid: `o-${name}` })
const jobOf = (name: string) => ({ v: 1, ...userOf(name), appid: 'wx', seenAtMs: 1 })
const erasureOf = (name: string) => ({ ...userOf(name), erasedAtMs: 2 })

/** Until the test ends. */
function connect(): Redis {
  const redis = new Redis(inject('redisUrl'), { maxRetriesPerRequest: null })
  onTestFinished(() => redis.disconnect())
  return redis
}

/** A queue of its own, with the jobs of these users in the order in which they are read. */
async function startQueue(names: readonly string[]) {
  const redis = connect()
  const prefix = `removal-${randomUUID()}`
  const queue = new Queue<unknown>(PROVISION_QUEUE, { connection: redis, prefix })
  onTestFinished(async () => {
    await queue.obliterate()
    await queue.close()
  })
  // The latest comes first.
  const jobs = names.map((name) => ({
    name: PROVISION_JOB,
    data: jobOf(name),
    opts: { ...JOB_OPTIONS, jobId: randomUUID() },
  }))
  await queue.addBulk(jobs.toReversed())
  const ids = jobs.map(({ opts }) => opts.jobId)
  return {
    queue,
    redis,
    ids,
    key: (name: string) => queue.toKey(name),
    removeThese: (from: number, to: number) => Promise.all(ids.slice(from, to).map((id) => queue.remove(id))),
    /** As another worker has it. */
    createRemoval: (isLoggedIn = async () => false, own = connect()) =>
      createJobRemoval({ redis: own, isLoggedIn }, prefix),
    left: async () => (await queue.getJobs(['waiting', 'failed'])).map(({ data }) => data),
  }
}

/** As many others, and the user at some places among them. */
const among = (count: number, name: string, ...places: number[]) =>
  Array.from({ length: count }, (_, at) => (places.includes(at) ? name : `other-${at}`))

test('a job that is gone before it is read does not end the reading', async () => {
  const { queue, ids, createRemoval } = await startQueue(among(2 * PAGE, 'user', 2 * PAGE - 1))
  const redis = connect()
  const read = redis.hgetall.bind(redis)
  let isFirst = true
  redis.hgetall = async (key: string) => {
    if (isFirst) {
      isFirst = false
      await queue.remove(ids[0] ?? '')
    }
    return read(key)
  }
  const removeJobs = createRemoval(undefined, redis)
  expect(await removeJobs(erasureOf('user'))).toEqual({ removed: 1, running: 0 })
  expect(isFirst).toBe(false)
})

test.each([1, 300, PAGE - 1])('jobs that move up by %i, past what has been read, are read', async (count) => {
  const user = [PAGE - 1, PAGE, PAGE + 50, PAGE + 299, 2 * PAGE - 1, 2 * PAGE]
  const { createRemoval, left, removeThese } = await startQueue(among(3 * PAGE, 'user', ...user))
  let isFirst = true
  const removeJobs = createRemoval(async () => {
    if (isFirst) {
      isFirst = false
      await removeThese(0, count)
    }
    return false
  })
  expect(await removeJobs(erasureOf('user'))).toEqual({ removed: user.length, running: 0 })
  expect(await left()).not.toContainEqual(jobOf('user'))
})

test('ids whose job is gone neither end the reading nor keep it going', async () => {
  const { key, redis, createRemoval, left } = await startQueue(among(PAGE, 'user', 0, PAGE - 1))
  for (let at = 0; at < 8 * PAGE; at += 1) await redis.lpush(key('wait'), `gone-${at}`)
  expect(await createRemoval()(erasureOf('user'))).toEqual({ removed: 2, running: 0 })
  expect(await left()).not.toContainEqual(jobOf('user'))
})

test('two workers that erase many users at once leave none of their jobs, waiting or dead', async () => {
  const names = Array.from({ length: 3 * PAGE }, (_, at) => `user-${at}`)
  const { key, redis, ids, createRemoval, left } = await startQueue(names)
  for (const [at, id] of ids.entries()) {
    if (at % 2 === 0) continue
    await redis.lrem(key('wait'), 1, id)
    await redis.zadd(key('failed'), at, id)
  }
  const workers = [createRemoval(), createRemoval()]
  const found = await Promise.all(
    names.flatMap((name, at) => workers[at % 3 === 0 ? 0 : 1]?.(erasureOf(name)) ?? []),
  )
  expect(await left()).toEqual([])
  expect(found.reduce((sum, { removed }) => sum + removed, 0)).toBe(names.length)
})
