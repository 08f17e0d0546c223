/**
 * The provisioning queue, from the operator's side: its dead jobs, `npm run jobs -- list | show | replay | remove`,
 * and the whole of it, `status | pause | resume`. Reads the environment as the worker does, shows no openid unless
 * asked to, and ends with 0 only when all that was asked for was done.
 */
import { parseArgs } from 'node:util'
import { ConfigError, loadRedisConfig, readEnvironment } from '../../src/config.ts'
import { createDeadJobs } from '../../src/dead-jobs.ts'
import type { DeadJob, DeadJobs } from '../../src/dead-jobs.ts'
import { GatewayError } from '../../src/errors.ts'
import { maskJob, maskText } from '../../src/masking.ts'
import { PROVISION_QUEUE } from '../../src/provisioning.ts'
import { connectFailFast, disconnect, waitUntilReady } from '../../src/redis/connections.ts'
import { createKeys } from '../../src/redis/keys.ts'
import { openQueueView } from '../queue-view.ts'

const USAGE = `usage: npm run -s jobs -- COMMAND

  list   [--limit N]    the dead jobs, the latest first (50 unless said otherwise)
  show   ID…            all that is known of these, as JSON
  replay ID… | --all    puts them back into the queue, with all their attempts
  remove ID… | --all    deletes them for good
  status                how many jobs there are in which state, and whether the queue is paused
  pause                 has all workers take no more jobs; logins go on and queue theirs
  resume                has them go on

  --openid   with list and show: openid and unionid in full
`
/** Nobody waits for an answer here; a busy Redis may take its time. */
const COMMAND_TIMEOUT_MS = 10_000
const FIRST_CONTACT_MS = 5_000
const CLOSE_MS = 1_000
const LIST_LIMIT = 50

interface Options {
  ids: readonly string[]
  all: boolean
  limit: number
  openid: boolean
}

const NO_OPTIONS: Options = { ids: [], all: false, limit: LIST_LIMIT, openid: false }

const COMMANDS = { list, show, replay, remove, status, pause, resume } as const
/** These are about the queue, and take nothing else. */
const OF_THE_QUEUE: ReadonlySet<string> = new Set(['status', 'pause', 'resume'])

process.exitCode = await run()

async function run(): Promise<number> {
  const asked = parse(process.argv.slice(2))
  if (asked === undefined) {
    console.error(USAGE)
    return 2
  }
  try {
    const config = loadRedisConfig(readEnvironment())
    const redis = connectFailFast({ ...config, commandTimeoutMs: COMMAND_TIMEOUT_MS })
    redis.on('error', () => {}) // that Redis cannot be reached is told once, by whoever needs it
    try {
      await waitUntilReady(redis, FIRST_CONTACT_MS)
      const queue = openQueueView(redis, createKeys(config.keyPrefix).queue(PROVISION_QUEUE))
      const code = await asked.command(createDeadJobs(queue), asked.options)
      await queue.close()
      return code
    } finally {
      await disconnect(redis, CLOSE_MS)
    }
  } catch (error) {
    if (error instanceof ConfigError) console.error(error.message)
    else if (error instanceof GatewayError) console.error('Redis does not answer.')
    else throw error
    return 1
  }
}

function parse(args: string[]) {
  try {
    const { values, positionals } = parseArgs({
      args,
      allowPositionals: true,
      options: { all: { type: 'boolean' }, limit: { type: 'string' }, openid: { type: 'boolean' } },
    })
    const [name = '', ...ids] = positionals
    if (!Object.hasOwn(COMMANDS, name)) return undefined
    const { all = false, openid = false } = values
    const limit = values.limit === undefined ? LIST_LIMIT : Number(values.limit)
    const lists = name === 'list'
    if (OF_THE_QUEUE.has(name) && args.length > 1) return undefined
    if (OF_THE_QUEUE.has(name))
      return { command: COMMANDS[name as keyof typeof COMMANDS], options: NO_OPTIONS }
    const changes = name === 'replay' || name === 'remove'
    if (!Number.isSafeInteger(limit) || limit < 1) return undefined
    if (lists ? ids.length > 0 : values.limit !== undefined) return undefined
    if (changes ? openid || all === ids.length > 0 : all || (!lists && ids.length === 0)) return undefined
    return { command: COMMANDS[name as keyof typeof COMMANDS], options: { ids, all, limit, openid } }
  } catch {
    return undefined // an option that there is not
  }
}

