/**
 * access_token: the key to WeChat's other calls, one an app, shared by all gateways.
 *
 * It comes from stable_token and from nowhere else: /cgi-bin/token would end the token that other backends of
 * the same app use. It is held sealed in Redis for its life. Whoever finds none there, or one that WeChat
 * refuses, fetches it under a lock, while the others of all processes wait for the result:
 *
 *   read → none, or refused → lock → read again → fetch → store and unlock in one step
 *
 * The lock has a random owner and outlives the call by little, so a holder that dies is replaced within
 * LOCK_MS. A lost lock costs one call more and no harm: WeChat gives the same token to everybody who asks.
 *
 * A refused token is asked for again in the normal way first, which brings the new one if somebody else has
 * replaced it. Only when WeChat gives the refused one again is a new one forced, which ends the old one for
 * everybody: at most every 30 s and 20 times a day an app, as WeChat demands, counted in Redis.
 *
 * Source: https://developers.weixin.qq.com/miniprogram/dev/OpenApiDoc/mp-access-token/getStableAccessToken.html
 */
import { randomUUID } from 'node:crypto'
import { setTimeout as pause } from 'node:timers/promises'
import type { App } from '../app-entry.ts'
import { GatewayError } from '../errors.ts'
import { loadScript } from '../redis/scripts.ts'
import { stored } from '../redis/stored.ts'
import type { StoreClock } from '../redis/clock.ts'
import type { RedisClient } from '../redis/connections.ts'
import type { Keys } from '../redis/keys.ts'
import type { Seal } from '../seal.ts'
import { Secret } from '../secret.ts'
import { refusalOf, senseless } from './api.ts'
import type { Api } from './api.ts'
import { ERRCODE_SECRET_INVALID } from './errcodes.ts'

/** For fetching, a forced second time included. WeChat usually answers within 200 ms. */
const FETCH_MS_MAX = 2_000
/** Longer than fetching and storing may take; a dead holder is replaced after this. */
const LOCK_MS = 3_000
/** For a lock that died with its holder, and a fetch of our own. Callers have deadlines of their own. */
const OBTAIN_MS_MAX = LOCK_MS + FETCH_MS_MAX
const WAIT_MS_MIN = 20
const WAIT_MS_MAX = 150
/** After a failure this process does not ask again for so long: WeChat locks out who goes on asking wrongly. */
const FAILURE_PAUSE_MS = 1_000

/**
 * WeChat gives a new token in the last five minutes of the old one's life, and lets both work until then.
 * Asked earlier, it gives the old one again.
 */
const AHEAD_MS = 270_000
/** So that not all gateways wake at once. */
const AHEAD_JITTER_MS = 30_000
const AHEAD_PAUSE_MS_MIN = 5_000
/** An app for which nobody has asked for so long is not refreshed any more. */
const IDLE_MS_MAX = 7_200_000

const FORCED_GAP_MS = 30_000
const FORCED_PER_DAY = 20

/** Real ones have 130 to 200 characters; WeChat asks for room for 512. */
const ACCESS_TOKEN = /^[\x21-\x7e]{1,1024}$/
const LIFE_SECONDS_MAX = 86_400
/** Of a new one; of one that is no longer new WeChat says what is left. */
const LIFE_MS = 7_200_000
/** What the answer may have been on its way. */
const LIFE_MARGIN_MS = 2_000

const storeScript = loadScript('store-access-token')
const releaseScript = loadScript('release-lock')
const forceScript = loadScript('spend-forced-refresh')

/** Why a token was fetched: there was none, the old one is about to end, WeChat refused it, or gave it again. */
export type FetchReason = 'missing' | 'ahead' | 'refused' | 'forced'

export interface AccessTokensDeps {
  redis: RedisClient
  keys: Keys
  clock: StoreClock
  seal: Seal
  api: Api
  findApp(appid: string): App | undefined
  observer: {
    onFetch(reason: FetchReason, outcome: 'ok' | 'failed'): void
    /** One of the few a day that an app has was spent. */
    onForce(appid: string): void
    /** What Redis holds cannot be opened: its key has been retired, or it was tampered with. */
    onUnreadable(): void
  }
}

export interface AccessTokens {
  /**
   * The app's access_token. Fetches it when there is none.
   *
   * Rejects with app_unsupported (not an app of kind wechat), app_misconfigured, store_unavailable and what
   * Api.ask() rejects with. In no case has anything been done with the token.
   */
  get(appid: string, deadline: AbortSignal): Promise<Secret<string>>
  /** Another one than `refused`, which WeChat does not take. Rejects as get() does. */
  renew(appid: string, refused: Secret<string>, deadline: AbortSignal): Promise<Secret<string>>
  /** Of the tokens of apps that are in use here. One that could not be renewed grows older than any can be. */
  ages(): { appid: string; ageSeconds: number }[]
  close(): void
}

interface Held {
  text: string
  endsAtMs: number
}

/** What is wanted of a token in Redis for it to do. */
interface Want {
  reason: 'missing' | 'ahead' | 'refused'
  refused?: string
}

