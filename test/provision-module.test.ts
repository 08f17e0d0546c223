/** Users in a table of the operator's: PROVISION_MODULE has the guarantees of our own store. Real worker processes. */
import { readFileSync, renameSync } from 'node:fs'
import { Queue } from 'bullmq'
import { Client } from 'pg'
import { describe, expect, inject, onTestFinished, test, vi } from 'vitest'
import { PROVISION_QUEUE } from '../src/provisioning.ts'
import { SESSION_EVENTS_QUEUE } from '../src/session-events.ts'
import { runCommand } from './harness/command.ts'
import { faultsOf, writeTemporary } from './harness/configuration.ts'
import { APPID, workerEnvironment } from './harness/environment.ts'
import { startHarness } from './harness/gateway.ts'
import type { Harness } from './harness/gateway.ts'
import { startWorkerProcess } from './harness/processes.ts'
import { queuedJobs, queueOf, workerMetric } from './harness/provisioning.ts'
import { until } from './harness/until.ts'
import { loadWorkerConfig } from '../src/config.ts'
import { loadProvisionModule } from '../workers/provision-module.ts'
import { createPostgresDatabase } from './postgres-database.ts'

vi.setConfig({ testTimeout: 60_000 })

const postgresUrl = inject('postgresUrl')
const EXAMPLE = new URL('../deploy/examples/provision-module.mjs', import.meta.url).pathname

/** A module with this text; it goes away with the test. */
function writeModule(text: string): string {
  const path = writeTemporary(text)
  renameSync(path, `${path}.mjs`)
  return `${path}.mjs`
}

function startWorker(harness: Harness, module: string, own: Record<string, string> = {}) {
  return startWorkerProcess(workerEnvironment(harness.env, { PROVISION_MODULE: module, ...own }))
}

function openQueue(harness: Harness): Queue {
  const queue = new Queue(PROVISION_QUEUE, {
    connection: harness.redis,
    prefix: harness.keys.queue(PROVISION_QUEUE),
    skipMetasUpdate: true,
  })
  onTestFinished(() => queue.close())
  return queue
}

async function startSystem() {
  const harness = await startHarness({ env: { SESSIONS_PER_USER: '50' } })
  const { url, query, drop } = await createPostgresDatabase(postgresUrl)
  await query(readFileSync(EXAMPLE.replace(/mjs$/, 'sql'), 'utf8'))
  const members = new Client({ connectionString: url })
  await members.connect()
  const worker = await startWorker(harness, EXAMPLE, { MEMBERS_DATABASE_URL: url })
  onTestFinished(async () => {
    await worker.end('SIGKILL')
    await members.end()
    await drop()
  })
  const admin = (method: string, path: string) =>
    harness.admin.send(method, path, { headers: { authorization: `Bearer ${harness.env['ADMIN_TOKEN']}` } })
  return {
    harness,
    worker,
    admin,
    provisioned: (token: string) =>
      until('the user to be provisioned', async () => {
        const { body } = await harness.get('/session', token)
        return body.provisioned && body
      }),
    rows: async () => (await members.query('select id, openid, unionid from members')).rows as object[],
  }
}

describe.runIf(postgresUrl)('the example', () => {
  test('makes one row of a hundred first logins, and its id is the user_id of the session', async () => {
    const { harness, provisioned, rows } = await startSystem()
    const codes = harness.wechat.issueCodes(100, { openid: 'o-member', unionid: 'u-member' })
    const replies = await Promise.all(codes.map(({ code }) => harness.login({ code })))
    const session = await provisioned(replies[99]?.body.token ?? '')
    await until('the queue to be empty', async () => (await queuedJobs(harness)) === 0)

    expect(await rows()).toEqual([{ id: session.user_id, openid: 'o-member', unionid: 'u-member' }])
  })

  test('is reached by an erasure, and no job of before brings the user back; a new login does', async () => {
    const { harness, admin, provisioned, rows } = await startSystem()
    const { code, openid } = harness.wechat.issueCode()
    const { body } = await harness.login({ code })
    const { user_id: before } = await provisioned(body.token)

    const { text } = await admin('DELETE', `/users/${APPID}/${openid}`)
    const { receipt } = JSON.parse(text) as { receipt: string }
    const done = await until('the erasure', async () => {
      const { body } = await admin('GET', `/erasures/${receipt}`)
      return body['state'] === 'done' && body
    })
    expect(done).toMatchObject({ erased: { users: 1 } })
    expect(await rows()).toEqual([])

    await queueOf(harness).enqueue({ sub: body.sub, appid: APPID, openid, seenAtMs: Date.now() - 60_000 })
    await until('the late job to be done', async () => (await queuedJobs(harness)) === 0)
    expect(await rows()).toEqual([])

    const again = await harness.login({ code: harness.wechat.issueCode({ openid }).code })
    const { user_id: after } = await provisioned(again.body.token)
    expect(after).not.toBe(before)
    expect(await rows()).toHaveLength(1)
  })

  test('loses no job while its database is away', async () => {
    const { harness, worker, rows } = await startSystem()
    await worker.end('SIGTERM')
    const away = await startWorker(harness, EXAMPLE, {
      MEMBERS_DATABASE_URL: 'postgres://nobody@127.0.0.1:1/none',
    })
    const { body } = await harness.login({ code: harness.wechat.issueCode().code })
    await until(
      'the job to be put off twice',
      async () => (await workerMetric(away, 'provisioning_jobs_total', { outcome: 'postponed' })) >= 2,
      20_000,
    )
    expect((await openQueue(harness).getDelayed()).map(({ attemptsMade }) => attemptsMade)).toEqual([0])
    expect(await rows()).toEqual([])
    expect((await harness.get('/session', body.token)).status).toBe(200)
  })
})

