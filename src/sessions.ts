/**
 * Sessions: open, find, list, revoke. One Redis hash a user holds everything that is known of them while
 * they are logged in (its fields are listed in src/lua/open-session.lua). To validate is one HMGET, and that
 * and every way of ending sessions works while Redis is full.
 *
 * session_key enters here, is sealed, and is never handed out.
 */
import { GatewayError } from './errors.ts'
import type { Grant, LoginAttempt, OpenedSession, WechatIdentity } from './login.ts'
import { loadScript } from './redis/scripts.ts'
import { stored } from './redis/stored.ts'
import type { StoreClock } from './redis/clock.ts'
import type { RedisClient } from './redis/connections.ts'
import type { Keys } from './redis/keys.ts'
import type { Renewal } from './renewal.ts'
import type { Seal } from './seal.ts'
import type { SessionCache } from './session-cache.ts'
import type { SessionEvents } from './session-events.ts'
import { deviceLetter, parseSession } from './session-value.ts'
import type { SessionLife } from './session-value.ts'
import { subjectOf } from './subject.ts'
import type { PresentedToken, Tokens } from './tokens.ts'
import { packExchange, readMarks } from './user-marks.ts'

/** A user who is not provisioned this long after having been queued is queued again. */
const PROVISIONING_OVERDUE_SECONDS = 60

const openScript = loadScript('open-session')
const revokeScript = loadScript('revoke-session')
const revokeManyScript = loadScript('revoke-sessions')

/** A valid session, as the bearer or a backend may see it. */
export interface Session {
  /** As it is listed; no token. */
  id: string
  sub: string
  appid: string
  openid: string
  unionid: string | undefined
  issuedAtSeconds: number
  /** Where it ends if it is not used again, unix seconds of Redis. */
  endsAtSeconds: number
  expiresInSeconds: number
  device: string
  /** The worker's id of the user; undefined until it has provisioned them. */
  userId: string | undefined
}

/** A session as it is listed; the id ends it, and is no token. */
export interface ListedSession {
  id: string
  issuedAtSeconds: number
  lastUsedAtSeconds: number
  expiresInSeconds: number
  device: string
  current: boolean
}

/** What the gateway knows of a user, without any secret. It forgets users when their last session ends. */
export interface UserView {
  unionid: string | undefined
  userId: string | undefined
  /** Newest first. */
  sessions: ListedSession[]
}

export interface SessionsDeps {
  redis: RedisClient
  keys: Keys
  clock: StoreClock
  seal: Seal
  tokens: Tokens
  renew: Renewal
  /** undefined: every validation asks Redis. */
  cache: SessionCache<Session> | undefined
  /** undefined: nobody wants to hear of log-outs. */
  events: SessionEvents | undefined
  observer: SessionsObserver
}

/** A user whose provisioning the worker should have acknowledged by now. */
export interface Unprovisioned {
  sub: string
  appid: string
  openid: string
  unionid: string | undefined
  /** When their login was seen, unix ms of Redis. */
  seenAtMs: number
}

export interface SessionsObserver {
  onOpen(): void
  onFind(outcome: 'valid' | 'invalid' | 'other_app', cache: 'hit' | 'miss' | 'off'): void
  onRevoke(scope: 'one' | 'all' | 'others'): void
  onUnprovisioned(user: Unprovisioned): void
}

export interface SessionsSettings {
  life: SessionLife
  perUserMax: number
  loginPerUser: number
  provisionRefreshSeconds: number
}

