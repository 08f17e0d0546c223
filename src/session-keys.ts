/**
 * The session_keys of logged-in users: read from the user's hash and unsealed, for as long as a request needs
 * them. They stand there beside the sessions (src/lua/open-session.lua): the current one and the one before
 * it, so that what WeChat encrypted just before a new wx.login() can still be read.
 */
import { loadScript } from './redis/scripts.ts'
import { stored } from './redis/stored.ts'
import type { RedisClient } from './redis/connections.ts'
import type { Keys } from './redis/keys.ts'
import type { Seal } from './seal.ts'
import { subjectOf } from './subject.ts'
import type { Tokens } from './tokens.ts'
import { packExchange } from './user-marks.ts'

const replaceScript = loadScript('replace-session-key')

/** A user's keys. One that cannot be opened, for its seal key has been retired, is as one that is not there. */
export interface SessionKeys {
  sub: string
  current: Buffer | undefined
  previous: Buffer | undefined
}

export interface SessionKeysDeps {
  redis: RedisClient
  keys: Keys
  seal: Seal
  tokens: Pick<Tokens, 'fingerprint'>
  /** A sealed session_key could not be opened. */
  onUnreadable(): void
}

/** Reads and replaces; never hands a key to anybody outside the process. */
export function createSessionKeys({ redis, keys, seal, tokens, onUnreadable }: SessionKeysDeps) {
  return {
    /** Undefined when the user is not logged in. @throws {GatewayError} store_unavailable */
    async of(user: { appid: string; openid: string }): Promise<SessionKeys | undefined> {
      const place = placeOf(user)
      const values = await stored(redis.hmgetBuffer(keys.user(place.sub), 'o', 'k', 'p'))
      const [openid, current, previous] = values
      if (!openid) return undefined
      const open = (sealed: Buffer | null | undefined): Buffer | undefined => {
        if (!sealed) return undefined
        const key = seal.unseal(sealed, place)
        if (key === undefined) onUnreadable()
        return key
      }
      return { sub: place.sub, current: open(current), previous: open(previous) }
    },

    /**
     * When something begins that may end in a new key, unix ms of Redis: keys are ordered by it. Asked of Redis
     * itself, as the start of a login is: an estimate may be off by the millisecond that decides.
     */
    async startedAtMs(): Promise<number> {
      const [seconds, microseconds] = await stored(redis.time())
      return Number(seconds) * 1000 + Math.floor(Number(microseconds) / 1000)
    },

    /**
     * Puts a new key in the place of the current one, which becomes the previous. Ends no session.
     * `overtaken`: a login that began later has brought a key meanwhile, which stays.
     */
    async replace(
      user: { appid: string; openid: string },
      sessionKey: Buffer,
      startedAtMs: number,
    ): Promise<'replaced' | 'overtaken' | 'gone'> {
      const place = placeOf(user)
      const fingerprint = tokens.fingerprint(sessionKey)
      const answer = await stored(
        replaceScript(
          redis,
          [keys.user(place.sub)],
          [seal.seal(sessionKey, place), packExchange(startedAtMs, fingerprint), fingerprint],
        ),
      )
      if (answer === 1) return 'replaced'
      return answer === 2 ? 'overtaken' : 'gone'
    },
  }
}

export type SessionKeyStore = ReturnType<typeof createSessionKeys>

function placeOf({ appid, openid }: { appid: string; openid: string }) {
  return { appid, sub: subjectOf(appid, openid) }
}
