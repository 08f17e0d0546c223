/** The scripts of one user's sessions, with the arguments that a test does not care about filled in. */
import type { Redis } from 'ioredis'
import type { ScriptArgument } from '../../src/redis/scripts.ts'
import { packExchange, packUserId, readMarks } from '../../src/user-marks.ts'
import { createScripts } from './scripts.ts'
import { sessionValue } from './session-values.ts'

/** How long a session lives unused, and how long at most. */
export const IDLE_SECONDS = 1_000
export const LIFE_SECONDS_MAX = 5_000
/** After this a user whom the worker has acknowledged is provisioned again. */
export const REFRESH_SECONDS = 3_600

export interface UserKeys {
  user: string
  limit: string
  block: string
}

export interface OpenedSession {
  field: string
  unionid?: string
  sealed?: string | Buffer
  /** 4 characters of base64url. */
  fingerprint?: string
  startedAtMs?: number
  idleSeconds?: number
  lifeSecondsMax?: number
  sessionsMax?: number
  loginsMax?: number
  /** Fields of the session that the client held before. */
  replaces?: string[]
}

let exchangeCount = 0

/** ARGV of open-session. Keys and times are made up in the order of the calls. */
export function openSessionArgs(channel: string, { field, ...own }: OpenedSession): ScriptArgument[] {
  exchangeCount += 1
  const startedAtMs = own.startedAtMs ?? 1_700_000_000_000 + exchangeCount
  const fingerprint = own.fingerprint ?? exchangeCount.toString().padStart(4, 'f')
  return [
    'wx0123456789abcdef',
    'o-alice',
    own.unionid ?? '',
    own.sealed ?? `sealed ${exchangeCount}`,
    packExchange(startedAtMs, fingerprint),
    fingerprint,
    field,
    'I',
    own.idleSeconds ?? IDLE_SECONDS,
    own.sessionsMax ?? 10,
    REFRESH_SECONDS,
    own.loginsMax ?? 1_000,
    own.lifeSecondsMax ?? LIFE_SECONDS_MAX,
    channel,
    ...(own.replaces ?? []),
  ]
}

/** @param keysNow the keys of the user that the present test is about */
export function createUserScripts(redis: Redis, channel: string, keysNow: () => UserKeys) {
  const { run, unreached } = createScripts(redis)
  const bounds = [IDLE_SECONDS, LIFE_SECONDS_MAX]
  const nowSeconds = async () => Number((await redis.time())[0])

  return {
    unreached,
    nowSeconds,

    open(session: OpenedSession) {
      const { user, limit, block } = keysNow()
      return run('open-session', [user, limit, block], openSessionArgs(channel, session))
    },
    revoke: (...fields: string[]) => run('revoke-session', [keysNow().user], [...bounds, channel, ...fields]),
    revokeAllBut: (...kept: string[]) =>
      run('revoke-sessions', [keysNow().user], [...bounds, channel, ...kept]),
    renew: (field: string, stepSeconds: number) =>
      run('renew-session', [keysNow().user], [field, ...bounds, stepSeconds]),
    block(seconds: number, note = 'why') {
      const { user, block } = keysNow()
      return run('block-user', [user, block], [note, seconds, channel])
    },
    erase() {
      const { user, limit } = keysNow()
      return run('erase-user', [user, limit], [channel])
    },
    acknowledge: (userId: string, unionid = '') =>
      run('acknowledge-provisioned', [keysNow().user], [packUserId(userId), unionid]),
    marks: async () => readMarks(await redis.hgetBuffer(keysNow().user, 'm')),

    /** Puts a session into the hash as if it had been opened and used so long ago. */
    async putSession(field: string, ago: { issued: number; used: number }): Promise<void> {
      const issued = (await nowSeconds()) - ago.issued
      const used = ago.issued - ago.used
      await redis.hset(keysNow().user, field, sessionValue({ issued, used, letter: 'I' }))
    },
    sessionFields: async () =>
      (await redis.hkeys(keysNow().user)).filter((name) => name.includes(':')).toSorted(),
  }
}

/** Collects who was announced on the channel, until `close`. */
export async function listenForEnded(redis: Redis, channel: string) {
  const subscriber = redis.duplicate()
  const heard: string[] = []
  subscriber.on('message', (_channel: string, sub: string) => heard.push(sub))
  await subscriber.subscribe(channel)
  return {
    /** All that was announced up to now: what is published later comes behind it. */
    async heard(): Promise<string[]> {
      const mark = `mark ${heard.length}`
      const arrived = new Promise<void>((resolve) => {
        const onMessage = (_channel: string, message: string) => {
          if (message !== mark) return
          subscriber.off('message', onMessage)
          resolve()
        }
        subscriber.on('message', onMessage)
      })
      await redis.publish(channel, mark)
      await arrived
      return heard.filter((message) => !message.startsWith('mark '))
    },
    close: () => subscriber.disconnect(),
  }
}
