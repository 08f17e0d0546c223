/** W12: persons with several apps, whose unionids come late, while workers are killed: each ends up as one user. */
import { setTimeout as pause } from 'node:timers/promises'
import { subjectOf } from '../../../src/subject.ts'
import { createRandom, HEX } from '../../simulator/random.ts'
import type { Random } from '../../simulator/random.ts'
import { checkInvariants } from '../invariants.ts'
import { drained, jobsIn, slowDown, timesWritten } from '../provisioning.ts'
import type { Bench, Row } from '../row.ts'
import { startStand } from '../stand.ts'
import type { Stand } from '../stand.ts'
import { addApps } from '../upstream-run.ts'
import { newWechatApp, startWechat } from '../wechat.ts'
import { eventsDelivered } from '../webhook-ledger.ts'
import { startWebhooks } from '../webhooks.ts'

const PERSONS = 1_000
const APPS = 3
const KILLS = 5
const LANES = 16
const TRIES_MAX = 8
const DELIVERED_MS_MAX = 120_000
/** A batch of them is then met in the middle. */
const IDENTITY_SECONDS = 0.005
/** Of the identities that are told of with their unionid from the first login on. */
const KNOWN_AT_ONCE = 1 / 3

interface Login {
  appid: string
  openid: string
  /** null: WeChat does not tell it this time. */
  unionid: string | null
}

/** Each identity logs in without its unionid and later with it, or with it alone; all mixed. */
function planLogins(random: Random, appids: readonly string[]): Login[] {
  const planned = Array.from({ length: PERSONS }, () => {
    const unionid = `u${random.text(HEX, 27)}`
    return appids.map((appid) => {
      const openid = `o${random.text(HEX, 27)}`
      const [first = 0, later = 0] = [random.fraction(), random.fraction()].toSorted((a, b) => a - b)
      const known = { appid, openid, unionid, turn: later }
      return random.fraction() < KNOWN_AT_ONCE ? [known] : [{ ...known, unionid: null, turn: first }, known]
    })
  })
  return planned.flat(2).toSorted((a, b) => a.turn - b.turn)
}

async function issueCode({ wechat }: Stand, whose: Login): Promise<string> {
  const { codes } = (await wechat.control('POST', '/codes', whose)) as { codes: [{ code: string }] }
  return codes[0].code
}

/** One for a code, however often that is sent. */
const nonceOf = (code: string) => code.slice(0, 32)

/** Until it has succeeded, as the README's client does. */
async function logIn(stand: Stand, target: string, whose: Login): Promise<void> {
  const { appid, openid, unionid } = whose
  for (let tries = 1, retry: string | undefined = 'new_code', code = ''; tries <= TRIES_MAX; tries += 1) {
    if (retry === 'new_code') code = await issueCode(stand, { appid, openid, unionid })
    const answer = await stand.client.login({ target, appid, openid, code, nonce: nonceOf(code) })
    if (answer.status === 200) return
    retry = answer.retry
    await pause(1_000 * (answer.retryAfterSeconds ?? 1))
  }
}

/**
 * All at a time that the lanes allow, but those of one identity one after the other: the simulator tells the unionid
 * that the last code was issued with, so that the later login could else be told that of the first, which is none.
 */
async function logInAll(bench: Bench, stand: Stand, logins: readonly Login[]): Promise<void> {
  let next = 0
  const turns = new Map<string, Promise<void>>()
  const lane = async () => {
    for (let at = next++; at < logins.length; at = next++) {
      const whose = logins[at] as Login
      const target = stand.gateway(at % stand.gateways.length).url
      const turn = (turns.get(whose.openid) ?? Promise.resolve()).then(() => logIn(stand, target, whose))
      turns.set(whose.openid, turn)
      await turn
    }
  }
  const lanes = Promise.all(Array.from({ length: LANES }, lane))
  for (let kill = 0; kill < KILLS; kill += 1) {
    while (next < ((kill + 1) * logins.length) / (KILLS + 1) || (await jobsIn(stand, 'active')) === 0)
      await pause(5)
    const worker = stand.worker(kill % stand.workers.length)
    await worker.end('SIGKILL')
    bench.say(`  killed ${worker.name} after ${next} of ${logins.length} logins`)
    await worker.start()
  }
  await lanes
}

