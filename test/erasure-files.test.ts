/**
 * After an erasure the user is in no file either: neither in Redis' nor, once Postgres' tables have been rewritten
 * (deploy/postgres/wipe-erased.sql), in Postgres'. A Redis and a Postgres of the test's own, whose folders are searched.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Client } from 'pg'
import { expect, onTestFinished, test, vi } from 'vitest'
import { startStandalone } from './faults/redis-servers.ts'
import { dumpDatabase, dumpRedis } from './harness/dumps.ts'
import { APPID, workerEnvironment } from './harness/environment.ts'
import { startHarness } from './harness/gateway.ts'
import { findPrograms, startPostgres } from './harness/postgres-server.ts'
import { startWorkerProcess } from './harness/processes.ts'
import { readSource } from './harness/sources.ts'
import { until } from './harness/until.ts'
import { startReceiver, webhookEnvironment } from './harness/webhooks.ts'

vi.setConfig({ testTimeout: 90_000 })

const OPENID = 'oErasedErasedErasedErased001'
const UNIONID = 'uErasedErasedErasedErased001'
const OTHERS = 40

/** Files below a folder that hold the text, by their path in it. */
function filesWith(text: string, folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map(({ parentPath, name }) => join(parentPath, name))
    .filter((path) => readFileSync(path).includes(text))
    .map((path) => path.slice(folder.length + 1))
}

/** Each is to be run by itself: VACUUM takes no part in a transaction. */
function statementsOf(path: string): string[] {
  const lines = readSource(path).split('\n')
  return lines.filter((line) => /^[A-Z]/.test(line))
}

async function startStores() {
  // A compressed text is not found by searching.
  const redis = await startStandalone({ config: ['rdbcompression no'] })
  onTestFinished(() => redis.close())
  const postgres = await startPostgres()
  if (postgres === undefined) throw new Error('no Postgres')
  onTestFinished(() => postgres.stop())
  const client = new Client({ connectionString: postgres.url })
  await client.connect()
  onTestFinished(() => client.end())
  const show = async (setting: string) => {
    const { rows } = await client.query<Record<string, string>>(`show ${setting}`)
    return Object.values(rows[0] ?? {})[0] ?? ''
  }
  await client.query('alter system set wal_recycle = off')
  await client.query('select pg_reload_conf()')
  const [, redisFolder = ''] = await redis.admin.config('GET', 'dir')
  return {
    redis: { url: redis.node.url, admin: redis.admin, folder: redisFolder },
    postgres: { url: postgres.url, client, folder: await show('data_directory') },
  }
}

test.runIf(findPrograms() !== undefined)(
  'nothing of an erased user is in any file but their hash',
  async () => {
    const { redis, postgres } = await startStores()
    const receiver = await startReceiver()
    const harness = await startHarness({ env: { REDIS_URL: redis.url, SESSION_EVENTS: 'true' } })
    const settings = {
      DATABASE_URL: postgres.url,
      ...webhookEnvironment([{ receiver, include_openid: true }]),
    }
    const worker = await startWorkerProcess(workerEnvironment(harness.env, settings))
    const logIn = async (user: object) =>
      (await harness.login({ code: harness.wechat.issueCode(user).code })).body
    const told = (count: number) =>
      until('all to be told of', () => receiver.ofType('user.created').length >= count, 20_000)

    for (let at = 0; at < OTHERS; at += 1) await logIn({})
    await told(OTHERS)
    // The last to come: what stands last in a page is what VACUUM leaves there.
    const { sub } = await logIn({ openid: OPENID, unionid: UNIONID })
    await told(OTHERS + 1)
    await postgres.client.query('analyze')
    await postgres.client.query('checkpoint')
    const places = () => ({
      redis: filesWith(OPENID, redis.folder),
      postgres: filesWith(OPENID, postgres.folder),
    })
    const before = places()
    expect(before.redis.length).toBeGreaterThan(0) // the search finds
    expect(before.postgres.some((path) => path.startsWith('base/'))).toBe(true)

    const headers = { authorization: `Bearer ${harness.env['ADMIN_TOKEN'] ?? ''}` }
    const { status } = await harness.admin.send('DELETE', `/users/${APPID}/${OPENID}`, { headers })
    expect(status).toBe(202)
    await until('it to be told', () => receiver.ofType('user.erased').length === 1, 30_000)
    await worker.end('SIGTERM')

    const location = { url: postgres.url, dataDir: '' }
    const everything = (await dumpRedis(redis.admin)) + (await dumpDatabase(location))
    for (const trace of [OPENID, UNIONID]) expect(everything).not.toContain(trace)
    expect(await dumpDatabase(location)).toContain(sub) // the tombstone

    await redis.admin.bgrewriteaof()
    await until('the file to be rewritten', async () =>
      (await redis.admin.info('persistence')).includes(
        'aof_rewrite_in_progress:0\r\naof_rewrite_scheduled:0',
      ),
    )
    await redis.admin.save()
    for (const statement of statementsOf('deploy/postgres/wipe-erased.sql'))
      await postgres.client.query(statement)
    expect(places()).toEqual({ redis: [], postgres: [] })
    for (const folder of [redis.folder, postgres.folder]) expect(filesWith(UNIONID, folder)).toEqual([])
    expect(filesWith(sub, postgres.folder).length).toBeGreaterThan(0)
  },
)
