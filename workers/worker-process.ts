/**
 * The life of a worker process: takes provisioning jobs from Redis and writes users into the database.
 *
 * It waits for Redis and for the database as long as it takes, at the start and later, and says so on
 * /readyz; only what no waiting can cure ends it: a faulty configuration, a port or data folder that is
 * taken, tables that cannot be migrated. SIGTERM lets the running jobs finish; a second signal does not.
 */
import { fork } from 'node:child_process'
import { setTimeout as delay } from 'node:timers/promises'
import closeWithGrace from 'close-with-grace'
import { within, WORKER_CLOSE_MS_MAX } from '../src/closing.ts'
import { ConfigError, loadWorkerConfig, readEnvironment } from '../src/config.ts'
import type { WorkerConfig } from '../src/config.ts'
import { createLoggedInCheck, createReceiptWriter, createUnionidReader, ERASE_QUEUE } from '../src/erasure.ts'
import { createLogOutput } from '../src/log-output.ts'
import { createLog } from '../src/log.ts'
import { createWorkerMetrics } from '../src/metrics/worker.ts'
import { createAcknowledge, PROVISION_QUEUE } from '../src/provisioning.ts'
import { connectFailFast, connectPatient, disconnect } from '../src/redis/connections.ts'
import { createKeys } from '../src/redis/keys.ts'
import type { RedisClient } from '../src/redis/connections.ts'
import { reportConnection } from '../src/redis/report.ts'
import { SESSION_EVENTS_QUEUE } from '../src/session-events.ts'
import { traceFields } from '../src/tracing/span.ts'
import { reportSpans, startTracing } from '../src/tracing/start.ts'
import { DataDirInUse } from './data-dir-lock.ts'
import { describeDatabaseError, isTransient } from './database-errors.ts'
import { waitForDatabase } from './database-wait.ts'
import { createEraseUser } from './erase-user.ts'
import { createEraseWorker, createJobRemoval } from './erase-worker.ts'
import { createBatchedUsers } from './batches.ts'
import { ProvisionModuleFault } from './provision-module.ts'
import { traceJobs, traceUsers } from './job-spans.ts'
import { createProvisionUser } from './provision-user.ts'
import {
  createJobCount,
  createOldestWaiting,
  createProvisionWorker,
  createWaitingCount,
} from './provision-worker.ts'
import type { ProvisionWorker } from './provision-worker.ts'
import { recordQuery } from './query-spans.ts'
import { createQuarantine } from './quarantine.ts'
import type { Quarantine } from './quarantine.ts'
import type { PatientWorker } from './patient-worker.ts'
import { createSessionEventsWorker } from './session-events-worker.ts'
import { listenForStatus } from './status-listener.ts'
import { openUserStore } from './user-store.ts'
import type { UserStore } from './user-store.ts'
import { createWebhookAdmin } from './webhooks/admin-routes.ts'
import type { WebhookAdmin } from './webhooks/admin-routes.ts'
import { createDeliveries } from './webhooks/deliveries.ts'
import { createWebhookDelivery } from './webhooks/delivery.ts'
import type { WebhookDelivery } from './webhooks/delivery.ts'
import { createOutbox } from './webhooks/outbox.ts'

/** For the running jobs. Below WORKER_CLOSE_MS_MAX, with what follows it. */
const JOBS_GRACE_MS = 20_000
/** Without Redis no job can end, however long one waits for it. */
const JOBS_GRACE_WITHOUT_REDIS_MS = 2_000
const DISCONNECT_MS = 1_000

const QUARANTINE_PROGRAM = new URL('quarantine-process.ts', import.meta.url)

const config = readConfig()
const log = createLog(config.logLevel, 'worker', createLogOutput(), config.tracing && traceFields)
/** Loaded here, while signals are still seen to by main.ts. */
const tracing = config.tracing && (await startTracing(config.tracing, 'wechat-login-worker'))
const stopping = new AbortController()

