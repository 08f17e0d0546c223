/** W7, W8: receivers of webhooks in every kind of trouble, beside one that is well; and one whose secret is changed. */
import { setTimeout as pause } from 'node:timers/promises'
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { openReceiver, newWebhookSecret } from '../../harness/webhook-receiver.ts'
import type { ReceivedWebhook, Receiver } from '../../harness/webhook-receiver.ts'
import { until } from '../../harness/until.ts'
import { LOCALHOST_CERTIFICATE } from '../../simulator/certificate.ts'
import { checkInvariants } from '../invariants.ts'
import { quantile } from '../ledger.ts'
import { PROGRAM_ROOT } from '../program.ts'
import { drained } from '../provisioning.ts'
import type { Bench, Row } from '../row.ts'
import { startStand } from '../stand.ts'
import type { Stand } from '../stand.ts'
import { subjectOf } from '../../../src/subject.ts'
import { eventsDelivered } from '../webhook-ledger.ts'
import { settingsFor, startReceiver, startWebhooks } from '../webhooks.ts'

const LOGINS_PER_SECOND = 15
/** Two attempts of what hangs for 15 s, and the second of what fails at once. */
const TROUBLE_MS = 40_000
const CONCURRENCY = 4
const RETRY_AFTER_SECONDS = 4
const LARGE_BYTES = 10_000_000
/** From the answer to a login to the event at the receiver that is well. A worker looks every 0.5 to 1.5 s. */
const SOUND_MS_MAX = 5_000
/** It is below 200 where all receivers are well; ten answers of 10 MB that are kept would show. */
const RSS_MB_MAX = 280

type Answer = NonNullable<NonNullable<Parameters<typeof openReceiver>[0]>['answer']>

/** Each in its trouble until it is told to be well. */
async function openTroubled(bench: Bench, isWell: () => boolean) {
  const trap = await startReceiver(bench)
  const names: Record<string, Answer> = {
    failing: (response) => void response.writeHead(500).end(),
    busy: (response) => void response.writeHead(429, { 'retry-after': String(RETRY_AFTER_SECONDS) }).end(),
    hanging: () => {},
    redirecting: (response) => void response.writeHead(301, { location: trap.url }).end(),
    gone: (response) => void response.writeHead(410).end(),
    slow: (response) => {
      response.writeHead(200)
      const timer = setInterval(() => response.write('.'), 200)
      response.on('close', () => clearInterval(timer))
    },
    large: (response) => void response.writeHead(200).end(Buffer.alloc(LARGE_BYTES)),
  }
  const troubled = new Map<string, Receiver>()
  for (const [name, trouble] of Object.entries(names)) {
    const answer: Answer = (response, webhook) =>
      isWell() ? void response.writeHead(204).end() : trouble(response, webhook)
    troubled.set(name, await startReceiver(bench, { answer }))
  }
  const down = await startReceiver(bench)
  await down.close()
  troubled.set('down', down)
  // Nobody vouches for its certificate.
  troubled.set('untrusted', await startReceiver(bench, { certificate: LOCALHOST_CERTIFICATE }))
  return { trap, of: (name: string) => troubled.get(name) as Receiver, names: [...troubled.keys()] }
}

/** The time of all that waits, ten minutes on: what is due by the schedule then is due now. */
function tenMinutesLater({ database }: Stand) {
  return database?.query(`update webhook_deliveries set due_at = due_at - interval '10 minutes'
    where state = 'pending' and not leased`)
}

async function runWebhooksCommand(
  stand: Stand,
  env: Record<string, string>,
  ...args: string[]
): Promise<void> {
  await promisify(execFile)(process.execPath, [join(PROGRAM_ROOT, 'workers/webhooks/main.ts'), ...args], {
    env: {
      PATH: process.env['PATH'] ?? '',
      ...stand.redis.env,
      ...env,
      DATABASE_URL: stand.database?.url ?? '',
    },
  })
}

/** How long after the answer to their login users were told of, in milliseconds. */
function delaysOf({ ledger, app }: Stand, received: readonly ReceivedWebhook[]): number[] {
  const arrivedMs = new Map(received.toReversed().map(({ event, atMs }) => [event.data['sub'], atMs]))
  return ledger.find({ kind: 'login', status: 200 }).flatMap(({ openid = '', atMs, ms }) => {
    const at = arrivedMs.get(subjectOf(app.appid, openid))
    return at === undefined ? [] : [Math.max(0, at - atMs - ms)]
  })
}

async function countOf({ database }: Stand, where: string): Promise<number> {
  const rows = await database?.query<{ count: number }>(
    `select count(*)::int as count from webhook_deliveries where ${where}`,
  )
  return rows?.[0]?.count ?? NaN
}

/** Undelivered to these. */
const ofEither = (...names: string[]) =>
  `state <> 'delivered' and endpoint in (${names.map((name) => `'${name}'`).join(', ')})`