async function list(jobs: DeadJobs, { limit, openid }: Options): Promise<number> {
  const [count, listed] = [await jobs.count(), await jobs.list(limit)]
  for (const job of listed) {
    const died = new Date(job.diedAtMs).toISOString()
    console.log(`${job.id}  ${died}  ${userOf(job, openid)}  ${tally(job)}: ${job.reason}`)
  }
  console.error(`${plural(count, 'dead job')}${count > listed.length ? `, ${listed.length} shown` : ''}.`)
  return 0
}

async function show(jobs: DeadJobs, { ids, openid }: Options): Promise<number> {
  const missing: string[] = []
  for (const id of ids) {
    const job = await jobs.find(id)
    if (job === undefined) missing.push(id)
    else {
      const { diedAtMs, queuedAtMs, data, ...rest } = job
      const times = {
        queued_at: new Date(queuedAtMs).toISOString(),
        died_at: new Date(diedAtMs).toISOString(),
      }
      console.log(JSON.stringify({ ...rest, ...times, data: openid ? data : maskJob(data) }, undefined, 2))
    }
  }
  return report(missing)
}

async function replay(jobs: DeadJobs, { ids, all }: Options): Promise<number> {
  const missing: string[] = []
  let replayed = 0
  let waiting = 0
  for (const id of all ? await jobs.ids() : ids) {
    const outcome = await jobs.replay(id)
    if (outcome === 'replayed') replayed += 1
    else if (outcome === 'waiting_already') waiting += 1
    else missing.push(id)
  }
  console.log(`${plural(replayed, 'dead job')} put back into the queue.`)
  if (waiting > 0)
    console.log(`${plural(waiting, 'more')} dropped: a newer job of the same user waits there.`)
  return report(missing)
}

async function remove(jobs: DeadJobs, { ids, all }: Options): Promise<number> {
  const missing: string[] = []
  let removed = 0
  for (const id of all ? await jobs.ids() : ids) {
    if (await jobs.remove(id)) removed += 1
    else missing.push(id)
  }
  console.log(`${plural(removed, 'dead job')} deleted.`)
  return report(missing)
}

async function status(jobs: DeadJobs): Promise<number> {
  const { isPaused, counts } = await jobs.queueStatus()
  for (const [state, count] of Object.entries(counts)) console.log(`${state}  ${count}`)
  console.log(isPaused ? 'The queue is paused.' : 'The queue is not paused.')
  return 0
}

async function pause(jobs: DeadJobs): Promise<number> {
  await jobs.pauseQueue()
  console.log('The queue is paused: workers finish what they have begun and take no more. Logins go on.')
  return 0
}

async function resume(jobs: DeadJobs): Promise<number> {
  await jobs.resumeQueue()
  console.log('The queue goes on.')
  return 0
}

function report(missing: readonly string[]): number {
  if (missing.length > 0) console.error(`There is no dead job ${missing.join(', ')}.`)
  return missing.length === 0 ? 0 : 1
}

function userOf({ data }: DeadJob, inFull: boolean): string {
  const { appid, openid } = (data ?? {}) as Record<string, unknown>
  const parts = [appid, inFull ? openid : maskText(openid)]
  return parts.map((part) => (typeof part === 'string' ? part : '?')).join(' ')
}

function tally({ attempts, takeovers }: DeadJob): string {
  const lost = takeovers === 0 ? '' : `, ${plural(takeovers, 'takeover')}`
  return `${plural(attempts, 'attempt')}${lost}`
}

function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 || noun === 'more' ? '' : 's'}`
}
