/**
 * Jobs that harm their worker, and endings in the middle of work: real worker processes, made to fail from outside
 * (harness/poison.ts). What takes minutes (blocked and stuck workers, outages) is the fault bench's: rows W1 to W9.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as pause } from 'node:timers/promises'
import { Queue } from 'bullmq'
import { sql } from 'kysely'
import { describe, expect, inject, onTestFinished, test } from 'vitest'
import { PROVISION_QUEUE } from '../src/provisioning.ts'
import { subjectOf } from '../src/subject.ts'
import { workerEnvironment } from './harness/environment.ts'
import { ALIVE_INTERVAL_MS } from '../workers/quarantine.ts'
import { startHarness } from './harness/gateway.ts'
import { NODE_ENVIRONMENT } from './harness/node-environment.ts'
import { poisoned } from './harness/poison.ts'
import { startWorkerProcess } from './harness/processes.ts'
import { queueOf, workerMetric } from './harness/provisioning.ts'
import { until } from './harness/until.ts'
import { createPostgresDatabase } from './postgres-database.ts'

const postgresUrl = inject('postgresUrl')
const APPID = 'wx-faults'
const POISON = 'o-poison'
/** As much of a worker as starts a quarantine. */
const QUARANTINE_WORKER = `
const child = require('node:child_process').fork('workers/quarantine-process.ts')
child.on('message', ({ type }) => console.log(type, child.pid))`

/** A queue, a database, and workers to choose. Jobs come straight from a gateway's end of the queue. */
async function startSystem() {
  const harness = await startHarness()
  const database = await createPostgresDatabase(postgresUrl)
  const opened = await database.open()
  const queue = new Queue(PROVISION_QUEUE, {
    connection: harness.redis,
    prefix: harness.keys.queue(PROVISION_QUEUE),
    skipMetasUpdate: true,
  })
  onTestFinished(async () => {
    await queue.close()
    await opened.close()
    await database.drop()
  })
  return {
    queue,
    database,
    counts: () => queueOf(harness).counts(),
    startWorker: (own: Record<string, string> = {}) =>
      startWorkerProcess(workerEnvironment(harness.env, { DATABASE_URL: database.url, ...own })),
    enqueue: (openids: readonly string[]) =>
      Promise.all(
        openids.map((openid) =>
          queueOf(harness).enqueue({ sub: subjectOf(APPID, openid), appid: APPID, openid, seenAtMs: 1_000 }),
        ),
      ),
    async rows() {
      const { rows } = await sql<{ count: number }>`select count(*)::int as count from identities`.execute(
        opened.db,
      )
      return rows[0]?.count
    },
  }
}

/** Users with the poisonous one among the first, so that one worker takes it together with others. */
function withPoison(count: number): string[] {
  return Array.from({ length: count }, (_, at) => `o-${at}`).toSpliced(5, 0, POISON)
}

