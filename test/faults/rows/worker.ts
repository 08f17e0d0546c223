/** W1, W2, W9: workers that are killed or stand still, and jobs that get lost. */
import { setTimeout as pause } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { until } from '../../harness/until.ts'
import { newNonce } from '../client.ts'
import { checkInvariants } from '../invariants.ts'
import { quantile } from '../ledger.ts'
import { startPostgresServer } from '../postgres-server.ts'
import { drained, figureDelays, jobsIn, slowDown, sumOverWorkers, timesWritten } from '../provisioning.ts'
import type { Bench, Row } from '../row.ts'
import { startStand } from '../stand.ts'
import type { Stand } from '../stand.ts'
import { startWebhooks } from '../webhooks.ts'
import { workerBacklogRows } from './worker-backlog.ts'
import { workerDatabaseRows } from './worker-database.ts'
import { workerEndRows } from './worker-end.ts'
import { workerErasureRows } from './worker-erasure.ts'
import { workerLinkedRows } from './worker-linked.ts'
import { workerPoisonRows } from './worker-poison.ts'
import { workerPushRows } from './worker-push.ts'
import { workerWebhookRows } from './worker-webhooks.ts'

const KILLS = 20
const LOGINS_PER_SECOND = 20
/**
 * Logins at once before each kill. Those that are lost with a worker are run one after the other by the next one, so that
 * forty, slowed down as they are here, would take 8 s of the 20 by themselves.
 */
const BURST = 20
/** Long enough to be met in the middle, 40 times what it is. */
const JOB_SECONDS = 0.2
const UNDER_WAY_MS = 60_000
/** Of the catalogue: lock and check. */
const REDONE_MS_MAX = 20_000
const STANDSTILL_MS = 20_000
const LOST_JOBS = 20
const OVERDUE_MS = 61_000

