/** What the rows about workers look at: the queue, how long users took to be written, and who starts workers again. */
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { until } from '../harness/until.ts'
import { quantile } from './ledger.ts'
import type { LedgerFilter } from './ledger.ts'
import type { Database } from './postgres.ts'
import { PROGRAM_ROOT } from './program.ts'
import type { Program } from './program.ts'
import type { Bench } from './row.ts'
import type { Stand, Worker } from './stand.ts'

/** Jobs of a state, as a gateway's metrics have it. */
export function jobsIn(stand: Stand, state: 'waiting' | 'active' | 'delayed' | 'failed'): Promise<number> {
  return stand.gateway().metric('provisioning_queue_jobs', { state })
}

async function jobsLeft(stand: Stand): Promise<number> {
  const states = ['waiting', 'active', 'delayed'] as const
  const counts = await Promise.all(states.map((state) => jobsIn(stand, state)))
  return counts.reduce((sum, count) => sum + count, 0)
}

/** Waits until no job waits or runs. Resolves with the milliseconds that took; Infinity when it took too long. */
export async function drained(stand: Stand, timeoutMs: number): Promise<number> {
  const startedMs = performance.now()
  try {
    await until('the queue to be empty', async () => (await jobsLeft(stand)) === 0, timeoutMs)
    return performance.now() - startedMs
  } catch {
    return Infinity
  }
}

/** Of all workers together. */
export async function sumOverWorkers(
  stand: Stand,
  name: string,
  labels: Record<string, string> = {},
): Promise<number> {
  const values = await Promise.all(stand.workers.map((worker) => worker.metric(name, labels)))
  return values.reduce((sum, value) => sum + value, 0)
}

/** How often a text was written by any worker, over all their starts. */
export function timesWritten(workers: readonly Program[], text: string): number {
  return workers.reduce((sum, worker) => sum + worker.output().split(text).length - 1, 0)
}

/**
 * How long after the answer to their login each user's row was begun to be written, in milliseconds; a row that was
 * begun before the answer counts as 0. Users without a row are left out: I4 counts those.
 */
export async function provisioningDelays(
  stand: Stand,
  filter: LedgerFilter = {},
  without: readonly string[] = [],
): Promise<number[]> {
  const rows = await stand.database?.query<{ openid: string; ms: number }>(
    `select openid, (extract(epoch from created_at) * 1000)::float8 as ms
       from identities join users on users.id = identities.user_id`,
  )
  const writtenMs = new Map(rows?.map(({ openid, ms }) => [openid, ms - performance.timeOrigin]))
  return stand.ledger.find({ kind: 'login', status: 200, ...filter }).flatMap(({ openid = '', atMs, ms }) => {
    const at = writtenMs.get(openid)
    return at === undefined || without.includes(openid) ? [] : [Math.max(0, at - atMs - ms)]
  })
}

/** Notes the slowest of them. */
export async function figureDelays(bench: Bench, stand: Stand, max?: number): Promise<void> {
  const delays = await provisioningDelays(stand)
  bench.figure('median time to the row', quantile(delays, 0.5), { unit: 'ms' })
  bench.figure('slowest row after', Math.max(...delays), {
    unit: 'ms',
    ...(max !== undefined && { max }),
  })
}

/** Every new identity takes so long to write, so that jobs can be met in the middle. */
export async function slowDown(database: Database, seconds: number): Promise<void> {
  await database.query(`create function take_time() returns trigger language plpgsql as
    $$ begin perform pg_sleep(${seconds}); return new; end $$`)
  await database.query(
    'create trigger take_time before insert on identities for each row execute function take_time()',
  )
}

/** Starts workers again that have ended, as systemd would, until the row ends. */
export function supervise(bench: Bench, workers: readonly Worker[]): () => Promise<void> {
  const stopping = new AbortController()
  const watching = workers.map(async (worker) => {
    while (!stopping.signal.aborted) {
      if (!worker.isRunning()) await worker.start().catch(() => {}) // it may end before it is ready
      await pause(100)
    }
  })
  const stop = async () => {
    stopping.abort()
    await Promise.all(watching)
  }
  bench.defer(stop)
  return stop
}

/** `npm run jobs`, on the stand's Redis. */
export function runJobs(
  stand: Stand,
  ...args: string[]
): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const program = join(PROGRAM_ROOT, 'workers/jobs/main.ts')
  return new Promise((resolve) => {
    const child = execFile(
      process.execPath,
      [program, ...args],
      { env: { PATH: process.env['PATH'] ?? '', ...stand.redis.env } },
      (_error, stdout, stderr) => resolve({ code: child.exitCode, stdout, stderr }),
    )
  })
}
