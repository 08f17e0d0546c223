/**
 * What does a user cost: Redis and Postgres to keep, and every process in CPU? Real gateway, worker, Redis and Postgres,
 * a simulated WeChat; `npm run benchmark:capacity -- [--users N]` writes capacity.json, from which `npm run size`
 * reckons. A step at a time, so that each figure is of one thing.
 */
import { cpus, totalmem } from 'node:os'
import { setTimeout as delay } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { Redis } from 'ioredis'
import { Agent, request } from 'undici'
import { openOn } from '../faults/postgres.ts'
import type { Bench } from '../faults/row.ts'
import { startStand } from '../faults/stand.ts'
import type { Stand } from '../faults/stand.ts'
import { startPostgres } from '../harness/postgres-server.ts'
import { until } from '../harness/until.ts'
import { openQueue } from './provisioning.ts'

const { values } = parseArgs({ options: { users: { type: 'string', default: '10000' } } })
const users = Number(values.users)
const WARM_UP_LOGINS = 3_000
const VALIDATIONS = 30_000
const CONNECTIONS = 64
const TICKS_PER_SECOND = 100
const US_PER_SECOND = 1_000_000
const DRAIN_MS_MAX = 120_000
const JOBS_AT_ONCE = 16
const SETTLE_MS = 500
const SETTLED_BYTES = 10_000

const closers: (() => unknown)[] = []
const bench: Bench = { say: console.log, figure() {}, check() {}, defer: (close) => void closers.push(close) }
let status = 0
try {
  const result = await measure()
  writeFileSync(new URL('capacity.json', import.meta.url), `${JSON.stringify(result, undefined, 2)}\n`)
  console.log(result)
} catch (error) {
  console.error(error)
  status = 1
}
for (const close of closers.toReversed()) await close()
process.exit(status)

async function measure() {
  const postgres = await startPostgres({ durable: true })
  if (postgres?.pid === undefined) throw new Error('no Postgres is installed')
  closers.push(() => postgres.stop())
  const database = openOn(postgres.url)
  const stand = await startStand(bench, { gateways: 1, workers: 1, database })
  const worker = stand.worker()
  await worker.end('SIGTERM') // the tables are made; it comes back when its turn is
  const redisUrl = stand.redis.env['REDIS_URL'] ?? ''
  const redis = new Redis(redisUrl)
  closers.push(() => redis.disconnect())
  const phones = createPhones(stand)
  closers.push(() => phones.close())

  const books = async () => ({
    gateway: processCpuUs(stand.gateway().pid),
    worker: worker.isRunning() ? processCpuUs(worker.pid) : 0,
    postgres: familyCpuUs(postgres.pid ?? 0),
    redis: US_PER_SECOND * ((await info(redis, 'used_cpu_user')) + (await info(redis, 'used_cpu_sys'))),
  })
  /** What a step cost in CPU, in microseconds for each of so many. */
  async function cost(what: string, each: number, step: () => Promise<unknown>) {
    console.log(what)
    const before = await books()
    await step()
    const after = await books()
    const of = (name: keyof typeof before) => Math.round((after[name] - before[name]) / each)
    return { gateway: of('gateway'), worker: of('worker'), postgres: of('postgres'), redis: of('redis') }
  }

  await phones.logIn(await phones.codes(WARM_UP_LOGINS))
  await redis.flushall()
  const [firstCodes, laterCodes] = await phones.codesTwice(users)
  const bytesOfNobody = await usedBytes(redis)

  let tokens: string[] = []
  const first = await cost('first logins', users, async () => {
    tokens = await phones.logIn(firstCodes)
  })
  const bytesWithShortLived = await usedBytes(redis)
  await forget(redis, 'code:*', 'limit:*')
  const loginForAMinute = bytesWithShortLived - (await usedBytes(redis))

  const databaseBefore = await databaseBytes(database)
  await worker.start()
  const startedMs = performance.now()
  const job = await cost('the worker provisions them', users, () =>
    until('the queue to be empty', () => isEmpty(redis), DRAIN_MS_MAX),
  )
  const seconds = (performance.now() - startedMs) / 1_000
  const databaseAfter = await databaseBytes(database)
  const workerRss = worker.rssBytes()
  await worker.end('SIGTERM')
  await forget(redis, '{provision}*')
  const bytesOfUsers = await usedBytes(redis)

  const later = await cost('later logins', users, () => phones.logIn(laterCodes))
  await forget(redis, 'code:*', 'limit:*', '{provision}*')
  const bytesOfTwoSessions = await usedBytes(redis)

  const asked = Array.from({ length: VALIDATIONS }, (_, at) => tokens[at % tokens.length] ?? '')
  const validation = await cost('validations', VALIDATIONS, () => phones.validate(asked))

  const queue = await openQueue(redisUrl, 'backlog:')
  const bytesWithoutJobs = await usedBytes(redis)
  await queue.fill(users, 1_000, { atOnce: JOBS_AT_ONCE })
  await forget(redis, 'backlog:*:events') // bounded, however many wait
  const bytesOfJobs = (await usedBytes(redis)) - bytesWithoutJobs
  await queue.close()

  const each = (bytes: number) => Math.round(bytes / users)
  return {
    date: new Date().toISOString().slice(0, 10),
    command: `npm run benchmark:capacity -- --users ${users}`,
    machine: `${cpus().length} cores (${cpus()[0]?.model.trim()}), ${Math.round(totalmem() / 2 ** 30)} GiB`,
    node: process.version,
    redis: /redis_version:(\S+)/.exec(await redis.info('server'))?.[1],
    redisBytes: {
      userWithOneSession: each(bytesOfUsers - bytesOfNobody),
      furtherSession: each(bytesOfTwoSessions - bytesOfUsers),
      loginForAMinute: each(loginForAMinute),
      waitingJob: each(bytesOfJobs),
    },
    postgresBytes: { user: each(databaseAfter - databaseBefore) },
    cpuUs: {
      login: { gateway: later.gateway, redis: later.redis },
      loginWithJob: { gateway: first.gateway, redis: first.redis },
      validation: { gateway: validation.gateway, redis: validation.redis },
      job: { worker: job.worker, redis: job.redis, postgres: job.postgres },
    },
    jobsPerSecondOfOneWorker: Math.round(users / seconds),
    rssBytes: { gateway: stand.gateway().rssBytes(), worker: workerRss },
  }
}

