/**
 * access_tokens: the stable one, the classic one, and what makes them stop working.
 *
 * The stable token is the same on every call and tells its remaining life; in its last five minutes the
 * platform hands out a new one and lets the old live five minutes more. A forced refresh kills the old
 * one at once, does nothing within 30 s of the last, and is counted by the day. The classic token is new
 * on every call, and the one before it lives on for at most five minutes. The two never affect each other.
 */
import type { App } from './apps.ts'
import { spendOfDay } from './quotas.ts'
import type { Random } from './random.ts'
import { BASE64URL, DIGITS } from './random.ts'

const OVERLAP_MS = 300_000
const FORCED_REFRESH_GAP_MS = 30_000
/** Tokens remembered, the expired ones included: only a remembered token can be told as expired (42001). */
const TOKENS_MAX = 10_000
/** Real ones have 130 to 200 characters. A text of another form is 40014, not 40001. */
const TOKEN_FORM = /^\d{2}_[\w-]{40,510}$/

/** What WeChat says of a token that does not work. */
export type TokenErrcode = 40001 | 40014 | 42001

interface AccessToken {
  text: string
  appid: string
  expiresAt: number
  /** Set when the token was taken out of service before its time. */
  refusedWith: TokenErrcode | null
}

/** A token with its remaining life. */
export interface TokenGrant {
  accessToken: string
  expiresIn: number
}

export type AccessTokens = ReturnType<typeof createAccessTokens>

export function createAccessTokens(
  { random, now }: { random: Random; now: () => number },
  { accessTokenSeconds }: { accessTokenSeconds: number },
) {
  const tokens = new Map<string, AccessToken>()
  const stable = new Map<string, AccessToken>()
  const classic = new Map<string, AccessToken>()
  const forcedAt = new Map<string, number>()

  function mint(appid: string, current: Map<string, AccessToken>): AccessToken {
    const token: AccessToken = {
      text: `${random.text(DIGITS, 2)}_${random.text(BASE64URL, 133)}`,
      appid,
      expiresAt: now() + accessTokenSeconds * 1000,
      refusedWith: null,
    }
    tokens.set(token.text, token)
    current.set(appid, token)
    for (const oldest of tokens.keys()) {
      if (tokens.size <= TOKENS_MAX) break
      tokens.delete(oldest)
    }
    return token
  }

  function grant(token: AccessToken): TokenGrant {
    return { accessToken: token.text, expiresIn: Math.floor((token.expiresAt - now()) / 1000) }
  }

  const works = (token: AccessToken | undefined): token is AccessToken =>
    token !== undefined && token.refusedWith === null && token.expiresAt > now()

  return {
    /** The stable token of the app, or the errcode 45009 when it may not be forced anew today. */
    stable(app: App, forceRefresh: boolean): TokenGrant | 45009 {
      const current = stable.get(app.appid)
      if (forceRefresh && now() - (forcedAt.get(app.appid) ?? -Infinity) >= FORCED_REFRESH_GAP_MS) {
        if (!spendOfDay(app.counts.forcedRefreshesPerDay, app.quotas.forcedRefreshesPerDay, now()))
          return 45009
        forcedAt.set(app.appid, now())
        if (works(current)) current.refusedWith = 40001
        return grant(mint(app.appid, stable))
      }
      if (!works(current)) return grant(mint(app.appid, stable))
      if (current.expiresAt - now() >= OVERLAP_MS) return grant(current)
      current.expiresAt = now() + OVERLAP_MS
      return grant(mint(app.appid, stable))
    },

    /** The token of a WeCom app: the same for everybody while it lives. */
    lasting(app: App): TokenGrant {
      const current = stable.get(app.appid)
      return grant(works(current) ? current : mint(app.appid, stable))
    },

    /** A new classic token; the one before lives five minutes more at most. */
    classic(app: App): TokenGrant {
      const current = classic.get(app.appid)
      if (works(current)) current.expiresAt = Math.min(current.expiresAt, now() + OVERLAP_MS)
      return grant(mint(app.appid, classic))
    },

    /** Whose token it is, or why it does not work. */
    check(text: string): { appid: string } | TokenErrcode {
      const token = tokens.get(text)
      if (!token) return TOKEN_FORM.test(text) ? 40001 : 40014
      if (token.refusedWith !== null) return token.refusedWith
      return token.expiresAt > now() ? { appid: token.appid } : 42001
    },

    /** Takes working tokens out of service: one, those of one app, or all. Returns how many. */
    invalidate(only: { appid?: string; accessToken?: string }, errcode: TokenErrcode): number {
      let invalidated = 0
      for (const token of tokens.values()) {
        if (only.appid !== undefined && token.appid !== only.appid) continue
        if (only.accessToken !== undefined && token.text !== only.accessToken) continue
        if (!works(token)) continue
        token.refusedWith = errcode
        invalidated += 1
      }
      return invalidated
    },

    clear() {
      for (const map of [tokens, stable, classic, forcedAt]) map.clear()
    },
  }
}
