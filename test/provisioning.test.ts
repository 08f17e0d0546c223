/**
 * Users who log in are provisioned exactly once, whatever happens to the worker. Real worker processes, the
 * real queue, and Postgres where one can be had, else the embedded database.
 */
import { setTimeout as pause } from 'node:timers/promises'
import { sql } from 'kysely'
import { expect, onTestFinished, test } from 'vitest'
import { loadGatewayConfig } from '../src/config.ts'
import { createGateway } from '../src/gateway.ts'
import { createLog } from '../src/log.ts'
import { openDatabase } from '../workers/database.ts'
import { createClient } from './harness/client.ts'
import { gatewayEnvironment, workerEnvironment } from './harness/environment.ts'
import { startHarness } from './harness/gateway.ts'
import type { Harness } from './harness/gateway.ts'
import { startWorkerProcess } from './harness/processes.ts'
import { newDatabase, queuedJobs, queueOf, workerMetric } from './harness/provisioning.ts'
import { until } from './harness/until.ts'

/** Lock 10 s and check every 5 s: what a job of a killed worker waits at most, and a margin for the machine. */
const REDONE_WITHIN_MS = 20_000

async function readUsers(location: { url: string | undefined; dataDir: string }) {
  const database = await openDatabase({ ...location, onConnectionError: () => {} })
  try {
    const { rows } = await sql<{ identities: number; users: number; openids: number }>`
      select count(*)::int as identities, count(distinct user_id)::int as users, count(distinct openid)::int as openids
      from identities`.execute(database.db)
    return rows[0]
  } finally {
    await database.close()
  }
}

/** Logs many users in, some at a time; every login must succeed. */
async function logInAll(harness: Harness, count: number, concurrency: number): Promise<string[]> {
  const codes = harness.wechat.issueCodes(count)
  const tokens: string[] = []
  const lane = async () => {
    for (let next = codes.pop(); next !== undefined; next = codes.pop()) {
      const reply = await harness.login({ code: next.code })
      expect(reply.status).toBe(200)
      tokens.push(reply.body.token)
    }
  }
  await Promise.all(Array.from({ length: concurrency }, lane))
  return tokens
}

test('a login is provisioned, and the session then says so', async () => {
  const harness = await startHarness()
  const { env, location } = await newDatabase()
  const worker = await startWorkerProcess(workerEnvironment(harness.env, env))
  const { code, openid } = harness.wechat.issueCode({ unionid: 'o6_bmasdasdsad6_2sgVt7hMZOPfL' })

  const { body } = await harness.login({ code })
  expect(body.provisioned).toBe(false)
  const session = await until('the session to be provisioned', async () => {
    const reply = await harness.get('/session', body.token)
    return reply.body.provisioned && reply.body
  })

  expect(session.user_id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-/)
  const again = await harness.login({ code: harness.wechat.issueCode({ openid }).code })
  expect(again.body).toMatchObject({ provisioned: true, sub: body.sub, unionid: body.unionid })
  expect(await harness.metric('provisioning_enqueued_total', { outcome: 'added' })).toBe(1)
  expect(await workerMetric(worker, 'provisioned_users_total', { outcome: 'created' })).toBe(1)

  await worker.end('SIGTERM')
  expect(await readUsers(location)).toEqual({ identities: 1, users: 1, openids: 1 })
})

test('100 first logins of one user at once make one user', async () => {
  const harness = await startHarness({ env: { SESSIONS_PER_USER: '50' } })
  const { env, location } = await newDatabase()
  const worker = await startWorkerProcess(workerEnvironment(harness.env, env))
  const codes = harness.wechat.issueCodes(100, { openid: 'o-logs-in-everywhere' })

  const replies = await Promise.all(codes.map(({ code }) => harness.login({ code })))
  expect(replies.every((reply) => reply.status === 200)).toBe(true)
  await until('the queue to be empty', async () => (await queuedJobs(harness)) === 0)
  await worker.end('SIGTERM')

  expect(await readUsers(location)).toEqual({ identities: 1, users: 1, openids: 1 })
})

test('2,000 users log in while the worker is killed and restarted twice: 2,000 users, none twice', async () => {
  const harness = await startHarness()
  const { env, location } = await newDatabase()
  const settings = workerEnvironment(harness.env, env)
  let worker = await startWorkerProcess(settings)

  const logins = logInAll(harness, 2_000, 32)
  for (const done of [400, 1_000]) {
    await until(
      `${done} logins`,
      async () => (await harness.metric('login_total', { outcome: 'ok' })) >= done,
      60_000,
    )
    await worker.end('SIGKILL')
    worker = await startWorkerProcess(settings)
  }
  await logins
  const loggedInMs = performance.now()
  await until('all jobs to be done', async () => (await queuedJobs(harness)) === 0, 60_000)
  const drainedMs = performance.now() - loggedInMs

  const { failed } = await queueOf(harness).counts()
  await worker.end('SIGTERM')
  expect(failed).toBe(0)
  expect(await readUsers(location)).toEqual({ identities: 2_000, users: 2_000, openids: 2_000 })
  console.log(
    `jobs of killed workers and the rest were done ${Math.round(drainedMs)} ms after the last login`,
  )
  expect(drainedMs).toBeLessThan(REDONE_WITHIN_MS)
}, 120_000)

