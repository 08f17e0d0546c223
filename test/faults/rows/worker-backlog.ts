/** W10: the workers are away and as many jobs wait as may. */
import { setTimeout as pause } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { createProvisioning } from '../../../src/provisioning.ts'
import { connectFailFast, waitUntilReady } from '../../../src/redis/connections.ts'
import { createKeys } from '../../../src/redis/keys.ts'
import { loadRedisConfig } from '../../../src/config.ts'
import { subjectOf } from '../../../src/subject.ts'
import { until } from '../../harness/until.ts'
import { newNonce } from '../client.ts'
import { checkInvariants } from '../invariants.ts'
import { quantile } from '../ledger.ts'
import { drained, jobsIn } from '../provisioning.ts'
import type { Bench, Row } from '../row.ts'
import { startStand } from '../stand.ts'
import type { Stand } from '../stand.ts'

const JOBS = 200_000
const LANES = 16
const JOB_BYTES_MAX = 1_024
const ADD_MS_MAX = 10
const LOGINS = 100
const PROGRESS_MS = 10_000

/** Queues so many jobs, with unionids, as a gateway does. Resolves with how long each took, in milliseconds. */
async function fill(bench: Bench, { redis, app: { appid } }: Stand, jobs: number): Promise<number[]> {
  const connection = connectFailFast({ ...loadRedisConfig(redis.env), commandTimeoutMs: 10_000 })
  await waitUntilReady(connection, 5_000)
  const queue = createProvisioning(connection, createKeys(''), () => {})
  const took: number[] = []
  let next = 0
  const lane = async () => {
    while (next < jobs) {
      const number = String(next++)
      const [openid, unionid] = [`o6_bm${number.padStart(23, '0')}`, `o6_un${number.padStart(24, '0')}`]
      const startedMs = performance.now()
      await queue.enqueue({ sub: subjectOf(appid, openid), appid, openid, unionid, seenAtMs: Date.now() })
      took.push(performance.now() - startedMs)
      if (next % (jobs / 4) === 0) bench.say(`  ${next} of ${jobs} queued`)
    }
  }
  await Promise.all(Array.from({ length: LANES }, lane))
  await queue.close()
  connection.disconnect()
  return took
}

async function usedMemory(redis: Redis): Promise<number> {
  return Number(/used_memory:(\d+)/.exec(await redis.info('memory'))?.[1])
}

async function runBacklog(bench: Bench): Promise<void> {
  const stand = await startStand(bench, {
    gateways: 1,
    workers: 1,
    env: { PROVISION_BACKLOG_MAX: String(JOBS) },
  })
  const redis = new Redis(stand.redis.env['REDIS_URL'] ?? '')
  bench.defer(() => redis.disconnect())
  const target = stand.gateway().url
  const logInNew = async (count: number) => {
    const codes = await stand.wechat.codes(count)
    return Promise.all(codes.map((issued) => stand.client.login({ target, ...issued, nonce: newNonce() })))
  }
  const [known] = await logInNew(1)
  await drained(stand, 10_000)
  await stand.worker().end('SIGTERM')

  const before = await usedMemory(redis)
  const took = await fill(bench, stand, JOBS - LOGINS)
  const bytes = ((await usedMemory(redis)) - before) / took.length
  bench.figure('Redis for a job', bytes, { unit: 'bytes', max: JOB_BYTES_MAX })
  bench.figure('add, p99', quantile(took, 0.99), { unit: 'ms', max: ADD_MS_MAX })
  const below = await logInNew(LOGINS)
  bench.figure(
    'first logins below the bound, answered 200',
    below.filter(({ status }) => status === 200).length,
    {
      is: LOGINS,
    },
  )
  await pause(2_500) // longer than two counts of the queue
  const { codes: codesBefore } = await stand.wechat.summary()
  const above = await logInNew(LOGINS)
  bench.figure(
    'first logins at the bound, answered provisioning_backlog_full',
    above.filter(({ errorCode }) => errorCode === 'provisioning_backlog_full').length,
    { is: LOGINS },
  )
  const { codes: codesAfter } = await stand.wechat.summary()
  bench.figure('codes of theirs that reached WeChat', codesAfter.exchanged - codesBefore.exchanged, { is: 0 })
  const asked = await stand.client.validate(target, known?.token ?? '')
  bench.figure('status of a validation meanwhile', asked.status, { is: 200 })

  const startedMs = performance.now()
  await stand.worker().start()
  await until('logins to be taken again', async () => (await logInNew(1))[0]?.status === 200, 120_000)
  bench.figure('first logins again after', (performance.now() - startedMs) / 1_000, { unit: 's' })
  for (let left = JOBS; left > 0; ) {
    await pause(PROGRESS_MS)
    left = (await jobsIn(stand, 'waiting')) + (await jobsIn(stand, 'active'))
    bench.say(`  ${left} jobs left`)
  }
  const drainedMs = performance.now() - startedMs
  bench.figure('drained, jobs a second', Math.round((1_000 * JOBS) / drainedMs), {})
  bench.figure('dead jobs', await jobsIn(stand, 'failed'), { is: 0 })
  await checkInvariants(bench, stand)
}

export const workerBacklogRows: readonly Row[] = [
  {
    id: 'W10',
    title: `no worker is there and ${JOBS} jobs wait, the most that may`,
    pass: 'a job ≤ 1 KB of Redis, add p99 ≤ 10 ms; first logins get 503 at the bound and not before, their codes unused',
    long: true,
    alone: true,
    run: runBacklog,
  },
]
