/** Scenes that are more than requests by turns: duplicates, a WeChat that is slow or away, growth. */
import { writeFileSync } from 'node:fs'
import { newSecrets } from '../faults/stand.ts'
import { newWechatApp } from '../faults/wechat.ts'
import type { Contender, ContenderName } from './contenders.ts'
import { startContender, startPinnedRedis } from './contenders.ts'
import { measure } from './measure.ts'
import type { Sample } from './measure.ts'
import { scratchFile } from './processes.ts'
import { fillWithUsers } from './sleeping-users.ts'
import { onStage } from './stage.ts'
import type { Stage } from './stage.ts'
import { once, requestsOf, spreadOf, takeTurns } from './turns.ts'
import type { Figures, Player, Turns } from './turns.ts'
import { knownUsers, newCodes, TIMEOUT_MS } from './users.ts'

export interface Play {
  question: string
  run(turns: Turns): Promise<Record<string, Figures>>
}

export const PLAYS = {
  storm: {
    question: 'What becomes of five copies of each code at once, over two gateways?',
    run: async ({ rounds }) => {
      const found: Record<string, Figures> = {}
      for (const name of ['gateway', 'day', 'easywechat'] as const) {
        found[name] = await onStage((stage) => storm(stage, name, rounds))
      }
      return found
    },
  },
  'wechat-slow': {
    question: 'What does a login cost while WeChat takes 100 ms, and how long does it take?',
    run: () => onStage(slow),
  },
  'wechat-down': {
    question: 'How fast are logins refused at 5,000 a second while WeChat is away?',
    run: () => onStage(down),
  },
  growth: {
    question: 'Does a login cost more with a million users, 500 apps or three gateways?',
    run: (turns) => onStage((stage) => growth(stage, turns), Array.from({ length: APPS }, newWechatApp)),
  },
} as const satisfies Record<string, Play>

export type PlayName = keyof typeof PLAYS

const COPIES = 5
const STORM_CODES = 500
const STORM_CONNECTIONS = 100

async function storm(stage: Stage, name: ContenderName, rounds: number): Promise<Figures> {
  const { wechat, load, closing } = stage
  const redisUrl = await startPinnedRedis(closing)
  const env = newSecrets() // the keys that gateways on one Redis have in common
  const [one, other] = await Promise.all([1, 2].map(() => startContender(name, { ...stage, redisUrl, env })))
  if (one === undefined || other === undefined) throw new Error('there are two')
  const targets = [one, other].flatMap((contender) => contender.login().targets)
  const right: number[] = []
  const exchanges: number[] = []
  for (let round = 0; round < rounds; round += 1) {
    const codes = await newCodes(wechat, STORM_CODES)
    const before = (await wechat.summary()).requests
    const values = codes.flatMap((code) => Array.from({ length: COPIES }, () => code))
    const result = await load.run(
      { ...one.login(), targets, values, connections: STORM_CONNECTIONS, timeoutMs: TIMEOUT_MS },
      { tolerated: true },
    )
    right.push((100 * (result.requests - result.wrong)) / values.length)
    exchanges.push(((await wechat.summary()).requests - before) / codes.length)
  }
  return { rightPercent: spreadOf(right), exchangesPerCode: spreadOf(exchanges) }
}

const SLOW_MS = 100
/** Of 64 exchanges at a time, which take 100 ms, there can be 640 a second. */
const SLOW_RATE = 400
const SLOW_SECONDS = 10
/** Enough for all that are under way, and for what a stall holds up. */
const PACED_CONNECTIONS = 256

async function slow(stage: Stage): Promise<Record<string, Figures>> {
  const { wechat, load } = stage
  const found: Record<string, Figures> = {}
  for (const name of ['upstream-only', 'gateway'] as const) {
    const contender = await startContender(name, stage)
    await load.run({
      ...contender.login(),
      values: await newCodes(wechat, WARM_UP),
      connections: 32,
      timeoutMs: TIMEOUT_MS,
    })
    const remove = await wechat.fault({ kind: 'delay', ms: SLOW_MS })
    found[name] = await paced(stage, contender, { ratePerSecond: SLOW_RATE, seconds: SLOW_SECONDS })
    await remove()
  }
  return found
}

const WARM_UP = 8_000
const DOWN_RATE = 5_000
const DOWN_SECONDS = 10
const DOWN_WARM_UP = 20_000

