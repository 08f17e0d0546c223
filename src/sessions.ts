/**
 * Sessions: open, find, list, revoke. One Redis hash a user holds everything that is known of them while
 * they are logged in (its fields are listed in src/lua/open-session.lua). To validate is one HMGET, to end
 * all of a user's sessions one DEL, and both work while Redis is full.
 *
 * session_key enters here, is sealed, and is never handed out.
 */
import { GatewayError } from './errors.ts'
import type { Grant, LoginAttempt, OpenedSession, WechatIdentity } from './login.ts'
import { loadScript, stored } from './redis.ts'
import type { Keys, RedisClient, StoreClock } from './redis.ts'
import type { Seal } from './seal.ts'
import { subjectOf } from './subject.ts'
import type { PresentedToken, Tokens } from './tokens.ts'
import { expandUserId } from './user-id.ts'

/** A user who is not provisioned this long after having been queued is queued again. */
const PROVISIONING_OVERDUE_SECONDS = 60

const openScript = loadScript('open-session')
const revokeScript = loadScript('revoke-session')

/** A valid session, as the bearer or a backend may see it. */
export interface Session {
  sub: string
  appid: string
  openid: string
  unionid: string | undefined
  issuedAtSeconds: number
  expiresInSeconds: number
  device: string
  /** The worker's id of the user; undefined until it has provisioned them. */
  userId: string | undefined
}

export interface ListedSession {
  id: string
  issuedAtSeconds: number
  expiresInSeconds: number
  device: string
  current: boolean
}

export interface SessionsDeps {
  redis: RedisClient
  keys: Keys
  clock: StoreClock
  seal: Seal
  tokens: Tokens
  observer: SessionsObserver
}

/** A user whose provisioning the worker should have acknowledged by now. */
export interface Unprovisioned {
  sub: string
  appid: string
  openid: string
  unionid: string | undefined
}

export interface SessionsObserver {
  onOpen(): void
  onFind(outcome: 'valid' | 'invalid'): void
  onRevoke(scope: 'one' | 'all'): void
  onUnprovisioned(user: Unprovisioned): void
}

export interface SessionsSettings {
  ttlSeconds: number
  perUserMax: number
  loginPerUser: number
  provisionRefreshSeconds: number
}

