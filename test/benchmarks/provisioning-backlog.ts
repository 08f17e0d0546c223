/**
 * What does a backlog cost while the workers are away, and how fast is it gone? Queues jobs as a gateway does, and says
 * how much Redis each takes, how long adding one takes and taking out that of a user who is erased, and how many a
 * second one worker does then.
 * `npm run benchmark:provisioning-backlog -- [--jobs N] [--at-once N] [--bare] [--skip-drain]`
 *
 * Each user has a unionid, which makes a job larger; with --bare none has.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { drain, eraseFromQueue, openQueue, startStores } from './provisioning.ts'

const { values } = parseArgs({
  options: {
    jobs: { type: 'string', default: '200000' },
    'at-once': { type: 'string', default: '16' },
    concurrency: { type: 'string', default: '128' },
    bare: { type: 'boolean', default: false },
    'skip-drain': { type: 'boolean', default: false },
  },
})
const jobs = Number(values.jobs)
const JOB_BYTES_MAX = 1_024
const ADD_P99_MS_MAX = 10
/** Within which a user is forgotten, all told. */
const ERASED_SECONDS_MAX = 60

const stores = await startStores('postgres')
console.log(stores.how)
const queue = await openQueue(stores.redisUrl, '')
const memoryBefore = await usedMemory()
const startedMs = performance.now()
const took = (
  await queue.fill(jobs, Date.now(), { atOnce: Number(values['at-once']), unionids: !values.bare })
).toSorted((a, b) => a - b)
const seconds = (performance.now() - startedMs) / 1_000
await delay(100) // for what Redis frees of its buffers
const bytesPerJob = ((await usedMemory()) - memoryBefore) / jobs
const p99Ms = took[Math.floor(took.length * 0.99)] ?? 0
console.log(
  `${jobs} jobs with${values.bare ? 'out' : ''} a unionid in ${seconds.toFixed(1)} s, ${values['at-once']} at once: ${Math.round(bytesPerJob)} bytes of Redis a job ` +
    `(at most ${JOB_BYTES_MAX}), add p50 ${took[Math.floor(took.length / 2)]?.toFixed(2)} ms, ` +
    `p99 ${p99Ms.toFixed(2)} ms (at most ${ADD_P99_MS_MAX}), longest ${took.at(-1)?.toFixed(1)} ms`,
)
const erasedSeconds = await eraseFromQueue(queue, Math.floor(jobs / 2))
console.log(
  `a user's job found among them and taken out in ${erasedSeconds.toFixed(1)} s (at most ${ERASED_SECONDS_MAX})`,
)
if (!values['skip-drain']) {
  const database = await stores.newDatabase()
  const rate = await drain(queue, database, { batching: true, concurrency: Number(values.concurrency) })
  console.log(`drained: ${rate} jobs a second`)
  await database.close()
}
await queue.close()
await stores.stop()
const isGood = bytesPerJob <= JOB_BYTES_MAX && p99Ms <= ADD_P99_MS_MAX && erasedSeconds <= ERASED_SECONDS_MAX
process.exitCode = isGood ? 0 : 1

async function usedMemory(): Promise<number> {
  const [, bytes] = /used_memory:(\d+)/.exec(await queue.redis.info('memory')) ?? []
  return Number(bytes)
}