test('what fails is tried again, and what it throws is told to nobody', async () => {
  const harness = await startHarness()
  const module = writeModule(`
    let calls = 0
    export async function provisionUser({ openid, sub, appid, unionid, seenAtMs }, { signal }) {
      calls += 1
      if (calls === 1) throw new Error('no room for ' + openid)
      if (calls === 2) return { nonsense: openid }
      if (calls === 3) throw Object.assign(new Error('away: ' + openid), { transient: true })
      if (!(signal instanceof AbortSignal)) throw new Error('no signal')
      return [appid, typeof sub, typeof seenAtMs, unionid].join('-')
    }`)
  const worker = await startWorker(harness, module)
  const queue = openQueue(harness)
  const { code, openid } = harness.wechat.issueCode({ unionid: 'u-1' })
  const { body } = await harness.login({ code })

  const reasons = new Set<string>()
  const session = await until(
    'the user to be provisioned',
    async () => {
      for (const job of await queue.getDelayed()) {
        if (job.failedReason) reasons.add(job.failedReason)
        await job.promote().catch(() => {})
      }
      const { body: session } = await harness.get('/session', body.token)
      return session.provisioned && session
    },
    20_000,
  )
  expect(session.user_id).toBe(`${APPID}-string-number-u-1`)
  expect([...reasons].toSorted()).toEqual(['module: Error', 'the module returned no user id'])
  expect(await workerMetric(worker, 'provisioning_jobs_total', { outcome: 'postponed' })).toBe(1)
  expect(worker.output()).toContain('PROVISION_MODULE exports no eraseUser')
  expect(worker.output()).toContain('"at":["at ')
  expect(worker.output()).not.toContain(openid)
})

test('log-outs that no webhook can tell of do not fill their queue, which is said once', async () => {
  const harness = await startHarness({ env: { SESSION_EVENTS: 'true' } })
  const module = writeModule("export const provisionUser = () => 'u'")
  for (let times = 0; times < 3; times += 1) {
    const { body } = await harness.login({ code: harness.wechat.issueCode().code })
    expect((await harness.delete('/session', body.token)).status).toBe(204)
  }
  const events = new Queue(SESSION_EVENTS_QUEUE, {
    connection: harness.redis,
    prefix: harness.keys.queue(SESSION_EVENTS_QUEUE),
    skipMetasUpdate: true,
  })
  onTestFinished(() => events.close())
  await until('them to be queued', async () => (await events.getWaitingCount()) === 3)
  const worker = await startWorker(harness, module)
  await until('them to be taken', async () => (await events.count()) === 0)
  const times = () => worker.output().split('with PROVISION_MODULE there are no webhooks').length - 1
  await until('it to be said', () => times() > 0)
  await worker.end('SIGTERM')
  expect(times()).toBe(1)
})

const unfit: [what: string, text: string | undefined, message: RegExp][] = [
  ['is not there', undefined, /^PROVISION_MODULE \/nowhere\.mjs cannot be loaded: Error: Cannot find module/],
  ['is no JavaScript', 'export function (', /cannot be loaded: \w*Error: /],
  ['throws', "throw new TypeError('not configured')", /cannot be loaded: TypeError: not configured/],
  ['exports nothing', '', /exports no function provisionUser$/],
  ['exports a word', "export const provisionUser = 'x'", /exports no function provisionUser$/],
  [
    'erases by a word',
    "export const provisionUser = () => 'x', eraseUser = 1",
    /exports an eraseUser that is no/,
  ],
]

test.each(unfit)('a module that %s is named at the start', async (_what, text, message) => {
  const path = text === undefined ? '/nowhere.mjs' : writeModule(text)
  await expect(loadProvisionModule(path)).rejects.toThrow(message)
})

test('a worker with an unfit module ends with the reason, and needs no database', async () => {
  const harness = await startHarness()
  const { code, stdout } = await runCommand(
    'workers/main.ts',
    [],
    workerEnvironment(harness.env, { PROVISION_MODULE: '/nowhere.mjs', NODE_ENV: 'production' }),
  )
  expect(code).toBe(1)
  expect(stdout).toContain('PROVISION_MODULE /nowhere.mjs cannot be loaded')
  expect(faultsOf({ NODE_ENV: 'production' }, loadWorkerConfig)).toHaveLength(1)
})