describe.runIf(postgresUrl)('on Postgres', () => {
  test('a job that ends its worker is dead after three crashes, two of them alone; its neighbours are done', async () => {
    const { counts, startWorker, enqueue, rows, queue } = await startSystem()
    const env = poisoned([`crash:${POISON}`])
    const first = await startWorker(env)
    const ended = once(first.child, 'exit')
    await enqueue(withPoison(40))
    await ended
    const second = await startWorker(env)

    await until('the poison to be dead', async () => (await counts())['failed'] === 1, 50_000)
    const [dead] = await queue.getFailed()
    expect(dead?.data).toMatchObject({ o: POISON })
    expect(dead?.failedReason).toBe('it ended or blocked its process 3 times: ended with SIGKILL')
    await until('the others to be done', async () => (await rows()) === 40)
    // A row is there before its job is acknowledged.
    await until('no job to be under way', async () => (await counts())['active'] === 0)
    expect(await counts()).toMatchObject({ waiting: 0, active: 0, delayed: 0, failed: 1 })
    expect(second.child.exitCode ?? second.child.signalCode).toBeNull()
  }, 90_000)

  test('the process apart ends with its worker, and says nothing, also if it stood still meanwhile', async () => {
    const harness = await startHarness()
    const database = await createPostgresDatabase(postgresUrl)
    onTestFinished(() => database.drop())
    const worker = spawn(process.execPath, ['--eval', QUARANTINE_WORKER], {
      cwd: new URL('..', import.meta.url),
      env: { ...NODE_ENVIRONMENT, ...workerEnvironment(harness.env, { DATABASE_URL: database.url }) },
    })
    let output = ''
    for (const stream of [worker.stdout, worker.stderr])
      stream.setEncoding('utf8').on('data', (text: string) => (output += text))
    onTestFinished(() => void worker.kill('SIGKILL'))
    const [, pid] = await until('it to be ready', () => /ready (\d+)/.exec(output) ?? undefined, 20_000)
    process.kill(Number(pid), 'SIGSTOP')
    worker.kill('SIGKILL')
    // Its next word to the worker is due when it goes on, before it has heard that there is none.
    await pause(2 * ALIVE_INTERVAL_MS)
    output = ''
    const silent = once(worker.stdout, 'close') // with it ends the last who holds the pipe
    process.kill(Number(pid), 'SIGCONT')
    await silent
    expect(output).toBe('')
  })

  test('a job that always fails is dead after eight attempts', async () => {
    const { counts, startWorker, enqueue, rows, queue, database } = await startSystem()
    const worker = await startWorker()
    await database.query(`create function refuse() returns trigger language plpgsql as
      $$ begin if new.openid = '${POISON}' then raise exception 'no'; end if; return new; end $$`)
    await database.query(
      'create trigger refuse before insert on identities for each row execute function refuse()',
    )
    await enqueue(withPoison(20))
    // The pauses between the attempts, two minutes in all, are cut short.
    await until('the poison to be dead', async () => {
      for (const job of await queue.getDelayed()) await job.promote().catch(() => {})
      return (await counts())['failed'] === 1
    })
    const [dead] = await queue.getFailed()
    expect(dead).toMatchObject({ attemptsMade: 8, failedReason: 'database: P0001' })
    expect(await rows()).toBe(20)
    expect(await workerMetric(worker, 'provisioning_jobs_total', { outcome: 'dead' })).toBe(1)
    expect(await workerMetric(worker, 'provisioning_jobs_total', { outcome: 'failed' })).toBe(7)
  })

  test('a table that is missing costs no job an attempt', async () => {
    const { counts, startWorker, enqueue, rows, queue, database } = await startSystem()
    const worker = await startWorker()
    await database.query('alter table identities rename to mislaid')
    await enqueue(['o-1', 'o-2'])
    await until('the jobs to be postponed', async () => (await counts())['delayed'] === 2)
    expect((await queue.getDelayed()).map(({ attemptsMade }) => attemptsMade)).toEqual([0, 0])
    expect(await workerMetric(worker, 'provisioning_jobs_total', { outcome: 'postponed' })).toBeGreaterThan(0)

    await database.query('alter table mislaid rename to identities')
    await until('the users to be there', async () => (await rows()) === 2, 20_000)
  })

  test('SIGTERM gives back what does not end in time, so that nothing stalls', async () => {
    const { startWorker, enqueue, counts } = await startSystem()
    const worker = await startWorker({ ...poisoned(['hang:*']), WORKER_CONCURRENCY: '50' })
    await enqueue(Array.from({ length: 50 }, (_, at) => `o-${at}`))
    await until('50 jobs to be active', async () => (await counts())['active'] === 50)
    const toldMs = performance.now()
    expect(await worker.end('SIGTERM')).toBe(0)
    expect(performance.now() - toldMs).toBeLessThan(25_000)
    // Those that held a connection are given back; the others did not get one, and were put off.
    const { waiting = 0, delayed = 0, ...others } = await counts()
    expect(others).toMatchObject({ active: 0, failed: 0 })
    expect(waiting).toBeGreaterThan(0)
    expect(waiting + delayed).toBe(50)
    expect(worker.output()).toContain(`"returned":${waiting},"lost":0`)
  }, 60_000)
})