export function createSessions(
  { redis, keys, clock, seal, tokens, observer }: SessionsDeps,
  settings: SessionsSettings,
) {
  return { settlement, open, resume, find, list, revoke, revokeAll }

  function settlement({ appid, openid }: WechatIdentity): string {
    return `${tokens.makingKid} ${subjectOf(appid, openid)}`
  }

  /** @throws {GatewayError} user_rate_limited, store_unavailable */
  async function open(
    attempt: LoginAttempt,
    identity: WechatIdentity,
    startedAtMs: number,
  ): Promise<OpenedSession> {
    const { appid, openid, sessionKey } = identity
    const sub = subjectOf(appid, openid)
    const { token, field } = tokens.make(sub, attempt)
    const answer = await stored(
      openScript(
        redis,
        [keys.user(sub), keys.userLimit(sub)],
        [
          appid,
          openid,
          identity.unionid ?? '',
          seal.seal(sessionKey, { appid, sub }),
          tokens.fingerprint(sessionKey),
          startedAtMs.toString(36),
          field,
          DEVICE_LETTERS[attempt.device] ?? 'o',
          settings.ttlSeconds,
          settings.perUserMax,
          settings.provisionRefreshSeconds,
          settings.loginPerUser,
        ],
      ),
    )
    if (isLimited(answer))
      throw new GatewayError('user_rate_limited', { retryAfterSeconds: Math.ceil(answer[1] / 1000) })
    const [, due, userId, knownUnionid] = answer as Opened
    observer.onOpen()
    const grant: Grant = {
      token,
      sub,
      appid,
      openid,
      // WeChat leaves the unionid out of some answers for a user whose unionid is known.
      unionid: knownUnionid === '' ? undefined : knownUnionid,
      expiresInSeconds: settings.ttlSeconds,
      provisioned: userId !== '',
    }
    return { grant, provisioningDue: due === 1, seenAtMs: clock.nowMs() }
  }

  async function resume(attempt: LoginAttempt, settled: string): Promise<OpenedSession | undefined> {
    const [kid = '', sub = ''] = settled.split(' ')
    const derived = tokens.remake(sub, attempt, kid)
    if (derived === undefined) return undefined // made with a key that has been retired since
    const found = await read(sub, [derived.field])
    if (found === undefined) return undefined
    const { session, provisioning } = found
    const { appid, openid, unionid, expiresInSeconds, userId } = session
    const grant: Grant = {
      token: derived.token,
      sub,
      appid,
      openid,
      unionid,
      expiresInSeconds,
      provisioned: userId !== undefined,
    }
    return { grant, provisioningDue: provisioning.state !== 'acknowledged', seenAtMs: clock.nowMs() }
  }

  /**
   * The session of a token; undefined when there is none, for whatever reason.
   * @throws {GatewayError} store_unavailable, which must not be mistaken for "none"
   */
  async function find(token: string): Promise<Session | undefined> {
    const presented = tokens.read(token)
    const found = presented && (await read(presented.sub, presented.fields))
    observer.onFind(found ? 'valid' : 'invalid')
    if (found === undefined) return undefined
    const { session, provisioning } = found
    if (provisioning.state !== 'acknowledged' && provisioning.ageSeconds > PROVISIONING_OVERDUE_SECONDS) {
      observer.onUnprovisioned(session)
    }
    return session
  }

  /** The sessions of the bearer, newest first; undefined when the token has none itself. */
  async function list(token: string): Promise<ListedSession[] | undefined> {
    const presented = tokens.read(token)
    if (presented === undefined) return undefined
    const user = await stored(redis.hgetall(keys.user(presented.sub)))
    const nowSeconds = clock.nowMs() / 1000
    const sessions = Object.entries(user)
      .filter(([name]) => name.includes(':'))
      .map(([name, value]) => ({ name, ...parseSession(value, nowSeconds) }))
      .filter((session) => session.expiresInSeconds > 0)
      .toSorted((a, b) => b.issuedAtSeconds - a.issuedAtSeconds)
      .map(({ name, ...session }) => ({
        id: name.slice(name.lastIndexOf(':') + 1),
        ...session,
        current: presented.fields.includes(name),
      }))
    return sessions.some((session) => session.current) ? sessions : undefined
  }

  /** Ends the session of a token. False when there was none. */
  async function revoke(token: string): Promise<boolean> {
    const presented = tokens.read(token)
    if (presented === undefined) return false
    const revoked = await stored(revokeScript(redis, [keys.user(presented.sub)], presented.fields))
    if (revoked !== 1) return false
    observer.onRevoke('one')
    return true
  }

  /** Ends all sessions of the bearer, and forgets the session_key. False when the token has none itself. */
  async function revokeAll(token: string): Promise<boolean> {
    const presented = tokens.read(token)
    if (presented === undefined || (await read(presented.sub, presented.fields)) === undefined) return false
    await stored(redis.del(keys.user(presented.sub)))
    observer.onRevoke('all')
    return true
  }

  async function read(sub: string, fields: PresentedToken['fields']) {
    const values = await stored(redis.hmget(keys.user(sub), 'a', 'o', 'u', 'i', 'g', ...fields))
    const [appid, openid, unionid, userId, provisioned, ...entries] = values
    const entry = entries.find((value) => value !== null)
    if (entry === undefined || entry === null || !appid || !openid) return undefined
    const nowSeconds = clock.nowMs() / 1000
    const times = parseSession(entry, nowSeconds)
    if (times.expiresInSeconds <= 0) return undefined
    const session: Session = {
      sub,
      appid,
      openid,
      unionid: unionid ?? undefined,
      userId: userId ? expandUserId(userId) : undefined,
      ...times,
    }
    return { session, provisioning: parseProvisioning(provisioned ?? '', nowSeconds) }
  }
}

export type Sessions = ReturnType<typeof createSessions>

/** The two answers of open-session.lua. */
type Opened = [state: 'OPENED', due: number, userId: string, unionid: string]
type Limited = [state: 'LIMITED', untilMs: number]

function isLimited(answer: unknown): answer is Limited {
  return Array.isArray(answer) && answer[0] === 'LIMITED'
}

/** The letter that stands for a device in a session's value; words that are not listed become `other`. */
const DEVICE_LETTERS: Readonly<Record<string, string>> = {
  ios: 'i',
  android: 'a',
  harmony: 'h',
  devtools: 'd',
  mac: 'm',
  windows: 'w',
  other: 'o',
}
const DEVICES = new Map(Object.entries(DEVICE_LETTERS).map(([device, letter]) => [letter, device]))

/** "<issued unix s>.<life s>.<device>", the numbers hexadecimal. */
function parseSession(value: string, nowSeconds: number) {
  const [issued = '', life = '', letter = ''] = value.split('.')
  const issuedAtSeconds = Number.parseInt(issued, 16)
  const expiresInSeconds = Math.ceil(issuedAtSeconds + Number.parseInt(life, 16) - nowSeconds)
  return { issuedAtSeconds, expiresInSeconds, device: DEVICES.get(letter) ?? 'other' }
}

/** "e<unix s>" queued, "a<unix s>" acknowledged, the number hexadecimal. */
function parseProvisioning(value: string, nowSeconds: number) {
  return {
    state: value.startsWith('a') ? ('acknowledged' as const) : ('queued' as const),
    ageSeconds: nowSeconds - Number.parseInt(value.slice(1), 16),
  }
}
