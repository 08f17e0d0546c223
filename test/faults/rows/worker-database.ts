/** W4, W5: Postgres away, and everything else that a Postgres may answer. */
import { setTimeout as pause } from 'node:timers/promises'
import { Client } from 'pg'
import { until } from '../../harness/until.ts'
import { checkInvariants } from '../invariants.ts'
import { openOn } from '../postgres.ts'
import type { Database } from '../postgres.ts'
import { startPostgresServer } from '../postgres-server.ts'
import type { PostgresServer } from '../postgres-server.ts'
import { drained, figureDelays, jobsIn, slowDown, sumOverWorkers, timesWritten } from '../provisioning.ts'
import type { Bench, Row } from '../row.ts'
import { startStand } from '../stand.ts'
import type { Stand } from '../stand.ts'
import { startWebhooks } from '../webhooks.ts'

const DRAINED_MS_MAX = 300_000

async function runOutage(bench: Bench, seconds: number, loginsPerSecond: number): Promise<void> {
  const postgres = await startPostgresServer(bench)
  const stand = await startStand(bench, {
    gateways: 1,
    workers: 2,
    database: postgres.database,
    webhooks: await startWebhooks(bench),
  })
  const load = await stand.load({ loginsPerSecond })
  await pause(5_000)

  await postgres.kill()
  for (let second = 0; second < seconds; second += 30) {
    await pause(1_000 * Math.min(30, seconds - second)) // the outage's length is what is tested
    bench.say(`  ${second + 30} s: ${await jobsIn(stand, 'waiting')} jobs wait`)
  }
  bench.figure('jobs waiting at the end of the outage', await jobsIn(stand, 'waiting'), {
    min: (seconds * loginsPerSecond) / 2,
  })
  await postgres.start()
  const backMs = performance.now()
  await pause(5_000)
  await load.stop()
  await drained(stand, DRAINED_MS_MAX)
  bench.figure('drained after its return', (performance.now() - backMs) / 1_000, { unit: 's', max: 300 })

  const logins = stand.ledger.count({ kind: 'login' })
  bench.figure('logins', logins, { min: seconds * loginsPerSecond })
  bench.figure('logins not answered 200', logins - stand.ledger.count({ kind: 'login', status: 200 }), {
    is: 0,
  })
  await figureAttempts(bench, stand)
  await checkInvariants(bench, stand)
}

/** Nothing that the database does is held against a job. */
async function figureAttempts(bench: Bench, stand: Stand): Promise<void> {
  const outcome = (name: string) => sumOverWorkers(stand, 'provisioning_jobs_total', { outcome: name })
  bench.figure('jobs put off', await outcome('postponed'), { min: 0 })
  bench.figure('attempts spent', await outcome('failed'), { is: 0 })
  bench.figure('dead jobs', (await outcome('dead')) + (await jobsIn(stand, 'failed')), { is: 0 })
}

const SPELL_MS = 5_000
/** Ten for jobs, and one to look past them whether the server works. */
const CONNECTIONS_MAX = 11
const WORKERS = 2

async function runErrors(bench: Bench): Promise<void> {
  const postgres = await startPostgresServer(bench)
  // The workers are no superusers: for those Postgres keeps connections, and lets them write on a standby's settings.
  await postgres.database.query('create role gateway login')
  await postgres.database.query('create database app owner gateway')
  const url = new URL(postgres.database.url)
  url.pathname = 'app'
  const admin = openOn(url.href)
  url.username = 'gateway'
  const stand = await startStand(bench, {
    gateways: 1,
    workers: WORKERS,
    database: openOn(url.href),
    webhooks: await startWebhooks(bench),
  })
  await slowDown(admin, 0.1)
  const load = await stand.load({ loginsPerSecond: 15 })
  const connections = countConnections(bench, admin)
  await pause(2_000)

  for (const { name, text, cause } of errorsOf(postgres, admin)) {
    const counted = () => postgres.log().split(text).length - 1 + timesWritten(stand.workers, text)
    await until('a job to be run again', async () => (await jobsIn(stand, 'active')) > 0, 60_000)
    const before = counted()
    await cause()
    bench.figure(name, counted() - before, { min: 1 })
    await pause(1_000)
  }
  await load.stop()
  bench.figure('drained', (await drained(stand, 120_000)) / 1_000, { unit: 's', max: 120 })
  bench.figure('connections of the workers at most', connections(), { max: WORKERS * CONNECTIONS_MAX })
  await figureDelays(bench, stand)
  await figureAttempts(bench, stand)
  await checkInvariants(bench, stand)
}

interface DatabaseError {
  /** For the figure: how often it was met. */
  name: string
  /** In the server's log, or in the workers'. */
  text: string
  cause(): Promise<void>
}

