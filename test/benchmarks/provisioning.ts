/** What the benchmarks of the worker share: stores of their own, a queue to fill, and a worker in this process. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { startRedis } from '../../deploy/local/redis-server.ts'
import { loadRedisConfig } from '../../src/config.ts'
import { createLoggedInCheck, createUnionidReader } from '../../src/erasure.ts'
import { createLog } from '../../src/log.ts'
import { createWorkerMetrics } from '../../src/metrics/worker.ts'
import { createAcknowledge, createProvisioning, PROVISION_QUEUE } from '../../src/provisioning.ts'
import { connectFailFast, connectPatient, waitUntilReady } from '../../src/redis/connections.ts'
import { createKeys } from '../../src/redis/keys.ts'
import { subjectOf } from '../../src/subject.ts'
import { createBatchedUsers } from '../../workers/batches.ts'
import { openDatabase } from '../../workers/database.ts'
import type { Database } from '../../workers/database.ts'
import { createJobRemoval } from '../../workers/erase-worker.ts'
import { createProvisionMany } from '../../workers/provision-many.ts'
import { createProvisionUser } from '../../workers/provision-user.ts'
import { createProvisionWorker } from '../../workers/provision-worker.ts'
import { createUsers } from '../../workers/users.ts'
import { startPostgres } from '../harness/postgres-server.ts'
import { createPostgresDatabase } from '../postgres-database.ts'

/** As long as WeChat's. */
const APPID = 'wx0123456789abcdef'
const ADDED_AT_ONCE = 200
const POLL_MS = 100
const PROGRESS_MS = 2_000
const GRACE_MS = 5_000
const IGNORE = () => {}

/** Real ones, on loopback; their data goes with stop(). Postgres waits for the disk, as in production. */
export async function startStores(engine: 'postgres' | 'pglite') {
  const redis = await startRedis({ url: undefined, persistent: false, allowDocker: false })
  const postgres = engine === 'postgres' ? await startPostgres({ durable: true }) : undefined
  if (engine === 'postgres' && postgres === undefined) throw new Error('no Postgres is installed')
  const folder = mkdtempSync(join(tmpdir(), 'gateway-benchmark-'))
  let folders = 0
  return {
    redisUrl: redis.url,
    how: `${redis.how}; ${postgres?.how ?? 'PGlite'}`,
    /** An empty, migrated one. */
    async newDatabase(): Promise<Database> {
      folders += 1
      const database = postgres
        ? await (await createPostgresDatabase(postgres.url)).open()
        : await openDatabase({
            url: undefined,
            dataDir: join(folder, `${folders}`),
            onConnectionError: IGNORE,
          })
      await database.migrate()
      return database
    },
    async stop() {
      await Promise.all([redis.stop(), postgres?.stop()])
      rmSync(folder, { recursive: true, force: true })
    },
  }
}

/** A gateway's end of a queue of its own. */
export async function openQueue(redisUrl: string, keyPrefix: string) {
  const config = {
    ...loadRedisConfig({ REDIS_URL: redisUrl, KEY_PREFIX: keyPrefix }),
    commandTimeoutMs: 10_000,
  }
  const redis = connectFailFast(config)
  await waitUntilReady(redis, 5_000)
  const keys = createKeys(keyPrefix)
  const provisioning = createProvisioning(redis, keys, IGNORE)
  return {
    config,
    keys,
    redis,
    count: async () => {
      const { waiting = 0, active = 0, delayed = 0, failed = 0 } = await provisioning.counts()
      if (failed > 0) throw new Error(`${failed} jobs are dead`)
      return waiting + active + delayed
    },
    /** Queues one job for each user, as logins would. @returns how long each took, in milliseconds */
    async fill(
      users: number,
      seenAtMs: number,
      { atOnce = ADDED_AT_ONCE, unionids = false }: { atOnce?: number; unionids?: boolean } = {},
    ): Promise<number[]> {
      const took: number[] = []
      let next = 0
      const lane = async () => {
        while (next < users) {
          const number = next++
          const openid = benchmarkOpenid(number)
          const unionid = unionids && { unionid: `o6_un${String(number).padStart(24, '0')}` } // as long as WeChat's
          const startedMs = performance.now()
          await provisioning.enqueue({
            sub: subjectOf(APPID, openid),
            appid: APPID,
            openid,
            ...unionid,
            seenAtMs,
          })
          took.push(performance.now() - startedMs)
        }
      }
      await Promise.all(Array.from({ length: atOnce }, lane))
      return took
    },
    async close() {
      await provisioning.close()
      redis.disconnect()
    },
  }
}

export type BenchmarkQueue = Awaited<ReturnType<typeof openQueue>>

export interface WorkerSettings {
  readonly concurrency: number
  readonly batching: boolean
}

/** Runs a worker until the queue is empty. @returns jobs a second */
export async function drain(
  { config, keys, count }: BenchmarkQueue,
  database: Database,
  { concurrency, batching }: WorkerSettings,
): Promise<number> {
  const redis = connectPatient(config)
  await waitUntilReady(redis, 5_000)
  const log = createLog('warn', 'benchmark')
  const users = createUsers(database.db)
  const worker = createProvisionWorker(
    {
      provisionUser: createProvisionUser({
        users: batching
          ? createBatchedUsers(users, createProvisionMany(database.db), {
              onBatch: IGNORE,
              onBatchFailed: (_size, error) => log.warn({ err: error as Error }, 'a batch failed'),
            })
          : users,
        acknowledge: createAcknowledge(redis, keys),
        isLoggedIn: createLoggedInCheck(redis, keys),
        unionidOf: createUnionidReader(redis, keys),
        identitiesOf: users.identitiesOf,
        log,
      }),
      quarantine: undefined,
      redis,
      checkStore: () => database.check(),
      metrics: createWorkerMetrics(),
      log,
      countWaiting: async () => 0,
      onStuck: IGNORE,
    },
    { prefix: keys.queue(PROVISION_QUEUE), concurrency },
  )
  const before = await count()
  const startedMs = performance.now()
  await worker.start()
  let reportedMs = startedMs
  for (let left = before; left > 0; left = await count()) {
    await delay(POLL_MS)
    if (performance.now() - reportedMs < PROGRESS_MS) continue
    reportedMs = performance.now()
    console.log(`  ${before - left} of ${before} done, ${rate(before - left, startedMs)} a second`)
  }
  const jobsPerSecond = rate(before, startedMs)
  await worker.close(GRACE_MS)
  redis.disconnect()
  return jobsPerSecond
}

function benchmarkOpenid(number: number): string {
  return `o6_bm${String(number).padStart(23, '0')}`
}

/** Takes the job of the user with this number out of the queue, as an erasure does. @returns seconds */
export async function eraseFromQueue({ config, keys }: BenchmarkQueue, number: number): Promise<number> {
  const redis = connectPatient(config)
  await waitUntilReady(redis, 5_000)
  const removeJobs = createJobRemoval(
    { redis, isLoggedIn: createLoggedInCheck(redis, keys) },
    keys.queue(PROVISION_QUEUE),
  )
  const openid = benchmarkOpenid(number)
  const startedMs = performance.now()
  const { removed } = await removeJobs({ sub: subjectOf(APPID, openid), openid, erasedAtMs: Date.now() })
  const seconds = (performance.now() - startedMs) / 1_000
  redis.disconnect()
  if (removed !== 1) throw new Error(`${removed} jobs of one user were removed`)
  return seconds
}

function rate(jobs: number, sinceMs: number): number {
  return Math.round((jobs * 1_000) / (performance.now() - sinceMs))
}
