/** What is held about one user, for whoever asks by law: all of it, of nobody else, and no secret. */
import { Queue } from 'bullmq'
import { expect, inject, test, vi } from 'vitest'
import { JOB_OPTIONS, PROVISION_JOB, PROVISION_QUEUE } from '../src/provisioning.ts'
import { subjectOf } from '../src/subject.ts'
import { collectHeldData } from '../workers/users-command/held-data.ts'
import { runCommand } from './harness/command.ts'
import { APPID, workerEnvironment } from './harness/environment.ts'
import { startHarness } from './harness/gateway.ts'
import { startWorkerProcess } from './harness/processes.ts'
import { newDatabase } from './harness/provisioning.ts'
import { until } from './harness/until.ts'

vi.setConfig({ testTimeout: 60_000 })

const UNIONID = 'o6_bmasdasdsad6_2sgVt7hMZOPfL'

async function startSystem() {
  const harness = await startHarness()
  const env = workerEnvironment(harness.env, (await newDatabase()).env)
  return {
    ...harness,
    env,
    users: (...args: string[]) => runCommand('workers/users-command/main.ts', args, env),
  }
}

test('sessions, user, identities and jobs are told, and neither secrets nor other users', async () => {
  const { login, get, wechat, redis, keys, env, users } = await startSystem()
  const { code, openid } = wechat.issueCode({ unionid: UNIONID })
  const { body } = await login({ code })
  const other = wechat.issueCode()
  const stranger = await login({ code: other.code })
  const worker = await startWorkerProcess(env)
  const session = await until('the user to be provisioned', async () => {
    const reply = await get('/session', body.token)
    return reply.body.provisioned && reply.body
  })
  await until('the other too', async () => (await get('/session', stranger.body.token)).body.provisioned)
  await worker.end('SIGTERM')
  // Queues another job, because of the unionid that is new.
  const again = await login({ code: wechat.issueCode({ openid, unionid: `${UNIONID}-2` }).code })

  const { code: exit, stdout, stderr } = await users('export', APPID, openid)
  expect({ exit, stderr }).toEqual({ exit: 0, stderr: '' })
  const held = JSON.parse(stdout) as Record<string, unknown>
  expect(held).toMatchObject({
    appid: APPID,
    openid,
    sub: body.sub,
    redis: {
      login: { unionid: `${UNIONID}-2`, user_id: session.user_id, sessions: [{ device: 'other' }, {}] },
      block: null,
      jobs: [{ queue: 'provision', state: 'waiting', data: { openid } }],
    },
    database: {
      users: [{ id: session.user_id, unionid: UNIONID, merged_into: null }],
      identities: [{ appid: APPID, openid, unionid: UNIONID, user_id: session.user_id }],
      erasure: null,
      webhooks: [],
    },
  })
  for (const token of [body.token, again.body.token]) expect(stdout).not.toContain(token.slice(26))
  const fields = Object.entries(await redis.hgetallBuffer(keys.user(body.sub)))
  const checks = fields
    .filter(([name]) => name.includes(':'))
    .map(([name]) => name.slice(name.indexOf(':') + 1))
  const sealed = fields
    .filter(([name]) => ['k', 'p'].includes(name))
    .flatMap(([, value]) =>
      (['base64', 'base64url', 'hex', 'latin1'] as const).map((as) => value.toString(as)),
    )
  expect([checks.length, sealed.length]).toEqual([2, 8])
  for (const secret of [...checks, ...sealed]) expect(stdout).not.toContain(secret)
  expect(stdout).not.toContain(other.openid)
})

test('a job far back in a long queue is found, though those before it go while the queue is read', async () => {
  const { redis, keys } = await startHarness()
  const queue = new Queue<unknown>(PROVISION_QUEUE, {
    connection: redis,
    prefix: keys.queue(PROVISION_QUEUE),
  })
  const jobs = Array.from({ length: 1_200 }, (_, at) => {
    const openid = `o-${at}`
    const data = { v: 1, sub: subjectOf(APPID, openid), appid: APPID, openid, seenAtMs: 1 }
    return { name: PROVISION_JOB, data, opts: { ...JOB_OPTIONS, jobId: `job-${at}` } }
  })
  await queue.addBulk(jobs.toReversed()) // the latest is read first
  const read = redis.hgetall.bind(redis)
  let isFirst = true
  redis.hgetall = async (key: string) => {
    if (isFirst) {
      isFirst = false
      await Promise.all(jobs.slice(0, 300).map(({ opts }) => queue.remove(opts.jobId)))
    }
    return read(key)
  }
  const held = await collectHeldData({ redis, keys, db: undefined }, { appid: APPID, openid: 'o-520' })
  expect(isFirst).toBe(false)
  expect(held.redis.jobs).toMatchObject([{ state: 'waiting', data: { openid: 'o-520' } }])
  await queue.close()
})

test('of a user who was never here nothing is held', async () => {
  const { env, users } = await startSystem()
  const worker = await startWorkerProcess(env) // makes the tables
  await worker.end('SIGTERM')
  const { stdout } = await users('export', APPID, 'o-nobody')
  expect(JSON.parse(stdout)).toMatchObject({
    redis: { login: null, block: null, jobs: [], erasure_remembered: false },
    database: { users: [], identities: [], erasure: null },
  })
})

test.runIf(inject('postgresUrl'))('what cannot be done is said, and ends with another code', async () => {
  const { users, env } = await startSystem()
  expect(await users('export', APPID)).toMatchObject({ code: 2, stdout: '' })
  const away = await runCommand('workers/users-command/main.ts', ['export', APPID, 'o-x'], {
    ...env,
    DATABASE_URL: 'postgres://nobody@127.0.0.1:1/none',
  })
  expect(away).toMatchObject({ code: 1, stdout: '' })
  expect(away.stderr).toContain('ECONNREFUSED')
  expect(away.stderr).not.toContain('o-x')
})