/** Many clients in one: codes from the simulated WeChat, requests to the gateway. */
function createPhones({ wechat, gateway }: Stand) {
  const agent = new Agent({ connections: CONNECTIONS })
  const { url } = gateway()
  async function send<T>(items: readonly string[], one: (item: string) => Promise<T>): Promise<T[]> {
    const results: T[] = []
    const left = [...items].toReversed()
    const lane = async () => {
      for (let item = left.pop(); item !== undefined; item = left.pop()) results.push(await one(item))
    }
    await Promise.all(Array.from({ length: CONNECTIONS }, lane))
    return results
  }
  async function answered(path: string, options: object): Promise<string> {
    const { statusCode, body } = await request(url + path, { ...options, dispatcher: agent })
    const text = await body.text()
    if (statusCode !== 200) throw new Error(`${path} was answered with ${statusCode}: ${text}`)
    return text
  }
  return {
    codes: async (count: number) => (await wechat.codes(count)).map(({ code }) => code),
    /** Two codes of each of so many users: all the first ones, and all the second. */
    async codesTwice(count: number): Promise<[string[], string[]]> {
      const codes = (await wechat.codes(2 * count, { codesPerUser: 2 })).map(({ code }) => code)
      return [codes.slice(0, count), codes.slice(count)]
    },
    /** @returns their tokens */
    logIn: (codes: readonly string[]) =>
      send(codes, async (code) => {
        const options = {
          method: 'POST',
          headers: { 'content-type': 'application/json' },
          body: JSON.stringify({ code }),
        }
        return (JSON.parse(await answered('/login', options)) as { token: string }).token
      }),
    validate: (tokens: readonly string[]) =>
      send(tokens, (token) => answered('/auth', { headers: { authorization: `Bearer ${token}` } })),
    close: () => agent.close(),
  }
}

/** What is gone a minute after a login anyway, say: the claim of its code, and counters. */
async function forget(redis: Redis, ...patterns: string[]): Promise<void> {
  for (const pattern of patterns) {
    const keys = await redis.keys(pattern)
    for (let at = 0; at < keys.length; at += 1_000) await redis.del(keys.slice(at, at + 1_000))
  }
}

async function isEmpty(redis: Redis): Promise<boolean> {
  const queue = '{provision}:provision'
  const [waiting, active, delayed] = await Promise.all([
    redis.llen(`${queue}:wait`),
    redis.llen(`${queue}:active`),
    redis.zcard(`${queue}:delayed`),
  ])
  return waiting + active + delayed === 0
}

/** When it has stopped changing: Redis frees the buffers of connections a little later. */
async function usedBytes(redis: Redis): Promise<number> {
  for (let before = Number.NaN; ; await delay(SETTLE_MS)) {
    const bytes = await info(redis, 'used_memory')
    if (Math.abs(bytes - before) < SETTLED_BYTES) return bytes
    before = bytes
  }
}

async function info(redis: Redis, name: string): Promise<number> {
  return Number(new RegExp(`^${name}:([\\d.]+)`, 'm').exec(await redis.info())?.[1])
}

async function databaseBytes(database: ReturnType<typeof openOn>): Promise<number> {
  const [row] = await database.query<{ bytes: string }>(
    'select pg_database_size(current_database()) as bytes',
  )
  return Number(row?.bytes)
}

/** User and system time of a process, and of its children that have ended; from proc(5). */
function processCpuUs(pid: number, withEndedChildren = false): number {
  const fields = statOf(pid)
  const ticks = fields.slice(11, withEndedChildren ? 15 : 13).reduce((sum, field) => sum + Number(field), 0)
  return (ticks / TICKS_PER_SECOND) * US_PER_SECOND
}

/** The same of a process and all its children, living or not. */
function familyCpuUs(pid: number): number {
  const children = readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((one) => Number(statOf(one)[1]) === pid)
  return processCpuUs(pid, true) + children.reduce((sum, child) => sum + processCpuUs(child), 0)
}

/** From the state on, behind the name, which may hold anything. Empty: it has ended meanwhile. */
function statOf(pid: number): string[] {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return text.slice(text.lastIndexOf(')') + 2).split(' ')
  } catch {
    return []
  }
}
