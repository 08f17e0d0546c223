/**
 * The simulated platform: all state together, the WeChat endpoints over it, and what a test may do to it.
 *
 * The operations take unknown input and check it themselves, because the control port and the in-process
 * API both lead here and neither should be able to set up something that makes no sense.
 */
import { randomBytes } from 'node:crypto'
import type { AppInput, AppView } from './apps.ts'
import type { Endpoint } from './calls.ts'
import type { OpenData } from './open-data.ts'
import type { QuotaInput } from './quotas.ts'
import type { Account, AccountView } from './users.ts'
import type { PhoneSubject } from './wxa.ts'
import { createAccessTokens } from './access-tokens.ts'
import { createAnswers } from './answers.ts'
import { createApps, viewApp } from './apps.ts'
import { createStableToken, createToken } from './cgi-bin.ts'
import { createCodes } from './codes.ts'
import { createDouyin } from './douyin.ts'
import type { Read } from './fields.ts'
import { flag, InputError, integer, nullable, object, oneOf, readFields, text } from './fields.ts'
import { writeOpenData } from './open-data.ts'
import type { PushReport, PushSettings } from './pushes.ts'
import { createPushes, PUSH_FIELDS } from './pushes.ts'
import { DEFAULT_QUOTAS } from './quotas.ts'
import { ALPHANUMERIC, createRandom, DIGITS, HEX } from './random.ts'
import { createRedemption } from './redemption.ts'
import { createComponentSns, createSns } from './sns.ts'
import { createUsers, viewAccount } from './users.ts'
import { createWecomSession, createWecomToken } from './wecom.ts'
import { createCheckSession, createGetUserPhoneNumber, createResetUserSessionKey } from './wxa.ts'

const CODES_PER_CALL_MAX = 1_000_000
const USERS_PER_CALL_MAX = 10_000

/** How the platform behaves; every field has a default. */
export interface PlatformSettings {
  /** Default: one app, DEFAULT_APP. */
  apps?: AppInput[]
  /** The same seed gives the same codes, keys and faults. Default: a random one, told by stats(). */
  seed?: string
  /** Unix milliseconds; default Date.now. Rules of time follow it; real waits (delay faults) do not. */
  now?: () => number
  /** Default 300, as documented. */
  codeLifeSeconds?: number
  /** Default 300, as documented. */
  phoneCodeLifeSeconds?: number
  /** A new code replaces a session_key that is at least this old. Default 60; 0: every code does. */
  keyRefreshSeconds?: number
  /** Default 7200. */
  accessTokenSeconds?: number
  /** Quotas of apps that set none of their own; the defaults are in quotas.ts. */
  quotas?: QuotaInput
  /** Whether an exchange by the wrong app uses the code up. Default false. */
  wrongAppidBurnsCode?: boolean
  /** Default false. */
  withErrcodeZero?: boolean
  /** Default false. */
  withExpiresIn?: boolean
  /** Default false: "86". */
  countryCodeAsNumber?: boolean
  /** Default 'rid'. */
  errmsgStyle?: 'rid' | 'req_id'
  /** How long a pushed message waits for its answer, and from one attempt to the next. Default 5,000. */
  pushTimeoutMs?: number
  /** Codes remembered at a time, beyond which the oldest is forgotten. Default 1,000,000. */
  codesMax?: number
  /** Accounts remembered at a time, beyond which the oldest is forgotten. Default 500,000. */
  usersMax?: number
}

/** The app that exists when none is configured. Its secret protects nothing. */
export const DEFAULT_APP = {
  appid: 'wx5fa1c0de51a7e000',
  secret: '51a7e00051a7e00051a7e00051a7e000',
} as const

const openid = text(128)
const unionid = nullable(text(128))
const sessionKey = (value: unknown, name: string): string => {
  if (typeof value === 'string' && Buffer.from(value, 'base64').length === 16 && value.length === 24)
    return value
  throw new InputError(`${name} must be 16 bytes in base64`)
}
const WHOM = { appid: text(64), openid, user: text(128), unionid }

const CODE_FIELDS = {
  ...WHOM,
  refreshKey: flag,
  count: integer(1, CODES_PER_CALL_MAX),
  codesPerUser: integer(1, CODES_PER_CALL_MAX),
}
const PHONE_CODE_FIELDS = {
  ...WHOM,
  phoneNumber: text(32),
  countryCode: text(4),
  count: integer(1, CODES_PER_CALL_MAX),
}
const USER_FIELDS = { ...WHOM, blocked: flag, sessionKey, count: integer(1, USERS_PER_CALL_MAX) }
const OPEN_DATA_FIELDS = {
  ...WHOM,
  kind: oneOf('user_info', 'phone', 'plain'),
  data: object,
  phoneNumber: text(32),
  countryCode: text(4),
  sessionKey,
  iv: sessionKey,
  timestamp: integer(0, 1e11),
}
const PUSHED_FIELDS = { appid: text(64), openid, user: text(128), ...PUSH_FIELDS }
const INVALIDATE_FIELDS = { appid: text(64), accessToken: text(600), errcode: oneOf(40001, 40014, 42001) }

