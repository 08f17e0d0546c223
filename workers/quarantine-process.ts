/**
 * The child process of quarantine.ts: runs the jobs that its worker sends it, one at a time. It reads the same
 * environment, has connections of its own, and ends with its worker.
 */
import { loadWorkerConfig, readEnvironment } from '../src/config.ts'
import { createLoggedInCheck, createUnionidReader } from '../src/erasure.ts'
import { createLog } from '../src/log.ts'
import { createAcknowledge } from '../src/provisioning.ts'
import { connectFailFast, waitUntilReady } from '../src/redis/connections.ts'
import { createKeys } from '../src/redis/keys.ts'
import { JobFailed } from './job-failure.ts'
import { createProvisionUser } from './provision-user.ts'
import type { IncomingJob } from './provision-user.ts'
import { ALIVE_INTERVAL_MS } from './quarantine.ts'
import type { QuarantineMessage } from './quarantine.ts'
import { openUserStore } from './user-store.ts'

const FIRST_CONTACT_MS = 5_000

process.once('disconnect', () => process.exit())
// Ctrl-C and a service manager signal the whole group; the worker lets this process finish its job.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => {})

const config = loadWorkerConfig(readEnvironment())
const log = createLog(config.logLevel, 'worker-quarantine')
const redis = connectFailFast(config.redis)
redis.on('error', () => {}) // the worker reports the same
const keys = createKeys(config.redis.keyPrefix)
const { users } = await openUserStore(config, { redis, keys, log })
const provisionUser = createProvisionUser({
  users,
  acknowledge: createAcknowledge(redis, keys),
  isLoggedIn: createLoggedInCheck(redis, keys),
  unionidOf: createUnionidReader(redis, keys),
  identitiesOf: users.identitiesOf,
  log,
})

process.on('message', (job: IncomingJob) => {
  run(job).then(tell, (error: unknown) => {
    log.error({ err: error }, 'unexpected error in quarantine')
    process.exit(1)
  })
})
setInterval(() => tell({ type: 'alive' }), ALIVE_INTERVAL_MS)
await waitUntilReady(redis, FIRST_CONTACT_MS).catch(() => {}) // a job says so if Redis is still away then
tell({ type: 'ready' })

async function run(job: IncomingJob): Promise<QuarantineMessage> {
  try {
    return { type: 'done', done: await provisionUser(job) }
  } catch (error) {
    if (error instanceof JobFailed) return { type: 'failed', kind: error.kind, message: error.message }
    log.error({ job: job.id, err: error }, 'error of the program')
    return { type: 'failed', kind: 'fault', message: error instanceof Error ? error.name : 'unknown error' }
  }
}

function tell(message: QuarantineMessage): void {
  // A worker that was killed is known to be gone only after the first word that does not reach it.
  if (process.connected) process.send?.(message, undefined, undefined, () => {})
}