async function down(stage: Stage): Promise<Record<string, Figures>> {
  const { wechat, load } = stage
  const contender = await startContender('gateway', stage)
  await load.run({
    ...contender.login(),
    values: await newCodes(wechat, WARM_UP),
    connections: 32,
    timeoutMs: TIMEOUT_MS,
  })
  const remove = await wechat.fault({ kind: 'reset', when: 'accept' })
  const refused = await wechat.fault({ kind: 'reset', when: 'before' })
  const closed = { ...contender.login(), contains: undefined, status: 503 }
  await load.run(
    { ...closed, values: unknownCodes(DOWN_WARM_UP), connections: 32, timeoutMs: TIMEOUT_MS },
    { tolerated: true },
  )
  const sample = await measure(load, contender, {
    ...closed,
    values: unknownCodes(DOWN_RATE * DOWN_SECONDS),
    ratePerSecond: DOWN_RATE,
    connections: PACED_CONNECTIONS,
    timeoutMs: TIMEOUT_MS,
  })
  await Promise.all([remove(), refused()])
  return { gateway: figuresOf(sample) }
}

function unknownCodes(count: number): string[] {
  const run = Math.random().toString(36).slice(2, 10).padEnd(8, '0')
  return Array.from({ length: count }, (_, at) => `${run}${String(at).padStart(24, '0')}`)
}

async function paced(
  { wechat, load }: Stage,
  contender: Contender,
  { ratePerSecond, seconds }: { ratePerSecond: number; seconds: number },
): Promise<Figures> {
  const values = await newCodes(wechat, ratePerSecond * seconds)
  const batch = {
    ...contender.login(),
    values,
    ratePerSecond,
    connections: PACED_CONNECTIONS,
    timeoutMs: TIMEOUT_MS,
  }
  return figuresOf(await measure(load, contender, batch))
}

function figuresOf({ latencyMs, ...sample }: Sample): Figures {
  const own = Object.entries(sample).map(([name, value]) => [name, once(value)] as const)
  const times = Object.entries(latencyMs).map(([name, ms]) => [`${name}Ms`, once(ms)] as const)
  return Object.fromEntries([...own, ...times])
}

const APPS = 500
const FEW_USERS = 1_000
const MANY_USERS = 1_000_000
const LOGINS_EACH = 4

/** Returning logins by turns: of gateways that differ in one thing. */
async function growth(stage: Stage, turns: Turns): Promise<Record<string, Figures>> {
  const { apps } = stage.wechat
  const appsFile = scratchFile('apps.json')
  writeFileSync(appsFile, JSON.stringify(apps))

  const player = async (
    label: string,
    { sleeping, gateways = 1, appids }: { sleeping: number; gateways?: number; appids?: string[] },
  ): Promise<Player & { bytesPerUser: number }> => {
    const redisUrl = await startPinnedRedis(stage.closing)
    const many = { WECHAT_APPID: '', WECHAT_SECRET: '', WECHAT_APPS_FILE: appsFile }
    const env = { ...newSecrets(), ...(appids === undefined ? {} : many) }
    const starting = Array.from({ length: gateways }, () =>
      startContender('gateway', { ...stage, redisUrl, env }),
    )
    const contenders = await Promise.all(starting)
    const [contender] = contenders
    if (contender === undefined) throw new Error('there is one gateway at least')
    const known = await knownUsers(stage, contender, {
      users: Math.ceil(requestsOf(turns, gateways) / LOGINS_EACH),
      loginsEach: LOGINS_EACH,
      ...(appids && { appids }),
    })
    const bytesPerUser = await fillWithUsers(redisUrl, sleeping)
    const targets = contenders.flatMap((one) => one.login().targets)
    return {
      label,
      bytesPerUser,
      processes: gateways,
      contender: { ...contender, pids: () => contenders.flatMap((one) => one.pids()), probe: undefined },
      take: (count) => ({ ...known.asking, targets, values: known.codes.splice(0, count) }),
    }
  }
  const players = [
    await player('1,000 users', { sleeping: FEW_USERS }),
    await player('500 apps', { sleeping: FEW_USERS, appids: apps.map(({ appid }) => appid) }),
    await player('3 gateways', { sleeping: FEW_USERS, gateways: 3 }),
    await player('1,000,000 users', { sleeping: MANY_USERS }),
  ]
  const found = await takeTurns(stage.load, players, { ...turns, ratePerSecond: undefined })
  for (const { label, bytesPerUser } of players) {
    if (found[label] !== undefined) found[label]['bytesPerUser'] = once(bytesPerUser)
  }
  return found
}