export function createSessions(
  { redis, keys, clock, seal, tokens, renew, cache, events, observer }: SessionsDeps,
  settings: SessionsSettings,
) {
  const { idleSeconds, maxSeconds } = settings.life
  /** How the metrics name an answer that is not from the cache. */
  const asking = cache ? ('miss' as const) : ('off' as const)
  /** What the scripts that end sessions want to know first. */
  const endingArgs = [idleSeconds, maxSeconds, keys.endedChannel]
  return {
    settlement,
    open,
    resume,
    find,
    isLiving,
    list,
    revoke,
    revokeById,
    revokeOthers,
    revokeAll,
    viewOf,
    revokeAllOf,
  }

  function settlement({ appid, openid }: WechatIdentity): string {
    return `${tokens.makingKid} ${subjectOf(appid, openid)}`
  }

  /** @throws {GatewayError} user_rate_limited, user_blocked, store_unavailable */
  async function open(
    attempt: LoginAttempt,
    identity: WechatIdentity,
    startedAtMs: number,
  ): Promise<OpenedSession> {
    const { appid, openid, sessionKey } = identity
    const sub = subjectOf(appid, openid)
    const { token, field } = tokens.make(sub, attempt)
    const fingerprint = tokens.fingerprint(sessionKey)
    const replaced = attempt.formerToken === undefined ? undefined : tokens.read(attempt.formerToken)
    const answer = await stored(
      openScript(
        redis,
        [keys.user(sub), keys.userLimit(sub), keys.block(sub)],
        [
          appid,
          openid,
          identity.unionid ?? '',
          seal.seal(sessionKey, { appid, sub }),
          packExchange(startedAtMs, fingerprint),
          fingerprint,
          field,
          deviceLetter(attempt.device),
          idleSeconds,
          settings.perUserMax,
          settings.provisionRefreshSeconds,
          settings.loginPerUser,
          maxSeconds,
          keys.endedChannel,
          // Somebody else's session is none of this login's business.
          ...(replaced?.sub === sub ? replaced.fields : []),
        ],
      ),
    )
    const opened = answer as OpenAnswer
    if (opened[0] === 'LIMITED')
      throw new GatewayError('user_rate_limited', { retryAfterSeconds: Math.ceil(opened[1] / 1000) })
    if (opened[0] === 'BLOCKED') throw new GatewayError('user_blocked')
    const [, due, known, knownUnionid] = opened
    cache?.drop(sub)
    observer.onOpen()
    const grant: Grant = {
      token,
      sub,
      appid,
      openid,
      // WeChat leaves the unionid out of some answers for a user whose unionid is known.
      unionid: knownUnionid === '' ? undefined : knownUnionid,
      expiresInSeconds: idleSeconds,
      provisioned: known === 1,
    }
    return { grant, provisioningDue: due === 1, seenAtMs: startedAtMs }
  }

  /** @throws {GatewayError} user_blocked, store_unavailable */
  async function resume(attempt: LoginAttempt, settled: string): Promise<OpenedSession | undefined> {
    const [kid = '', sub = ''] = settled.split(' ')
    const derived = tokens.remake(sub, attempt, kid)
    if (derived === undefined) return undefined // made with a key that has been retired since
    const found = await read(sub, [derived.field])
    if (found === undefined) {
      // The code of a user who was blocked is settled too: a retry must not be sent away for another code.
      if ((await stored(redis.exists(keys.block(sub)))) === 1) throw new GatewayError('user_blocked')
      return undefined
    }
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
    return { grant, provisioningDue: !provisioning.acknowledged, seenAtMs: openedAtMs(session) }
  }

  /**
   * The session of a token; undefined when there is none, for whatever reason. With the cache on, one that has
   * been ended may be found until the cache's bound.
   * @param requiredAppid the app that the asker speaks for: a token of another app is none
   * @throws {GatewayError} store_unavailable, which must not be mistaken for "none"
   */
  async function find(token: string, requiredAppid?: string): Promise<Session | undefined> {
    const presented = tokens.read(token)
    const { session, source } = presented ? await lookUp(presented) : { session: undefined, source: asking }
    if (session !== undefined && requiredAppid !== undefined && session.appid !== requiredAppid) {
      observer.onFind('other_app', source)
      return undefined
    }
    observer.onFind(session ? 'valid' : 'invalid', source)
    return session
  }

  /** Whether a session that is listed by this id has not ended. Asked of Redis, never of the cache. */
  async function isLiving(sub: string, id: string): Promise<boolean> {
    return (await read(sub, tokens.fieldsOf(id))) !== undefined
  }

  async function lookUp({ sub, fields }: PresentedToken) {
    const [cacheField = ''] = fields
    const known = cache?.get(sub, cacheField)
    if (known !== undefined) {
      const expiresInSeconds = Math.ceil(known.endsAtSeconds - clock.nowMs() / 1000)
      return {
        session: expiresInSeconds > 0 ? { ...known, expiresInSeconds } : undefined,
        source: 'hit' as const,
      }
    }
    const source = asking
    const ask = () => read(sub, fields)
    const found = await (cache ? cache.find({ sub, field: cacheField }, ask) : ask())
    if (found === undefined) return { session: undefined, source }
    const { session, field, unusedSeconds, provisioning } = found
    renew({ sub, field }, unusedSeconds)
    if (!provisioning.acknowledged && provisioning.ageSeconds > PROVISIONING_OVERDUE_SECONDS) {
      observer.onUnprovisioned({ ...session, seenAtMs: openedAtMs(session) })
    }
    return { session, source }
  }

  /** The sessions of the bearer, newest first; undefined when the token has none itself. */
  async function list(token: string): Promise<ListedSession[] | undefined> {
    const presented = tokens.read(token)
    if (presented === undefined) return undefined
    const sessions = listed(await stored(redis.hgetallBuffer(keys.user(presented.sub))), presented.fields)
    return sessions.some((session) => session.current) ? sessions : undefined
  }

  /** Ends the session of a token. False when there was none. */
  async function revoke(token: string): Promise<boolean> {
    const presented = tokens.read(token)
    return presented !== undefined && revokeFields(presented.sub, presented.fields)
  }

  /**
   * Ends one session of the bearer, by the id it is listed under. undefined when the token has no session
   * itself, false when the bearer has no such session.
   */
  async function revokeById(token: string, id: string): Promise<boolean | undefined> {
    const bearer = await findBearer(token)
    return bearer && revokeFields(bearer.sub, tokens.fieldsOf(id))
  }

  /** Ends all sessions of the bearer but the one of this token. False when that is none. */
  async function revokeOthers(token: string): Promise<boolean> {
    const bearer = await findBearer(token)
    if (bearer === undefined) return false
    await revokeMany(bearer.sub, 'others', bearer.fields)
    return true
  }

  /** Ends all sessions of the bearer, and forgets the session_key. False when the token has none itself. */
  async function revokeAll(token: string): Promise<boolean> {
    const bearer = await findBearer(token)
    if (bearer === undefined) return false
    await revokeAllOf(bearer.sub)
    return true
  }

  /** What is known of a user; undefined when they have no session. */
  async function viewOf(sub: string): Promise<UserView | undefined> {
    const user = await stored(redis.hgetallBuffer(keys.user(sub)))
    const sessions = listed(user, [])
    if (sessions.length === 0) return undefined
    const { userId } = readMarks(user['m'], user['g'], user['i'])
    return { unionid: user['u']?.toString(), userId, sessions }
  }

  /** Ends all sessions of a user, and forgets the session_key. */
  async function revokeAllOf(sub: string): Promise<void> {
    await revokeMany(sub, 'all', [])
  }

  /** Whoever ends other sessions than their own must have one: asked of Redis, never of the cache. */
  async function findBearer(token: string): Promise<PresentedToken | undefined> {
    const presented = tokens.read(token)
    return presented && (await read(presented.sub, presented.fields)) ? presented : undefined
  }

  async function revokeFields(sub: string, fields: readonly string[]): Promise<boolean> {
    const tell = events?.beforeEnd(sub, fields)
    const revoked = await stored(revokeScript(redis, [keys.user(sub)], [...endingArgs, ...fields]))
    cache?.drop(sub)
    if (revoked !== 1) return false
    observer.onRevoke('one')
    tell?.('one')
    return true
  }

  async function revokeMany(sub: string, scope: 'all' | 'others', keptFields: readonly string[]) {
    const tell = events?.beforeEnd(sub, keptFields)
    const revoked = await stored(revokeManyScript(redis, [keys.user(sub)], [...endingArgs, ...keptFields]))
    cache?.drop(sub)
    if (revoked !== 1) return
    observer.onRevoke(scope)
    tell?.(scope)
  }

  function listed(user: Record<string, Buffer>, currentFields: readonly string[]): ListedSession[] {
    const nowSeconds = clock.nowMs() / 1000
    return Object.entries(user)
      .filter(([name]) => name.includes(':'))
      .map(([name, value]) => ({ name, ...parseSession(value.toString(), settings.life, nowSeconds) }))
      .filter((session) => session.expiresInSeconds > 0)
      .toSorted((a, b) => b.issuedAtSeconds - a.issuedAtSeconds)
      .map(({ name, ...session }) => ({
        ...session,
        id: idOf(name),
        current: currentFields.includes(name),
      }))
  }

  async function read(sub: string, fields: PresentedToken['fields']) {
    // Buffers: marks are no text. `g` and `i` are of the version before.
    const values = await stored(redis.hmgetBuffer(keys.user(sub), 'a', 'o', 'u', 'm', 'g', 'i', ...fields))
    const [appid, openid, unionid, m, g, i, ...entries] = values
    const at = entries.findIndex((value) => value !== null)
    const [field, entry] = [fields[at], entries[at]]
    if (!field || !entry || !appid || !openid) return undefined
    const nowSeconds = clock.nowMs() / 1000
    const { lastUsedAtSeconds, ...times } = parseSession(entry.toString(), settings.life, nowSeconds)
    if (times.expiresInSeconds <= 0) return undefined
    const { userId, acknowledged, sinceSeconds } = readMarks(m, g, i)
    const session: Session = {
      id: idOf(field),
      sub,
      appid: appid.toString(),
      openid: openid.toString(),
      unionid: unionid?.toString(),
      userId,
      ...times,
    }
    return {
      session,
      field,
      unusedSeconds: nowSeconds - lastUsedAtSeconds,
      provisioning: { acknowledged, ageSeconds: nowSeconds - sinceSeconds },
    }
  }
}

export type Sessions = ReturnType<typeof createSessions>

/**
 * What is learnt from a session dates from when it was opened, and no later: the user may be erased this very
 * moment, and what was seen before that must not bring them back (erasure.ts).
 */
function openedAtMs({ issuedAtSeconds }: Session): number {
  return issuedAtSeconds * 1_000
}

/** <kid>:<id> */
function idOf(field: string): string {
  return field.slice(field.lastIndexOf(':') + 1)
}

/** The answers of open-session.lua. */
type OpenAnswer =
  | [state: 'OPENED', due: number, known: number, unionid: string]
  | [state: 'LIMITED', untilMs: number]
  | [state: 'BLOCKED']