async function figureUsers(bench: Bench, { database }: Stand): Promise<void> {
  const [counts] =
    (await database?.query<Record<string, number>>(`select
      (select count(*)::int from users where merged_into is null) as living,
      (select count(*)::int from identities) as identities,
      (select count(*)::int from (
        select user_id from identities group by user_id
        having count(*) = ${APPS} and count(distinct unionid) = 1 and count(unionid) = ${APPS}
      ) as whole) as whole`)) ?? []
  bench.figure('users', counts?.['living'] ?? NaN, { is: PERSONS })
  bench.figure('identities', counts?.['identities'] ?? NaN, { is: PERSONS * APPS })
  bench.figure('users with all their identities and one unionid', counts?.['whole'] ?? NaN, { is: PERSONS })
}

/** Whoever has heard the events, in whatever order, knows what the database does. */
async function figureEvents(bench: Bench, { webhooks, database }: Stand): Promise<void> {
  const events = new Map(webhooks?.receiver.received.map(({ id, event }) => [id, event]))
  const dataOf = (...types: string[]) =>
    [...events.values()].filter(({ type }) => types.includes(type)).map(({ data }) => data)
  const [created, linked, merged] = [dataOf('user.created'), dataOf('user.linked'), dataOf('user.merged')]
  bench.figure('created and not merged', created.length - merged.length, { is: PERSONS })
  bench.figure('created or linked', created.length + linked.length, { is: PERSONS * APPS })
  bench.figure('merged', merged.length, { min: PERSONS / 2 })
  const survivors = new Map(merged.map((data) => [data['merged_user_id'], data['user_id']]))
  const livingOf = (id: unknown): unknown => (survivors.has(id) ? livingOf(survivors.get(id)) : id)
  const heard = new Map([...created, ...linked].map((data) => [data['sub'], livingOf(data['user_id'])]))
  const rows =
    (await database?.query<{ appid: string; openid: string; user_id: string }>(
      'select appid, openid, user_id from identities',
    )) ?? []
  const other = rows.filter(({ appid, openid, user_id: id }) => heard.get(subjectOf(appid, openid)) !== id)
  bench.figure('identities whose user is another one by the events', other.length, { is: 0 })
}

export const workerLinkedRows: readonly Row[] = [
  {
    id: 'W12',
    title: `${PERSONS} persons with ${APPS} apps each, unionids late and mixed, workers killed ${KILLS} times`,
    pass: `exactly ${PERSONS} users, all linked; every event delivered, verified, with one id, and true`,
    long: true,
    async run(bench) {
      const wechat = await startWechat(bench, { apps: Array.from({ length: APPS }, newWechatApp) })
      const webhooks = await startWebhooks(bench)
      const stand = await startStand(bench, { gateways: 2, workers: 2, wechat, webhooks })
      await addApps(stand, wechat.apps.slice(1))
      if (stand.database) await slowDown(stand.database, IDENTITY_SECONDS)
      const seed = Date.now().toString(36)
      bench.say(`  seed ${seed}`)
      const logins = planLogins(
        createRandom(seed, 'W12'),
        wechat.apps.map(({ appid }) => appid),
      )
      await logInAll(bench, stand, logins)
      bench.figure('logins answered 200', stand.ledger.count({ kind: 'login', status: 200 }), {
        is: logins.length,
      })
      bench.figure('drained', (await drained(stand, 120_000)) / 1_000, { unit: 's', max: 120 })
      const takenOver = timesWritten(stand.workers, '"job taken over from a worker that went silent"')
      bench.figure('jobs that lost their worker', takenOver, { min: KILLS })
      bench.figure('dead jobs', await jobsIn(stand, 'failed'), { is: 0 })
      await figureUsers(bench, stand)
      await eventsDelivered(stand, DELIVERED_MS_MAX)
      await figureEvents(bench, stand)
      await checkInvariants(bench, stand)
    },
  },
]