test('jobs that a killed worker was at are redone within 20 s', async () => {
  const harness = await startHarness()
  const { env, location } = await newDatabase()
  const settings = workerEnvironment(harness.env, env)
  await logInAll(harness, 300, 16)
  const first = await startWorkerProcess(settings)
  await until('the worker to be in the middle of it', async () => {
    const counts = await queueOf(harness).counts()
    return (counts['active'] ?? 0) > 0 && (counts['waiting'] ?? 0) < 300
  })
  await first.end('SIGKILL')
  const killedMs = performance.now()

  const second = await startWorkerProcess(settings)
  await until('all jobs to be done', async () => (await queuedJobs(harness)) === 0, 60_000)
  expect(performance.now() - killedMs).toBeLessThan(REDONE_WITHIN_MS)
  await second.end('SIGTERM')
  expect(await readUsers(location)).toEqual({ identities: 300, users: 300, openids: 300 })
}, 90_000)

test('with the worker away for a minute logins go on, and the queue drains when it is back', async () => {
  const harness = await startHarness()
  const { env, location } = await newDatabase()
  const settings = workerEnvironment(harness.env, env)
  const early = await startWorkerProcess(settings)
  await early.end('SIGTERM')

  // The minute itself is what is tested: somebody logs in at every second of it.
  const tokens: string[] = []
  const endsAtMs = performance.now() + 60_000
  while (performance.now() < endsAtMs) {
    tokens.push(...(await logInAll(harness, 10, 10)))
    await pause(1_000)
  }
  const waiting = await harness.get('/session', tokens[0])
  expect(waiting.body.provisioned).toBe(false)
  expect(await queuedJobs(harness)).toBe(tokens.length)

  const worker = await startWorkerProcess(settings)
  await until('the queue to drain', async () => (await queuedJobs(harness)) === 0, 30_000)
  for (const token of [tokens[0], tokens.at(-1)]) {
    expect((await harness.get('/session', token)).body.provisioned).toBe(true)
  }
  // The validation above met a user who was queued a minute ago, whose job was still there: nothing to heal.
  expect(await harness.metric('provisioning_selfheal_total')).toBe(0)
  await worker.end('SIGTERM')
  expect(await readUsers(location)).toMatchObject({ identities: tokens.length, users: tokens.length })
}, 150_000)

test('a user whose job was lost is queued again by the next validation', async () => {
  const harness = await startHarness()
  const { body } = await harness.login({ code: harness.wechat.issueCode().code })
  const lost = await harness.redis.keys(`${harness.keys.queue('provision')}*`)
  await harness.redis.del(lost)
  // As if it had been queued two minutes ago.
  const { redis, keys } = harness
  const [seconds] = await redis.time()
  await redis.hset(keys.user(body.sub), 'g', `e${(Number(seconds) - 120).toString(16)}`)

  expect((await harness.get('/session', body.token)).status).toBe(200)
  await until('the job to be there again', async () => (await queuedJobs(harness)) === 1)
  expect(await harness.metric('provisioning_selfheal_total')).toBe(1)
})

test('a gateway that has never reached Redis shows its metrics at once, without the queue', async () => {
  const env = gatewayEnvironment(
    { url: 'http://127.0.0.1:1' },
    { REDIS_URL: 'redis://127.0.0.1:1', LOG_LEVEL: 'silent' },
  )
  const config = loadGatewayConfig(env)
  const gateway = createGateway(config, createLog(config.logLevel, 'gateway'))
  const admin = createClient(await gateway.admin.listen({ host: config.adminHost, port: 0 }))
  onTestFinished(async () => {
    await admin.close()
    await gateway.close()
  })

  const { status, text } = await admin.get('/metrics')
  expect(status).toBe(200)
  expect(text).toMatch(/^redis_up 0$/m)
  expect(text).not.toContain('provisioning_queue_jobs{')
})

test('a malformed job is a dead job at once: kept, counted, and not in the way', async () => {
  const harness = await startHarness()
  const { env } = await newDatabase()
  const worker = await startWorkerProcess(workerEnvironment(harness.env, env))
  await queueOf(harness).enqueue({ sub: 'nobody', appid: 'wx', openid: '', seenAtMs: 0 })
  const { body } = await harness.login({ code: harness.wechat.issueCode().code })

  await until(
    'the other user to be provisioned',
    async () => (await harness.get('/session', body.token)).body.provisioned,
  )
  const dead = await until('the dead job', async () => (await queueOf(harness).counts())['failed'])
  expect(dead).toBe(1)
  expect(await workerMetric(worker, 'provisioning_queue_jobs', { state: 'failed' })).toBe(1)
  expect(await workerMetric(worker, 'provisioning_jobs_total', { outcome: 'dead' })).toBe(1)
})
