/** Users and their codes, as the scenes need them. */
import { loadRedisConfig } from '../../src/config.ts'
import { createAcknowledge } from '../../src/provisioning.ts'
import { connectFailFast, createKeys, waitUntilReady } from '../../src/redis.ts'
import { randomUUIDv7 } from 'node:crypto'
import type { Wechat } from '../faults/wechat.ts'
import type { Contender } from './contenders.ts'
import type { Load } from './load.ts'

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
  { users, each }: { users: number; each: number },
): Promise<string[][]> {
  const generations: string[][] = Array.from({ length: each }, () => [])
  for (let left = users; left > 0; left -= MINTED_AT_ONCE) {
    const some = Math.min(left, MINTED_AT_ONCE)
    const codes = await wechat.codes(some * each, { codesPerUser: each })
    for (const [at, { code }] of codes.entries()) generations[Math.floor(at / some)]?.push(code)
  }
  return generations
}

export interface LoggedIn {
  sub: string
  token: string
  unionid?: string
}

/** Logs them in. */
export async function logIn(load: Load, contender: Contender, codes: readonly string[]): Promise<LoggedIn[]> {
  const { bodies = [] } = await load.run({
    ...contender.login(),
    values: codes,
    connections: CONNECTIONS,
    keepBodies: true,
    timeoutMs: TIMEOUT_MS,
  })
  return bodies.map((body) => JSON.parse(body) as LoggedIn)
}

/** Users who have logged in and whom the worker has acknowledged, with more codes for them, one of every user in turn. */
export async function knownUsers(
  { load, wechat }: { load: Load; wechat: Wechat },
  contender: Contender,
  { users, loginsEach }: { users: number; loginsEach: number },
): Promise<{ users: LoggedIn[]; codes: string[] }> {
  const [first = [], ...later] = await newGenerations(wechat, { users, each: 1 + loginsEach })
  const loggedIn = await logIn(load, contender, first)
  if (contender.redisUrl !== undefined) await acknowledgeAll(contender.redisUrl, loggedIn)
  return { users: loggedIn, codes: later.flat() }
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
