/** Users and their codes, as the scenes need them. */
import { loadRedisConfig } from '../../src/config.ts'
import { createAcknowledge } from '../../src/provisioning.ts'
import { connectFailFast, waitUntilReady } from '../../src/redis/connections.ts'
import { createKeys } from '../../src/redis/keys.ts'
import { randomUUIDv7 } from 'node:crypto'
import type { Wechat } from '../faults/wechat.ts'
import type { Contender } from './contenders.ts'
import type { Load } from './load.ts'
import type { Asking } from './requests.ts'

const MINTED_AT_ONCE = 20_000
export const CONNECTIONS = 32
export const TIMEOUT_MS = 60_000
const ACKNOWLEDGED_AT_ONCE = 500

/** A code each for so many new users. */
export async function newCodes(wechat: Wechat, count: number): Promise<string[]> {
  const [codes = []] = await newGenerations(wechat, { users: count, each: 1 })
  return codes
}

/** `each` codes for so many new users: in each list one of every user. */
async function newGenerations(
  wechat: Wechat,
  { users, each, appid }: { users: number; each: number; appid?: string },
): Promise<string[][]> {
  const generations: string[][] = Array.from({ length: each }, () => [])
  for (let left = users; left > 0; left -= MINTED_AT_ONCE) {
    const some = Math.min(left, MINTED_AT_ONCE)
    const codes = await wechat.codes(some * each, {
      codesPerUser: each,
      ...(appid !== undefined && { appid }),
    })
    for (const [at, { code }] of codes.entries()) generations[Math.floor(at / some)]?.push(code)
  }
  return generations
}

export interface LoggedIn {
  sub: string
  openid: string
  token: string
  unionid?: string
}

/** Logs them in. */
export async function logIn(load: Load, asking: Asking, codes: readonly string[]): Promise<LoggedIn[]> {
  const { bodies = [] } = await load.run({
    ...asking,
    values: codes,
    connections: CONNECTIONS,
    keepBodies: true,
    timeoutMs: TIMEOUT_MS,
  })
  return bodies.map((body) => JSON.parse(body) as LoggedIn)
}

export interface KnownUsers {
  users: LoggedIn[]
  /** More of them, one of every user in turn. */
  codes: string[]
  asking: Asking
}

/** Users who have logged in and whom the worker has acknowledged; of several apps in turn, where they are named. */
export async function knownUsers(
  { load, wechat }: { load: Load; wechat: Wechat },
  contender: Contender,
  { users, loginsEach, appids = [] }: { users: number; loginsEach: number; appids?: readonly string[] },
): Promise<KnownUsers> {
  const each = 1 + loginsEach
  const generations: string[][] = Array.from({ length: each }, () => [])
  if (appids.length === 0) generations.splice(0, each, ...(await newGenerations(wechat, { users, each })))
  for (const appid of appids) {
    const ofApp = await newGenerations(wechat, { users: Math.ceil(users / appids.length), each, appid })
    for (const [at, codes] of ofApp.entries()) {
      generations[at]?.push(...codes.map((code) => `${code}","appid":"${appid}`))
    }
  }
  const [first = [], ...later] = generations
  const asking = contender.login({}, first[0]?.length)
  const loggedIn = await logIn(load, asking, first)
  if (contender.redisUrl !== undefined) await acknowledgeAll(contender.redisUrl, loggedIn)
  return { users: loggedIn, codes: later.flat(), asking }
}

/** As the worker does when it has provisioned them. */
async function acknowledgeAll(redisUrl: string, users: readonly LoggedIn[]): Promise<void> {
  const redis = connectFailFast({ ...loadRedisConfig({ REDIS_URL: redisUrl }), commandTimeoutMs: TIMEOUT_MS })
  await waitUntilReady(redis, TIMEOUT_MS)
  const acknowledge = createAcknowledge(redis, createKeys(''))
  for (let at = 0; at < users.length; at += ACKNOWLEDGED_AT_ONCE) {
    const some = users.slice(at, at + ACKNOWLEDGED_AT_ONCE)
    await Promise.all(some.map(({ sub, unionid }) => acknowledge({ sub, unionid, userId: randomUUIDv7() })))
  }
  redis.disconnect()
}