/** Sees to signals before it returns. Resolves when the worker is ready, or has been told to end before. */
export async function runWorker(): Promise<void> {
  try {
    await start(config)
  } catch (error) {
    // While stopping, what was being waited for is broken off, and closeWithGrace ends the process.
    if (stopping.signal.aborted) return
    if (error instanceof DataDirInUse || error instanceof ProvisionModuleFault) log.fatal(error.message)
    else log.fatal({ err: error }, 'the worker cannot start')
    process.exit(1)
  }
}

function readConfig(): WorkerConfig {
  try {
    return loadWorkerConfig(readEnvironment())
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    console.error(error.message)
    return process.exit(1)
  }
}

async function start(config: WorkerConfig) {
  const { redis: redisConfig, webhooks, token, host, port, concurrency } = config
  const metrics = createWorkerMetrics()
  if (tracing) reportSpans(tracing, { spans: metrics.spans, log })
  const keys = createKeys(redisConfig.keyPrefix)
  const prefix = keys.queue(PROVISION_QUEUE)
  const redis = connectPatient(redisConfig, { onAnswer: metrics.redisAnswered })
  metrics.redisUp(() => redis.status === 'ready')
  reportConnection(redis, log, () => stopping.signal.aborted)
  let worker: ProvisionWorker | undefined
  let eraseWorker: PatientWorker | undefined
  let sessionEventsWorker: PatientWorker | undefined
  let webhookDelivery: WebhookDelivery | undefined
  let webhookAdmin: WebhookAdmin | undefined
  let store: UserStore | undefined
  let quarantine: Quarantine | undefined
  let status: Awaited<ReturnType<typeof listenForStatus>> | undefined

  closeWithGrace(
    { delay: WORKER_CLOSE_MS_MAX, logger: { error: logUnexpected } },
    async ({ err, signal }) => {
      if (err) log.fatal({ err }, 'unexpected error: the worker stops')
      else log.info({ signal }, 'the worker stops')
      stopping.abort()
      const graceMs = redis.status === 'ready' ? JOBS_GRACE_MS : JOBS_GRACE_WITHOUT_REDIS_MS
      await Promise.all([
        worker?.close(graceMs),
        eraseWorker?.close(graceMs),
        sessionEventsWorker?.close(graceMs),
        webhookDelivery?.close(graceMs),
      ])
      quarantine?.close()
      await Promise.all([
        disconnect(redis, DISCONNECT_MS),
        store && closeInTime(store),
        tracing && within(DISCONNECT_MS, tracing.close()),
      ])
      status?.close()
      log.info('the worker has stopped')
    },
  )

  status = await listenForStatus(
    {
      metrics: metrics.exposition,
      whyNotReady: () => whyNotReady(redis, worker),
      webhookAdmin: () => webhookAdmin,
    },
    { host, port },
  )

  let hasDatabase: boolean | undefined
  metrics.databaseUp(() => hasDatabase && !worker?.isDatabaseAway())
  const opened = await openUserStore(config, { redis, keys, log, onQuery: tracing && recordQuery })
  store = opened
  const { database } = opened
  if (database) {
    hasDatabase = false
    await waitForDatabase(() => database.migrate(), {
      log,
      signal: stopping.signal,
      isFatal: (error) => !isTransient(error),
    })
  }
  hasDatabase = true

  // Neither a scrape nor the watch on the worker may wait for Redis.
  const failFast = connectFailFast(redisConfig) // the other connection reports what is wrong
  const countJobs = createJobCount(failFast, prefix)
  metrics.provisioningQueue({ counts: countJobs, oldestWaitingAtMs: createOldestWaiting(failFast, prefix) })
  const erasePrefix = keys.queue(ERASE_QUEUE)
  metrics.erasureQueue({
    counts: createJobCount(failFast, erasePrefix, ERASE_QUEUE),
    oldestWaitingAtMs: createOldestWaiting(failFast, erasePrefix, {
      name: ERASE_QUEUE,
      states: ['waiting', 'delayed', 'active'],
    }),
  })
  const acknowledge = createAcknowledge(redis, keys)
  const isLoggedIn = createLoggedInCheck(redis, keys)
  const traced = tracing && traceUsers(opened)
  const { users, provisionMany } = traced ?? opened
  const batched = createBatchedUsers(users, provisionMany, {
    onBatch(size, left) {
      metrics.batchJobs.observe(size)
      metrics.batchLeftovers.inc({ why: 'unusual' }, left)
    },
    onBatchFailed(size, error) {
      metrics.batchLeftovers.inc({ why: 'failed' }, size)
      log.warn(
        { jobs: size, ...describeDatabaseError(error) },
        'a batch failed: its jobs are done one by one',
      )
    },
  })
  const provisionUser = createProvisionUser({
    users: traced?.waiting(batched) ?? batched,
    acknowledge,
    isLoggedIn,
    unionidOf: createUnionidReader(redis, keys),
    identitiesOf: opened.users.identitiesOf,
    log,
  })
  quarantine = opened.kind !== 'pglite' ? createQuarantine(() => fork(QUARANTINE_PROGRAM), log) : undefined
  worker = createProvisionWorker(
    {
      provisionUser: tracing ? traceJobs(tracing, provisionUser) : provisionUser,
      quarantine: tracing && quarantine ? traceJobs(tracing, quarantine.run) : quarantine?.run,
      redis,
      checkStore: opened.check,
      metrics,
      log,
      countWaiting: createWaitingCount(failFast, prefix),
      onStuck() {
        log.fatal('jobs wait and none is done: the worker ends itself so that a new one is started')
        process.exit(1)
      },
    },
    { prefix, concurrency },
  )
  const removeJobs = createJobRemoval({ redis, isLoggedIn }, prefix)
  const eraseUser = createEraseUser({
    erasures: opened.erasures,
    async removeJobs(user) {
      await opened.beforeErasing(user)
      return removeJobs(user)
    },
    acknowledge,
    isLoggedIn,
    provisionUser,
    receipts: createReceiptWriter(redis, keys),
    log,
  })
  eraseWorker = createEraseWorker(eraseUser, { redis, metrics, log }, erasePrefix)
  if (database) {
    const deliveries = createDeliveries(database.db)
    webhookDelivery = createWebhookDelivery({ deliveries, metrics, log }, webhooks)
    webhookDelivery.start()
    const { endpoints } = webhooks
    if (token !== undefined) webhookAdmin = createWebhookAdmin({ deliveries, endpoints, token, log })
  }
  const eventsPrefix = keys.queue(SESSION_EVENTS_QUEUE)
  metrics.sessionEventQueue(createJobCount(failFast, eventsPrefix, SESSION_EVENTS_QUEUE))
  sessionEventsWorker = createSessionEventsWorker(
    { db: database?.db, outbox: createOutbox(webhooks.endpoints), redis, metrics, log },
    eventsPrefix,
  )
  await Promise.all([worker.start(), eraseWorker.start(), sessionEventsWorker.start()])
  log.info({ url: `http://${host}:${status.port}`, users: opened.kind, concurrency }, 'worker ready')
}

function whyNotReady(redis: RedisClient, worker: ProvisionWorker | undefined): string | undefined {
  if (stopping.signal.aborted) return 'stopping'
  if (redis.status !== 'ready') return 'waiting for Redis'
  if (!worker?.takesJobs()) return 'waiting for the database'
  return undefined
}

async function closeInTime(store: UserStore): Promise<void> {
  const closed = store.close().catch((error: unknown) => log.warn(describeDatabaseError(error), 'database'))
  await Promise.race([closed, delay(DISCONNECT_MS, undefined, { ref: false })])
}

function logUnexpected(error: unknown): void {
  log.error(error instanceof Error ? { err: error } : { reason: String(error) }, 'while stopping')
}
