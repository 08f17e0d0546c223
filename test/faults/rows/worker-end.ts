/** W6: workers that are told to end in the middle of jobs, with everything well and with everything else away. */
import { until } from '../../harness/until.ts'
import { newNonce } from '../client.ts'
import { checkInvariants } from '../invariants.ts'
import { startPostgresServer } from '../postgres-server.ts'
import { drained, jobsIn, slowDown, timesWritten } from '../provisioning.ts'
import { startStandalone } from '../redis-servers.ts'
import type { Bench, Row } from '../row.ts'
import { startWebhooks } from '../webhooks.ts'
import { startStand } from '../stand.ts'

const WORKERS = 2
/** More than a worker has connections: some are in the middle of a transaction, some wait to begin one. */
const JOBS_EACH = 25
const ACTIVE = WORKERS * JOBS_EACH
const LOGINS = 4 * ACTIVE
const JOB_SECONDS = 1
const EXIT_MS_MAX = 25_000

type Trouble = 'none' | 'redis_down' | 'redis_hung' | 'postgres_hung'

async function runEnd(bench: Bench, trouble: Trouble): Promise<void> {
  const redis = await startStandalone()
  bench.defer(() => redis.close())
  const postgres = await startPostgresServer(bench)
  const stand = await startStand(bench, {
    gateways: 1,
    workers: WORKERS,
    redis,
    database: postgres.database,
    webhooks: await startWebhooks(bench),
    workerEnv: { WORKER_CONCURRENCY: String(JOBS_EACH) },
  })
  await slowDown(postgres.database, JOB_SECONDS)
  const codes = await stand.wechat.codes(LOGINS)
  await Promise.all(
    codes.map((issued) => stand.client.login({ target: stand.gateway().url, ...issued, nonce: newNonce() })),
  )
  await until(`${ACTIVE} jobs to be active`, async () => (await jobsIn(stand, 'active')) >= ACTIVE)

  if (trouble === 'redis_down') await redis.node.kill()
  if (trouble === 'redis_hung') redis.node.stop()
  if (trouble === 'postgres_hung') postgres.stop()
  const ends = await Promise.all(
    stand.workers.map(async (worker) => {
      const toldMs = performance.now()
      const code = await worker.end('SIGTERM')
      return { code, ms: performance.now() - toldMs }
    }),
  )
  bench.figure('slowest exit', Math.max(...ends.map(({ ms }) => ms)), { unit: 'ms', max: EXIT_MS_MAX })
  bench.figure('exits with 0', ends.filter(({ code }) => code === 0).length, { is: WORKERS })
  if (trouble === 'redis_down') await redis.node.start()
  if (trouble === 'redis_hung') redis.node.resume()
  if (trouble === 'postgres_hung') postgres.resume()

  await until('the gateways to see the queue', async () =>
    (await stand.gateway().metrics()).includes('state="active"'),
  )
  const withRedis = trouble === 'none' || trouble === 'postgres_hung'
  // Without Redis nothing can be given back; those jobs are taken over when their locks have expired.
  bench.figure('jobs left active', await jobsIn(stand, 'active'), withRedis ? { is: 0 } : { max: ACTIVE })
  await Promise.all(stand.workers.map((worker) => worker.start()))
  bench.figure('drained', await drained(stand, 60_000), { unit: 'ms', max: 60_000 })
  const stalled = timesWritten(stand.workers, '"job taken over from a worker that went silent"')
  bench.figure('stalled jobs', stalled, withRedis ? { is: 0 } : { max: ACTIVE })
  bench.figure('dead jobs', await jobsIn(stand, 'failed'), { is: 0 })
  await checkInvariants(bench, stand)
}

const row = (id: string, title: string, pass: string, trouble: Trouble): Row => ({
  id,
  title: `SIGTERM to workers with ${ACTIVE} active jobs${title}`,
  pass: `all end within 25 s; ${pass}`,
  run: (bench) => runEnd(bench, trouble),
})

export const workerEndRows: readonly Row[] = [
  row('W6', '', 'every job finished or given back, none stalled', 'none'),
  row('W6-down', ', Redis gone', 'every job done when it is back', 'redis_down'),
  row('W6-hung', ', Redis silent', 'every job done when it answers', 'redis_hung'),
  row(
    'W6-pg',
    ', Postgres silent',
    'every job given back, none stalled, done when it answers',
    'postgres_hung',
  ),
]
