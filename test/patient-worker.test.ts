/** The worker of jobs that are not given up: what an attempt that fails is counted as, and that it is made again. */
import { UnrecoverableError } from 'bullmq'
import { Redis } from 'ioredis'
import { expect, inject, onTestFinished, test } from 'vitest'
import { openJobQueue, PATIENT_JOB } from '../src/job-queue.ts'
import { createKeys } from '../src/redis/keys.ts'
import { createPatientWorker } from '../workers/patient-worker.ts'
import { newPrefix } from './harness/environment.ts'
import { until } from './harness/until.ts'

const NAME = 'patience'
const log = { error() {} } as unknown as Parameters<typeof createPatientWorker>[1]['log']

test('what fails is run again and may be done; what cannot succeed is dead at once', async () => {
  const redis = new Redis(inject('redisUrl'), { maxRetriesPerRequest: null })
  onTestFinished(() => redis.disconnect())
  const keys = createKeys(newPrefix())
  const jobOptions = { ...PATIENT_JOB, attempts: 3, removeOnFail: true }
  const queue = openJobQueue<string>({ redis, keys }, { name: NAME, jobOptions })
  const ends: string[] = []
  const worker = createPatientWorker(
    { name: NAME, prefix: keys.queue(NAME), stalledTimesMax: 1 },
    {
      redis,
      log,
      async run({ data, attemptsMade }) {
        if (data === 'hopeless') throw new UnrecoverableError('malformed')
        if (attemptsMade === 0) throw new Error('away')
      },
      onEnd: (outcome, job) => ends.push([outcome, job?.attempts, job?.reason].join(' ').trim()),
    },
  )
  await worker.start()
  onTestFinished(() => worker.close(1_000))
  await queue.add('job', 'hopeless')
  await until('the hopeless one to end', () => ends.length === 1)
  expect(ends).toEqual(['dead 1 malformed'])
  await queue.add('job', 'fine the second time')
  await until('the other to be done', () => ends.length === 3)
  expect(ends.slice(1)).toEqual(['failed 1 away', 'done'])
})

test('a job that fails again and again grows no longer in Redis', async () => {
  const redis = new Redis(inject('redisUrl'), { maxRetriesPerRequest: null })
  onTestFinished(() => redis.disconnect())
  const keys = createKeys(newPrefix())
  const queue = openJobQueue<string>(
    { redis, keys },
    { name: NAME, jobOptions: { ...PATIENT_JOB, attempts: 9 } },
  )
  let failures = 0
  const worker = createPatientWorker(
    { name: NAME, prefix: keys.queue(NAME), stalledTimesMax: 1 },
    {
      redis,
      log,
      async run() {
        throw new Error('away')
      },
      onEnd() {
        failures += 1
      },
    },
  )
  await worker.start()
  onTestFinished(() => worker.close(1_000))
  const { id = '' } = await queue.add('job', '')
  await until('it to have failed three times', () => failures === 3)
  expect((await queue.getJob(id))?.stacktrace).toHaveLength(1)
})