export function createAccessTokens(deps: AccessTokensDeps): AccessTokens {
  const { redis, keys, clock, seal, api, findApp, observer } = deps
  const flights = new Map<string, Promise<Held>>()
  const failures = new Map<string, { error: unknown; untilMs: number }>()
  const refreshes = new Map<string, NodeJS.Timeout>()
  const lastAskedMs = new Map<string, number>()
  const lastEndsAtMs = new Map<string, number>()
  let closed = false

  return {
    async get(appid, deadline) {
      const app = appOf(appid)
      lastAskedMs.set(appid, performance.now())
      const held = (await read(app)) ?? (await within(deadline, share(app, { reason: 'missing' })))
      scheduleRefresh(app, held)
      return new Secret(held.text)
    },

    async renew(appid, refused, deadline) {
      const app = appOf(appid)
      const want: Want = { reason: 'refused', refused: refused.reveal() }
      const known = await read(app)
      const isNew = known !== undefined && known.text !== want.refused
      let held = isNew ? known : await within(deadline, share(app, want))
      // A flight that was under way had nothing against this token; the next one does.
      if (held.text === want.refused) held = await within(deadline, share(app, want))
      return new Secret(held.text)
    },

    ages() {
      const nowMs = clock.nowMs()
      return [...lastEndsAtMs]
        .filter(([appid]) => !isIdle(appid))
        .map(([appid, endsAtMs]) => ({
          appid,
          ageSeconds: (LIFE_MS - LIFE_MARGIN_MS - endsAtMs + nowMs) / 1000,
        }))
    },

    close() {
      closed = true
      for (const timer of refreshes.values()) clearTimeout(timer)
      refreshes.clear()
    },
  }

  function appOf(appid: string): App {
    const app = findApp(appid)
    if (app === undefined) throw new GatewayError('appid_unknown')
    if (app.kind !== 'wechat') throw new GatewayError('app_unsupported')
    return app
  }

  async function read({ appid }: App): Promise<Held | undefined> {
    const [sealed, endsAt] = await stored(redis.hmgetBuffer(keys.accessToken(appid), 't', 'e'))
    if (!sealed || !endsAt) return undefined
    const endsAtMs = Number(endsAt.toString())
    if (endsAtMs <= clock.nowMs()) return undefined
    lastEndsAtMs.set(appid, endsAtMs)
    const text = seal.unseal(sealed, placeOf(appid))?.toString()
    if (text === undefined) observer.onUnreadable()
    return text === undefined ? undefined : { text, endsAtMs }
  }

  /** One flight an app in this process; it is nobody's in particular, so no caller's deadline ends it. */
  function share(app: App, want: Want): Promise<Held> {
    const { appid } = app
    const failed = failures.get(appid)
    if (failed !== undefined && failed.untilMs > performance.now()) return Promise.reject(failed.error)
    const running = flights.get(appid)
    if (running !== undefined) return running
    const flight = obtain(app, want)
      .catch((error: unknown) => {
        failures.set(appid, { error, untilMs: performance.now() + FAILURE_PAUSE_MS })
        throw error
      })
      .finally(() => flights.delete(appid))
    flights.set(appid, flight)
    return flight
  }

  async function obtain(app: App, want: Want): Promise<Held> {
    const giveUpMs = performance.now() + OBTAIN_MS_MAX
    const owner = randomUUID()
    const lock = keys.accessTokenLock(app.appid)
    for (let waitMs = WAIT_MS_MIN; ; waitMs = Math.min(waitMs * 1.6, WAIT_MS_MAX)) {
      // On one connection and in this order: what the last holder has stored is seen.
      const [taken, held] = await Promise.all([
        stored(redis.set(lock, owner, 'PX', LOCK_MS, 'NX')),
        read(app),
      ])
      if (held !== undefined && isEnough(held, want)) {
        if (taken === 'OK') await release(lock, owner)
        return held
      }
      if (taken === 'OK') return fetchHolding(app, want, { lock, owner })
      if (want.reason === 'ahead' && held !== undefined) return held // another gateway is at it
      if (performance.now() > giveUpMs)
        throw new GatewayError('wechat_call_failed', {
          detail: 'No gateway could fetch an access_token in time.',
        })
      await pause(waitMs * (0.5 + Math.random()))
    }
  }

  function isEnough({ text, endsAtMs }: Held, { reason, refused }: Want): boolean {
    return text !== refused && (reason !== 'ahead' || endsAtMs - clock.nowMs() > AHEAD_MS)
  }

  async function fetchHolding(
    app: App,
    { reason, refused }: Want,
    { lock, owner }: { lock: string; owner: string },
  ): Promise<Held> {
    const deadline = AbortSignal.timeout(FETCH_MS_MAX)
    try {
      let fetched = await fetchCounted(app, reason, deadline)
      if (fetched.text === refused) {
        await spendForced(app)
        fetched = await fetchCounted(app, 'forced', deadline)
      }
      const sealed = seal.seal(Buffer.from(fetched.text), placeOf(app.appid))
      const lifeMs = Math.max(1, Math.floor(fetched.endsAtMs - clock.nowMs()))
      await stored(storeScript(redis, [keys.accessToken(app.appid), lock], [owner, sealed, lifeMs]))
      lastEndsAtMs.set(app.appid, fetched.endsAtMs)
      return fetched
    } catch (error) {
      await release(lock, owner)
      throw error
    }
  }

  /** Rejects when a token may not be forced now. */
  async function spendForced({ appid }: App): Promise<void> {
    const key = keys.accessTokenForced(appid)
    const waitMs = Number(await stored(forceScript(redis, [key], [FORCED_GAP_MS, FORCED_PER_DAY])))
    if (waitMs === 0) return observer.onForce(appid)
    throw new GatewayError('wechat_call_failed', {
      detail: 'WeChat refuses the access_token that it gives out.',
      retryAfterSeconds: Math.ceil(Math.min(waitMs, FORCED_GAP_MS) / 1000),
    })
  }

  async function fetchCounted(app: App, reason: FetchReason, deadline: AbortSignal): Promise<Held> {
    try {
      const fetched = await fetchToken(app, reason === 'forced', deadline)
      observer.onFetch(reason, 'ok')
      return fetched
    } catch (error) {
      observer.onFetch(reason, 'failed')
      throw error
    }
  }

  async function fetchToken(app: App, force: boolean, deadline: AbortSignal): Promise<Held> {
    const askedMs = clock.nowMs()
    for (const [index, secret] of app.secrets.entries()) {
      const answer = await api.ask(
        {
          name: 'stable_token',
          appid: app.appid,
          body: {
            grant_type: 'client_credential',
            appid: app.appid,
            secret: secret.reveal(),
            force_refresh: force,
          },
        },
        deadline,
      )
      if (answer.outcome === 'ok') return readGrant(answer.fields, askedMs)
      // While a secret is being rotated, the other one works.
      const isSecretWrong = answer.errcode === ERRCODE_SECRET_INVALID
      if (!isSecretWrong || index + 1 === app.secrets.length) throw refusalOf('stable_token', answer)
    }
    throw new GatewayError('app_misconfigured') // no secret at all: sealed with a key that is not here
  }

  async function release(lock: string, owner: string): Promise<void> {
    // If Redis does not answer, the lock ends by itself.
    await releaseScript(redis, [lock], [owner]).catch(() => {})
  }

  /** Renews the token before it ends, so that no request has to wait for it. One timer an app. */
  function scheduleRefresh(app: App, { endsAtMs }: Held): void {
    const { appid } = app
    if (closed || refreshes.has(appid)) return
    const dueMs = endsAtMs - clock.nowMs() - AHEAD_MS + AHEAD_JITTER_MS * Math.random()
    const timer = setTimeout(() => void refresh(appid), Math.max(dueMs, AHEAD_PAUSE_MS_MIN))
    timer.unref()
    refreshes.set(appid, timer)
  }

  function isIdle(appid: string): boolean {
    return performance.now() - (lastAskedMs.get(appid) ?? -Infinity) > IDLE_MS_MAX
  }

  async function refresh(appid: string): Promise<void> {
    refreshes.delete(appid)
    const app = findApp(appid)
    if (closed || isIdle(appid) || app === undefined) {
      lastAskedMs.delete(appid)
      lastEndsAtMs.delete(appid)
      return
    }
    try {
      scheduleRefresh(app, await share(app, { reason: 'ahead' }))
    } catch {
      // It has been counted. The old token works on; the next request finds out whether there is still one.
    }
  }
}

