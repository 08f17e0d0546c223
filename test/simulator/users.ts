/**
 * The users of the simulated platform: an openid per app, a unionid per person, and one session_key per
 * (app, user).
 *
 * The session_key rules follow the documentation: exactly one key is valid at a time; getting a code may
 * replace it, but not more often than a shortest period that WeChat does not publish; the exchange of a
 * code reads the key and never changes it. So a key can be newer than the one an app last received,
 * which is the race that makes open data undecryptable.
 *
 * openids of named users are derived from the seed and the name, so a restarted simulator with the same
 * seed knows the same people.
 */
import { InputError } from './fields.ts'
import type { Count } from './quotas.ts'
import { startCount } from './quotas.ts'
import type { Random } from './random.ts'
import { BASE64URL, derive } from './random.ts'

/** One person. */
export interface User {
  name: string | null
  unionid: string | null
  accounts: Account[]
}

/** One person in one app. */
export interface Account {
  appid: string
  openid: string
  user: User
  /** null until the user's first code. */
  sessionKey: string | null
  previousSessionKey: string | null
  keyRefreshedAt: number
  /** A high-risk user: logins are intercepted with 40226. */
  blocked: boolean
  exchanges: Count
}

/** Whom a call is about. Neither openid nor user: a new person. */
export interface UserChoice {
  openid?: string
  /** A name of the test's choice; the same name is the same person in every app. */
  user?: string
  /** null for a person whose unionid WeChat does not tell. */
  unionid?: string | null
}

/** An account as a test may see it, session_key included: that is what it is a simulator for. */
export interface AccountView {
  appid: string
  openid: string
  user: string | null
  unionid: string | null
  sessionKey: string | null
  previousSessionKey: string | null
  blocked: boolean
}

export type Users = ReturnType<typeof createUsers>

/** Keeps at most `usersMax` accounts; the oldest is forgotten first, but codes it has still work. */
export function createUsers(
  { random, now, seed }: { random: Random; now: () => number; seed: string },
  { usersMax, keyRefreshMs }: { usersMax: number; keyRefreshMs: number },
) {
  const accounts = new Map<string, Account>()
  const named = new Map<string, User>()

  function remember(user: User, appid: string, openid: string): Account {
    const account: Account = {
      appid,
      openid,
      user,
      sessionKey: null,
      previousSessionKey: null,
      keyRefreshedAt: 0,
      blocked: false,
      exchanges: startCount(),
    }
    user.accounts.push(account)
    accounts.set(`${appid} ${openid}`, account)
    if (accounts.size > usersMax) forgetOldest()
    return account
  }

  function forgetOldest(): void {
    for (const [key, account] of accounts) {
      accounts.delete(key)
      const { user } = account
      user.accounts = user.accounts.filter((other) => other !== account)
      if (user.name !== null && user.accounts.length === 0) named.delete(user.name)
      return
    }
  }

  function stranger(appid: string): Account {
    const user: User = { name: null, unionid: `o${random.text(BASE64URL, 27)}`, accounts: [] }
    return remember(user, appid, `o${random.text(BASE64URL, 27)}`)
  }

  function withOpenid(appid: string, openid: string): Account {
    const known = accounts.get(`${appid} ${openid}`)
    if (known) return known
    return remember(
      { name: null, unionid: `o${derive(seed, 'unionid of', appid, openid)}`, accounts: [] },
      appid,
      openid,
    )
  }

  function withName(name: string, appid: string, openid: string | undefined): Account {
    let user = named.get(name)
    const known = user?.accounts.find((account) => account.appid === appid)
    if (known && (openid === undefined || known.openid === openid)) return known
    if (known) throw new InputError(`user ${name} has the openid ${known.openid} in ${appid}`)
    if (openid !== undefined && accounts.has(`${appid} ${openid}`)) {
      throw new InputError(`the openid ${openid} of ${appid} belongs to another user`)
    }
    if (!user) {
      user = { name, unionid: `o${derive(seed, 'unionid', name)}`, accounts: [] }
      named.set(name, user)
    }
    return remember(user, appid, openid ?? `o${derive(seed, 'openid', appid, name)}`)
  }

  return {
    /** The account a test means, made when it does not exist; sets the unionid when one is given. */
    choose(appid: string, { openid, user, unionid }: UserChoice): Account {
      let account: Account
      if (user !== undefined) account = withName(user, appid, openid)
      else account = openid === undefined ? stranger(appid) : withOpenid(appid, openid)
      if (unionid !== undefined) account.user.unionid = unionid
      return account
    },

    find: (appid: string, openid: string): Account | undefined => accounts.get(`${appid} ${openid}`),

    /**
     * What getting a code does to the session_key: a new one when there is none or when the present one
     * is older than the shortest period. `force` decides instead of the period.
     */
    refreshKey(account: Account, force?: boolean): void {
      const due = force ?? now() - account.keyRefreshedAt >= keyRefreshMs
      if (account.sessionKey !== null && !due) return
      account.previousSessionKey = account.sessionKey
      account.sessionKey = random.bytes(16).toString('base64')
      account.keyRefreshedAt = now()
    },

    /** A new session_key by order of the app; its age is inherited, as the documentation says. */
    resetKey(account: Account, sessionKey = random.bytes(16).toString('base64')): void {
      account.previousSessionKey = account.sessionKey
      account.sessionKey = sessionKey
    },

    /** The accounts that fit, the newest first. */
    list({ appid, openid, user }: { appid?: string; openid?: string; user?: string }, limit: number) {
      const found: AccountView[] = []
      for (const account of [...accounts.values()].toReversed()) {
        if (appid !== undefined && account.appid !== appid) continue
        if (openid !== undefined && account.openid !== openid) continue
        if (user !== undefined && account.user.name !== user) continue
        found.push(viewAccount(account))
        if (found.length >= limit) break
      }
      return found
    },

    count: () => accounts.size,
    clear() {
      accounts.clear()
      named.clear()
    },
  }
}

/** The account in flat form. */
export function viewAccount(account: Account): AccountView {
  const { appid, openid, sessionKey, previousSessionKey, blocked, user } = account
  return { appid, openid, user: user.name, unionid: user.unionid, sessionKey, previousSessionKey, blocked }
}
