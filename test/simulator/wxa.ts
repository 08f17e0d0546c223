/**
 * The endpoints under /wxa/ that want an access_token: is a session_key still good, replace it, and the
 * phone number behind a phone code.
 *
 * The signature of the first two is hmac_sha256 of the empty text, keyed with the session_key *as text*
 * (24 characters of base64, not the 16 bytes they stand for); the official vector matches only so.
 */
import type { AccessTokens } from './access-tokens.ts'
import type { Account, Users } from './users.ts'
import type { Answer, Answers } from './answers.ts'
import type { App, Apps } from './apps.ts'
import type { Call, Endpoint } from './calls.ts'
import type { Codes } from './codes.ts'
import type { PhoneData } from './open-data.ts'
import { bodyText } from './calls.ts'
import { signSession, writePhone } from './open-data.ts'
import { spendOfMinute } from './quotas.ts'

interface Parts {
  apps: Apps
  users: Users
  accessTokens: AccessTokens
  phoneCodes: Codes<PhoneSubject>
  answers: Answers
  now: () => number
}

/** Whose phone number a phone code stands for. */
export interface PhoneSubject {
  account: Account
  phone: PhoneData
}

export function createCheckSession(parts: Parts): Endpoint {
  const { answers } = parts
  return {
    identify: (call) => identify(parts, call, call.query.get('openid')),
    answer(call) {
      const signed = admitSigned(parts, call)
      return 'status' in signed ? signed : answers.success('api', { errcode: 0, errmsg: 'ok' })
    },
  }
}

export function createResetUserSessionKey(parts: Parts): Endpoint {
  const { answers, users, now } = parts
  return {
    identify: (call) => identify(parts, call, call.query.get('openid')),
    answer(call) {
      const signed = admitSigned(parts, call)
      if ('status' in signed) return signed
      const { app, account } = signed
      if (!spendOfMinute(app.counts.keyResetsPerMinute, app.quotas.keyResetsPerMinute, now())) {
        return answers.failure('api', 45011)
      }
      users.resetKey(account)
      const { openid, sessionKey } = account
      return answers.success('api', { errcode: 0, errmsg: 'ok', openid, session_key: sessionKey })
    },
  }
}

/** `countryCodeAsNumber`: 86 instead of "86", as some versions of the documentation show. */
export function createGetUserPhoneNumber(
  parts: Parts,
  { countryCodeAsNumber }: { countryCodeAsNumber: boolean },
): Endpoint {
  const { answers, phoneCodes, now } = parts
  return {
    identify(call) {
      const code = bodyText(call, 'code')
      const openid = (code && phoneCodes.find(code)?.subject.account.openid) || bodyText(call, 'openid')
      return { ...identify(parts, call, openid), code: code ?? null }
    },
    answer(call) {
      if (call.method !== 'POST') return answers.failure('api', 43002)
      const admission = admitToken(parts, call)
      if ('status' in admission) return admission
      if (!call.body) return answers.failure('api', 47001)
      const found = phoneCodes.find(bodyText(call, 'code') ?? '')
      if (!found || found.used) return answers.failure('api', 40029)
      const { account, phone } = found.subject
      if (account.appid !== admission.app.appid) return answers.failure('api', 40013)
      const openid = bodyText(call, 'openid')
      // WeChat says a foreign openid is an error and does not say which; 40003 is the nearest.
      if (openid !== undefined && openid !== account.openid) return answers.failure('api', 40003)
      found.used = true
      const watermark = { timestamp: Math.floor(now() / 1000), appid: account.appid }
      const written = { ...writePhone(phone, watermark) }
      return answers.success('api', {
        errcode: 0,
        errmsg: 'ok',
        phone_info: countryCodeAsNumber ? { ...written, countryCode: Number(written.countryCode) } : written,
      })
    },
  }
}

function identify({ accessTokens }: Parts, { query }: Call, openid: string | undefined) {
  const token = accessTokens.check(query.get('access_token') ?? '')
  const appid = typeof token === 'number' ? null : token.appid
  return { appid, code: null, openid: openid ?? null, secretRight: null }
}

function admitToken({ apps, accessTokens, answers }: Parts, { query }: Call): { app: App } | Answer {
  const text = query.get('access_token')
  if (text === undefined) return answers.failure('api', 41001)
  const token = accessTokens.check(text)
  if (typeof token === 'number') return answers.failure('api', token)
  const app = apps.find(token.appid)
  return app ? { app } : answers.failure('api', 40013)
}

/** A GET with access_token, openid and a signature made with the user's current session_key. */
function admitSigned(parts: Parts, call: Call): { app: App; account: Account } | Answer {
  const { answers, users } = parts
  if (call.method !== 'GET') return answers.failure('api', 43001)
  const admission = admitToken(parts, call)
  if ('status' in admission) return admission
  const openid = call.query.get('openid')
  if (openid === undefined) return answers.failure('api', 41009)
  if (call.query.get('sig_method') !== 'hmac_sha256') return answers.failure('api', 87008)
  const account = users.find(admission.app.appid, openid)
  if (!account) return answers.failure('api', 40003)
  if (account.sessionKey === null) return answers.failure('api', 87007)
  if (call.query.get('signature') !== signSession(account.sessionKey)) return answers.failure('api', 87009)
  return { app: admission.app, account }
}