/** Bound to its app and to being an access_token: no subject of a user has this form. */
function placeOf(appid: string) {
  return { appid, sub: 'access_token' }
}

function readGrant(fields: Readonly<Record<string, unknown>>, askedMs: number): Held {
  const { access_token: text, expires_in: lifeSeconds } = fields
  if (typeof text !== 'string' || !ACCESS_TOKEN.test(text))
    throw senseless('access_token is missing or malformed')
  const isLife = typeof lifeSeconds === 'number' && lifeSeconds > 0 && lifeSeconds <= LIFE_SECONDS_MAX
  if (!isLife) throw senseless('expires_in is missing or malformed')
  return { text, endsAtMs: askedMs + lifeSeconds * 1000 - LIFE_MARGIN_MS }
}

/** Waits for a flight, but no longer than the deadline; the flight goes on. */
async function within<T>(deadline: AbortSignal, flight: Promise<T>): Promise<T> {
  let onAbort: (() => void) | undefined
  const late = new Promise<never>((_, reject) => {
    onAbort = () =>
      reject(new GatewayError('wechat_call_failed', { detail: 'The access_token did not arrive in time.' }))
    if (deadline.aborted) onAbort()
    else deadline.addEventListener('abort', onAbort, { once: true })
  })
  try {
    return await Promise.race([flight, late])
  } finally {
    if (onAbort) deadline.removeEventListener('abort', onAbort)
  }
}