async function runTrouble(bench: Bench): Promise<void> {
  let isWell = false
  const troubled = await openTroubled(bench, () => isWell)
  const webhooks = await startWebhooks(
    bench,
    troubled.names.map((name) => ({ name, receiver: troubled.of(name), concurrency: CONCURRENCY })),
  )
  const stand = await startStand(bench, { gateways: 1, workers: 2, webhooks })
  const load = await stand.load({ loginsPerSecond: LOGINS_PER_SECOND })
  await pause(TROUBLE_MS) // as long as two attempts of what hangs: the trouble's length is what is tested
  await load.stop()
  await drained(stand, 60_000)
  const soundMs = await eventsDelivered(stand, 60_000)

  const delays = delaysOf(stand, webhooks.receiver.received)
  bench.figure('told to the one that is well, p50', quantile(delays, 0.5), { unit: 'ms' })
  bench.figure('p99', quantile(delays, 0.99), { unit: 'ms', max: SOUND_MS_MAX })
  bench.figure('its last event after the load', soundMs, { unit: 'ms', max: SOUND_MS_MAX })
  bench.figure('connections to where it was redirected', troubled.trap.received.length, { is: 0 })
  bench.figure('attempts at the one that hangs, at most', troubled.of('hanging').received.length, {
    min: 2 * CONCURRENCY,
    // Each of both workers has so many at a time, each for 15 s.
    max: 2 * CONCURRENCY * Math.ceil((TROUBLE_MS + soundMs + 20_000) / 15_000),
  })
  bench.figure('attempts at the one that is gone', troubled.of('gone').received.length, {
    max: 2 * CONCURRENCY,
  })
  const disabled = await stand.worker().metric('webhook_endpoint_disabled', { endpoint: 'gone' })
  bench.figure('endpoints that are disabled', disabled, { is: 1 })
  const busyTurns = (TROUBLE_MS + soundMs + 20_000) / 1_000 / RETRY_AFTER_SECONDS
  bench.figure('attempts at the one that wants 4 s between', troubled.of('busy').received.length, {
    min: 2,
    max: Math.ceil(2 * CONCURRENCY * busyTurns),
  })
  const large = () => countOf(stand, ofEither('large'))
  // It takes longer than the sound one, and has its own slots.
  await until('it to have all', async () => (await large()) === 0, SOUND_MS_MAX).catch(() => {})
  bench.figure('undelivered to the one that answers with 10 MB', await large(), { is: 0 })
  const misled = troubled.of('untrusted').received.length
  bench.figure('told to one whose certificate nobody vouches for', misled, { is: 0 })
  const tls = await countOf(stand, "endpoint = 'untrusted' and last_result = 'tls'")
  bench.figure('refused for its certificate', tls, { min: LOGINS_PER_SECOND })
  const rss = Math.max(...stand.workers.map((worker) => worker.rssBytes())) / 1e6
  bench.figure('resident memory of a worker, at most', rss, { unit: 'MB', max: RSS_MB_MAX })
  bench.figure('dead', await countOf(stand, "state = 'dead'"), { is: 0 })

  isWell = true
  await troubled.of('down').reopen()
  await runWebhooksCommand(stand, webhooks.env, 'enable', 'gone')
  const events = await countOf(stand, "endpoint = 'sound'")
  const mended = ['down', 'failing', 'busy', 'hanging', 'redirecting', 'gone', 'slow']
  const wellMs = performance.now()
  await until(
    'the mended ones to have all',
    async () => {
      await tenMinutesLater(stand)
      await pause(2_000) // for the workers to look what is due
      return (await countOf(stand, ofEither(...mended))) === 0
    },
    120_000,
  ).catch(() => {})
  bench.figure('told to those that are well again after', (performance.now() - wellMs) / 1_000, { unit: 's' })
  for (const name of mended) {
    const { received } = troubled.of(name)
    const ids = new Set(received.filter(({ verified }) => verified).map(({ id }) => id))
    bench.figure(`events that ${name} has not got`, events - ids.size, { is: 0 })
  }
  // At once and after 5 s; the third is due after five minutes, and found it there again after ten.
  const third = await countOf(stand, "endpoint = 'down' and attempts = 3")
  bench.figure('events that the one that was down got at the third attempt', third, { min: events / 2 })
  const more = await countOf(stand, "endpoint = 'down' and attempts > 3")
  bench.figure('and at a later one', more, { is: 0 })
  await checkInvariants(bench, stand)
}

/** The new secret in front of the old one, then the receiver changes, then the old one goes; the workers one by one. */
async function runRotation(bench: Bench): Promise<void> {
  const webhooks = await startWebhooks(bench)
  const { receiver } = webhooks
  const stand = await startStand(bench, { gateways: 1, workers: 2, webhooks })
  const load = await stand.load({ loginsPerSecond: LOGINS_PER_SECOND })
  const [former, next] = [receiver.secret, newWebhookSecret()]
  const roll = async (secrets: string[]) => {
    const env = settingsFor(bench, [{ receiver, name: 'sound', secrets }])
    for (const worker of stand.workers) {
      await worker.end('SIGTERM')
      await worker.start({ env })
      await pause(3_000) // some events by each of both
    }
  }
  await pause(3_000)
  await roll([next, former])
  const bothMs = performance.now()
  await pause(3_000)
  receiver.setSecret(next)
  await pause(3_000)
  const overlap = receiver.received.filter(({ atMs }) => atMs > bothMs)
  await roll([next])
  await load.stop()
  await drained(stand, 60_000)
  const signatures = overlap.map(({ headers }) => String(headers['webhook-signature']).split(' ').length)
  bench.figure('events in the overlap', overlap.length, { min: 2 * LOGINS_PER_SECOND })
  bench.figure('of them without two signatures', signatures.filter((count) => count !== 2).length, { is: 0 })
  await checkInvariants(bench, stand)
  const last = receiver.received.at(-1)
  bench.figure('signatures of the last event', String(last?.headers['webhook-signature']).split(' ').length, {
    is: 1,
  })
}

export const workerWebhookRows: readonly Row[] = [
  {
    id: 'W7',
    title:
      'receivers that are down, answer 500, 429, 301, 410, hang, drip, send 10 MB, or have a wrong certificate',
    pass: 'the one that is well notices nothing; schedule, Retry-After, 15 s and 410 are kept; all is told when they are well',
    long: true,
    run: runTrouble,
  },
  {
    id: 'W8',
    title: 'the secret of a receiver is changed under load, the workers restarted one by one',
    pass: 'two signatures in the overlap; every event verifies, none is lost',
    long: true,
    run: runRotation,
  },
]