export const workerRows: readonly Row[] = [
  {
    id: 'W1',
    title: `a worker is killed in the middle of jobs, ${KILLS} times`,
    pass: 'every job done within 20 s, none dead; the rows are exact',
    long: true,
    async run(bench) {
      const stand = await startStand(bench, {
        gateways: 1,
        workers: 2,
        webhooks: await startWebhooks(bench),
      })
      if (stand.database) await slowDown(stand.database, JOB_SECONDS)
      const doneMs: number[] = []
      for (let kill = 0; kill < KILLS; kill += 1) {
        const codes = await stand.wechat.codes(BURST)
        const target = stand.gateway().url
        const logins = codes.map((issued) => stand.client.login({ target, ...issued, nonce: newNonce() }))
        await until('jobs to be under way', async () => (await jobsIn(stand, 'active')) >= 4, UNDER_WAY_MS)
        const worker = stand.worker(kill % 2)
        await worker.end('SIGKILL')
        const killedMs = performance.now()
        const started = worker.start()
        await Promise.all(logins)
        await drained(stand, 60_000)
        doneMs.push(performance.now() - killedMs)
        await started
      }
      bench.figure('median time from a kill until all is done', quantile(doneMs, 0.5), { unit: 'ms' })
      bench.figure('longest time from a kill until all is done', Math.max(...doneMs), {
        unit: 'ms',
        max: REDONE_MS_MAX,
      })
      const takenOver = timesWritten(stand.workers, '"job taken over from a worker that went silent"')
      bench.figure('jobs that lost their worker', takenOver, { min: KILLS })
      bench.figure('dead jobs', await jobsIn(stand, 'failed'), { is: 0 })
      await figureRows(stand, bench)
      await checkInvariants(bench, stand)
    },
  },
  {
    id: 'W2',
    title: 'a worker stands still for 20 s in the middle of jobs and then finishes them late',
    pass: 'the others do its jobs within 20 s; its own late end changes nothing',
    async run(bench) {
      const postgres = await startPostgresServer(bench)
      const stand = await startStand(bench, {
        gateways: 1,
        workers: 2,
        database: postgres.database,
        webhooks: await startWebhooks(bench),
      })
      await slowDown(postgres.database, JOB_SECONDS)
      const load = await stand.load({ loginsPerSecond: LOGINS_PER_SECOND })
      await pause(5_000)
      await until('jobs to be under way', async () => (await jobsIn(stand, 'active')) >= 4, UNDER_WAY_MS)
      const zombie = stand.worker(0)
      zombie.signal('SIGSTOP')
      await pause(STANDSTILL_MS) // this long is what is being tested
      zombie.signal('SIGCONT')
      await until('it to be well', async () => (await fetch(`${zombie.url}/readyz`)).status === 200)
      const doneBefore = await zombie.metric('provisioning_jobs_total', { outcome: 'done' })
      await pause(5_000)
      const doneAfter = await zombie.metric('provisioning_jobs_total', { outcome: 'done' })
      await load.stop()
      bench.figure('drained after the last login', await drained(stand, 60_000), { unit: 'ms', max: 60_000 })
      const takenOver = timesWritten(stand.workers, '"job taken over from a worker that went silent"')
      bench.figure('jobs taken over from it', takenOver, { min: 1 })
      const ended = postgres.log().split('idle-in-transaction timeout').length - 1
      bench.figure('transactions of it that Postgres ended after 10 s', ended, { min: 1 })
      bench.figure('jobs it did in the 5 s after', doneAfter - doneBefore, { min: 1 })
      await figureDelays(bench, stand, REDONE_MS_MAX)
      bench.figure('dead jobs', await jobsIn(stand, 'failed'), { is: 0 })
      await figureRows(stand, bench)
      await checkInvariants(bench, stand)
    },
  },
  {
    id: 'W9',
    title: 'jobs are lost: their keys are deleted from Redis',
    pass: 'the next login or validation queues the user again; the row is there within 60 s',
    long: true,
    async run(bench) {
      const stand = await startStand(bench, {
        gateways: 1,
        workers: 1,
        webhooks: await startWebhooks(bench),
      })
      await stand.worker().end('SIGTERM')
      const target = stand.gateway().url
      const logIn = async (issued: { code: string; openid: string }) =>
        (await stand.client.login({ target, ...issued, nonce: newNonce() })).token ?? ''
      const users = await stand.wechat.codes(2 * LOST_JOBS)
      const tokens = []
      for (const issued of users) tokens.push(await logIn(issued))
      bench.figure('logins', stand.ledger.count({ kind: 'login', status: 200 }), { is: 2 * LOST_JOBS })
      bench.figure('jobs queued', await jobsIn(stand, 'waiting'), { is: 2 * LOST_JOBS })

      const redis = new Redis(stand.redis.env['REDIS_URL'] ?? '')
      bench.defer(() => redis.disconnect())
      await redis.del(await redis.keys('{provision}:provision:*'))
      await stand.worker().start()
      bench.figure('jobs left', await jobsIn(stand, 'waiting'), { is: 0 })

      // One half logs in again at once; the other only goes on with its sessions.
      const startedMs = performance.now()
      for (const { openid } of users.slice(0, LOST_JOBS)) {
        const [again] = await stand.wechat.codes(1, { openid })
        if (again !== undefined) await logIn({ ...again, openid })
      }
      const rowCount = async () =>
        (await stand.database?.query<{ count: number }>('select count(*)::int as count from identities'))?.[0]
          ?.count
      await until('the rows of those who log in', async () => (await rowCount()) === LOST_JOBS, 60_000)
      bench.figure('rows after a login', performance.now() - startedMs, { unit: 'ms', max: 60_000 })

      await pause(Math.max(0, OVERDUE_MS - (performance.now() - startedMs))) // a job is overdue after a minute
      const validatedMs = performance.now()
      for (const token of tokens.slice(LOST_JOBS)) await stand.client.validate(target, token)
      await until('the rows of the others', async () => (await rowCount()) === 2 * LOST_JOBS, 60_000)
      bench.figure('rows after a validation', performance.now() - validatedMs, { unit: 'ms', max: 60_000 })
      const healed = await stand.gateway().metric('provisioning_selfheal_total')
      bench.figure('jobs counted as lost', healed, { is: LOST_JOBS })
      await checkInvariants(bench, stand)
    },
  },
  ...workerPoisonRows,
  ...workerDatabaseRows,
  ...workerErasureRows,
  ...workerEndRows,
  ...workerWebhookRows,
  ...workerBacklogRows,
  ...workerLinkedRows,
  ...workerPushRows,
]

/** No user twice, none without an identity, none beside those who logged in, and no second run that counted again. */
async function figureRows(stand: Stand, bench: Bench): Promise<void> {
  const [rows] =
    (await stand.database?.query<{ users: number; openids: string[]; again: number }>(
      `select (select count(*) from users)::int as users, array_agg(openid) as openids,
         count(*) filter (where provision_count > 1)::int as again from identities`,
    )) ?? []
  const { users = NaN, openids = [], again = NaN } = rows ?? {}
  const known = new Set(stand.ledger.find({ kind: 'login' }).map(({ openid }) => openid))
  bench.figure('users beside one for each identity', users - openids.length, { is: 0 })
  const foreign = openids.filter((openid) => !known.has(openid)).length
  bench.figure('identities of nobody who logged in', foreign, { is: 0 })
  bench.figure('jobs whose second run changed something', again, { is: 0 })
  const spent = await sumOverWorkers(stand, 'provisioning_jobs_total', { outcome: 'failed' })
  bench.figure('attempts spent', spent, { is: 0 })
}