function errorsOf(postgres: PostgresServer, admin: Database): readonly DatabaseError[] {
  const cutOff = () =>
    admin.query(`select pg_terminate_backend(pid) from pg_stat_activity
      where application_name = 'wechat-login-worker'`)
  /** A setting of the database is taken by new connections only. */
  const withSetting = async (setting: string, value: string) => {
    await postgres.database.query(`alter database app set ${setting} = ${value}`)
    await cutOff()
    await pause(SPELL_MS)
    await postgres.database.query(`alter database app reset ${setting}`)
    await cutOff()
  }
  return [
    {
      name: 'deadlocks (40P01)',
      text: 'deadlock detected',
      // A job that has read `identities` waits for `users`, which the administrator has, waiting for `identities`.
      cause: () =>
        holding(admin, async (client) => {
          await client.query('lock table users in exclusive mode')
          await pause(500)
          await client.query('lock table identities in access exclusive mode').catch(() => {})
        }),
    },
    {
      name: 'serialization failures (40001)',
      text: 'could not serialize access',
      cause: () => withSetting('default_transaction_isolation', "'serializable'"),
    },
    {
      name: 'lock timeouts (55P03)',
      text: 'due to lock timeout',
      cause: () =>
        holding(admin, async (client) => {
          await client.query('lock table identities in access exclusive mode')
          await pause(SPELL_MS)
        }),
    },
    {
      name: 'statement timeouts (57014)',
      text: 'due to statement timeout',
      async cause() {
        await admin.query(`create or replace function take_time() returns trigger language plpgsql as
          $$ begin perform pg_sleep(60); return new; end $$`)
        await pause(SPELL_MS + 2_000)
        await admin.query(`create or replace function take_time() returns trigger language plpgsql as
          $$ begin perform pg_sleep(0.1); return new; end $$`)
      },
    },
    {
      name: 'refusals: too many connections (53300)',
      text: 'too many connections for role',
      async cause() {
        await admin.query('alter role gateway connection limit 1')
        await cutOff()
        await pause(SPELL_MS)
        await admin.query('alter role gateway connection limit -1')
      },
    },
    {
      name: 'refusals of a read-only server (25006)',
      text: 'in a read-only transaction',
      cause: () => withSetting('default_transaction_read_only', 'on'),
    },
    {
      name: 'connections cut off (57P01)',
      text: 'due to administrator command',
      async cause() {
        await until('a worker to have a connection', async () => (await cutOff()).length > 0, 30_000)
        await pause(1_000)
      },
    },
    {
      name: 'failovers: the server shuts down at once and comes back (57P02, 57P03)',
      text: 'received immediate shutdown request',
      async cause() {
        await postgres.crash()
        await pause(SPELL_MS)
        await postgres.start()
      },
    },
    {
      name: 'jobs that were given no answer while it stood still for 15 s',
      text: '"reason":"database: connection lost"',
      async cause() {
        postgres.stop()
        await pause(3 * SPELL_MS) // no answer within 7 s, then no connection within 2 s
        postgres.resume()
        await pause(2_000)
      },
    },
  ]
}

/** In a transaction, which is given up at the end. */
async function holding(admin: Database, use: (client: Client) => Promise<void>): Promise<void> {
  const client = new Client({ connectionString: admin.url })
  client.on('error', () => {})
  await client.connect()
  await client.query('begin')
  await use(client)
  await client.end()
}

/** Samples; the result gives the most that there were. */
function countConnections(bench: Bench, admin: Database): () => number {
  let most = 0
  const timer = setInterval(() => {
    admin
      .query<{ count: number }>(
        `select count(*)::int as count from pg_stat_activity where application_name = 'wechat-login-worker'`,
      )
      .then(
        ([row]) => (most = Math.max(most, row?.count ?? 0)),
        () => {}, // the server is away just now
      )
  }, 250)
  bench.defer(() => clearInterval(timer))
  return () => most
}

export const workerDatabaseRows: readonly Row[] = [
  {
    id: 'W4',
    title: 'Postgres is killed and comes back after 60 s',
    pass: 'every login 200; the jobs wait, no attempt is spent; drained within 5 min',
    long: true,
    run: (bench) => runOutage(bench, 60, 25),
  },
  {
    id: 'W4-long',
    title: 'Postgres is killed and comes back after 10 min',
    pass: 'every login 200; the jobs wait, no attempt is spent; drained within 5 min',
    long: true,
    run: (bench) => runOutage(bench, 600, 15),
  },
  {
    id: 'W5',
    title: 'Postgres answers with every error that passes by itself, one kind after the other',
    pass: 'each is met and survived, no attempt is spent, the pool stays within its bounds',
    long: true,
    run: runErrors,
  },
]