/** Whom to issue a code for, and how. Neither openid nor user: a new person for every code. */
export type CodeInput = Omit<Read<typeof CODE_FIELDS>, 'count'>
export type PhoneCodeInput = Omit<Read<typeof PHONE_CODE_FIELDS>, 'count'>
export type UserInput = Omit<Read<typeof USER_FIELDS>, 'count'>
export type OpenDataRequest = Read<typeof OPEN_DATA_FIELDS>
export type PushInput = Read<typeof PUSHED_FIELDS>
export type InvalidateInput = Read<typeof INVALIDATE_FIELDS>

/** A code and whose it is. */
export interface Issued {
  code: string
  appid: string
  openid: string
}

export type Platform = ReturnType<typeof createPlatform>

export function createPlatform(settings: PlatformSettings) {
  const now = settings.now ?? Date.now
  const codesMax = settings.codesMax ?? 1_000_000
  // A fixed default would issue the codes of the last run again, and a gateway whose Redis outlived that
  // run would rightly refuse them.
  const seed = settings.seed ?? randomBytes(8).toString('hex')
  const codeRandom = createRandom(seed, 'codes')
  const phoneRandom = createRandom(seed, 'phone')

  const answers = createAnswers(
    { random: createRandom(seed, 'rid'), now },
    { errmsgStyle: settings.errmsgStyle ?? 'rid' },
  )
  const apps = createApps({ ...DEFAULT_QUOTAS, ...settings.quotas })
  const users = createUsers(
    { random: createRandom(seed, 'users'), now, seed },
    { usersMax: settings.usersMax ?? 500_000, keyRefreshMs: (settings.keyRefreshSeconds ?? 60) * 1000 },
  )
  const accessTokens = createAccessTokens(
    { random: createRandom(seed, 'access_token'), now },
    { accessTokenSeconds: settings.accessTokenSeconds ?? 7200 },
  )
  // Real codes have 32 characters, of which the first is 0 and two more are digits in every capture.
  const codes = createCodes<Account>(
    { mint: () => `0${codeRandom.text(DIGITS, 2)}${codeRandom.text(ALPHANUMERIC, 29)}`, now },
    { lifeMs: (settings.codeLifeSeconds ?? 300) * 1000, codesMax },
  )
  const phoneCodes = createCodes<PhoneSubject>(
    { mint: () => phoneRandom.text(HEX, 64), now },
    { lifeMs: (settings.phoneCodeLifeSeconds ?? 300) * 1000, codesMax },
  )

  const redemption = createRedemption(
    { codes, now },
    { wrongAppidBurnsCode: settings.wrongAppidBurnsCode ?? false },
  )
  const parts = { apps, users, accessTokens, redemption, phoneCodes, answers, now }
  const snsSettings = {
    withErrcodeZero: settings.withErrcodeZero ?? false,
    withExpiresIn: settings.withExpiresIn ?? false,
  }
  const endpoints: Readonly<Record<string, Endpoint>> = {
    '/sns/jscode2session': createSns(parts, snsSettings),
    '/sns/component/jscode2session': createComponentSns(parts, snsSettings),
    '/cgi-bin/gettoken': createWecomToken(parts),
    '/cgi-bin/miniprogram/jscode2session': createWecomSession(parts),
    '/api/apps/v2/jscode2session': createDouyin(parts),
    '/cgi-bin/stable_token': createStableToken(parts),
    '/cgi-bin/token': createToken(parts),
    '/wxa/checksession': createCheckSession(parts),
    '/wxa/resetusersessionkey': createResetUserSessionKey(parts),
    '/wxa/business/getuserphonenumber': createGetUserPhoneNumber(parts, {
      countryCodeAsNumber: settings.countryCodeAsNumber ?? false,
    }),
  }

  const pushes = createPushes({ random: createRandom(seed, 'pushes'), now }, settings.pushTimeoutMs ?? 5_000)

  function pushSettingsOf(appid: string): PushSettings {
    const { push } = apps.choose(appid)
    if (push === null) throw new InputError(`a push: ${appid} has no push settings (PUT /apps)`)
    return push
  }

  function putStartingApps(): void {
    for (const app of settings.apps ?? [DEFAULT_APP]) apps.put(app)
  }
  putStartingApps()

  function chooseAccount({ appid, ...whom }: Read<typeof WHOM>): Account {
    return users.choose(apps.choose(appid).appid, whom)
  }

  /** A Chinese mobile number, 1 and ten digits, unless one is given. */
  const choosePhone = ({ phoneNumber, countryCode }: { phoneNumber?: string; countryCode?: string }) => ({
    phoneNumber: phoneNumber ?? `1${phoneRandom.text('3456789', 1)}${phoneRandom.text(DIGITS, 9)}`,
    countryCode: countryCode ?? '86',
  })

  return {
    seed,
    now,
    answers,
    endpoints,
    apps: apps.list,
    counts: () => ({ codes: codes.counts(), phoneCodes: phoneCodes.counts(), users: users.count() }),

    /** Does wx.login() `count` times: refreshes the session_key where it is due and issues a code. */
    issueCodes(input: unknown): Issued[] {
      const {
        count = 1,
        codesPerUser = 1,
        refreshKey,
        ...whom
      } = readFields(input, 'issuing codes', CODE_FIELDS)
      const accounts = Array.from({ length: Math.ceil(count / codesPerUser) }, () => chooseAccount(whom))
      return Array.from({ length: count }, (_, at) => {
        const account = accounts[at % accounts.length] ?? chooseAccount(whom)
        users.refreshKey(account, refreshKey)
        return { code: codes.issue(account), appid: account.appid, openid: account.openid }
      })
    },

    /** Does the tap on the phone number button `count` times. */
    issuePhoneCodes(input: unknown): (Issued & { phoneNumber: string })[] {
      const fields = readFields(input, 'issuing phone codes', PHONE_CODE_FIELDS)
      const { count = 1, phoneNumber, countryCode, ...whom } = fields
      return Array.from({ length: count }, () => {
        const account = chooseAccount(whom)
        const phone = choosePhone({
          ...(phoneNumber !== undefined && { phoneNumber }),
          ...(countryCode !== undefined && { countryCode }),
        })
        const code = phoneCodes.issue({ account, phone })
        return { code, appid: account.appid, openid: account.openid, phoneNumber: phone.phoneNumber }
      })
    },

    /** Makes or changes users: name, openid, unionid, blocked (40226), session_key. */
    putUsers(input: unknown): AccountView[] {
      const { count = 1, blocked, sessionKey: key, ...whom } = readFields(input, 'a user', USER_FIELDS)
      return Array.from({ length: count }, () => {
        const account = chooseAccount(whom)
        if (blocked !== undefined) account.blocked = blocked
        if (key !== undefined) users.resetKey(account, key)
        return viewAccount(account)
      })
    },

    listUsers: (filter: { appid?: string; openid?: string; user?: string }, limit: number) =>
      users.list(filter, limit),

    /** Signs and encrypts data as WeChat does, with the user's current session_key unless one is given. */
    writeOpenData(input: unknown): OpenData {
      const fields = readFields(input, 'open data', OPEN_DATA_FIELDS)
      const { kind = 'user_info', data, timestamp, iv, appid, openid: id, user, unionid: union } = fields
      const account = chooseAccount({
        ...(appid !== undefined && { appid }),
        ...(id !== undefined && { openid: id }),
        ...(user !== undefined && { user }),
        ...(union !== undefined && { unionid: union }),
      })
      const key = fields.sessionKey ?? account.sessionKey
      if (key === null) throw new InputError('open data: the user has no session_key before the first code')
      return writeOpenData({
        kind,
        data,
        openid: account.openid,
        unionid: apps.choose(account.appid).openPlatform ? account.user.unionid : null,
        watermark: { timestamp: timestamp ?? Math.floor(now() / 1000), appid: account.appid },
        sessionKey: key,
        iv: iv === undefined ? phoneRandom.bytes(16) : Buffer.from(iv, 'base64'),
        phone: choosePhone(fields),
      })
    },

    /** Takes access_tokens out of service; later use is answered with the errcode (default 40001). */
    invalidateTokens(input: unknown): number {
      const { errcode = 40001, ...only } = readFields(input, 'invalidating access_tokens', INVALIDATE_FIELDS)
      return accessTokens.invalidate(only, errcode)
    },

    /** Pushes an event about a user, and again, until the app's server says `success` or WeChat gives up. */
    async push(input: unknown): Promise<PushReport> {
      const { appid, openid: id, user, ...fields } = readFields(input, 'a push', PUSHED_FIELDS)
      const account = chooseAccount({
        ...(appid !== undefined && { appid }),
        ...(id !== undefined && { openid: id }),
        ...(user !== undefined && { user }),
      })
      return pushes.push({ ...account, settings: pushSettingsOf(account.appid) }, fields)
    },

    /** Does the URL check of an app's administrator page. */
    async checkPushUrl(input: unknown) {
      const { appid } = readFields(input, 'a URL check', { appid: text(64) })
      return pushes.check({ settings: pushSettingsOf(apps.choose(appid).appid) })
    },

    /** Gives up on pushes that are under way. */
    endPushes: () => pushes.clear(),

    putApp: (input: unknown): AppView => viewApp(apps.put(input)),

    /** Forgets users, codes and tokens, and has the starting apps again. The streams of chance go on. */
    reset(): void {
      pushes.clear()
      for (const store of [apps, users, codes, phoneCodes, accessTokens]) store.clear()
      putStartingApps()
    },
  }
}
