/**
 * GET /sns/jscode2session: the exchange of a code for openid and session_key.
 *
 * Checked in this order, which is a guess no source confirms: parameters (41002, 41004, 41008, 40002),
 * app, address and secret (40013, 40164, 40125, 40243), quota (45011), code (40029, 40163), user (40226).
 * Everything happens in one synchronous step, so a code is taken by exactly one of its exchanges.
 */
import type { Account } from './users.ts'
import type { Answer, Answers } from './answers.ts'
import type { Apps } from './apps.ts'
import type { Call, Endpoint } from './calls.ts'
import type { Codes } from './codes.ts'
import { admit, isSecretRight } from './admission.ts'
import { spendOfMinute } from './quotas.ts'

export interface SnsSettings {
  /** Whether an exchange by the wrong app uses the code up. Nobody knows; WeChat answers 40029 either way. */
  wrongAppidBurnsCode: boolean
  /** Add errcode 0 to a success, as the documentation shows and no capture does. */
  withErrcodeZero: boolean
  /** Add the expires_in of 7200 seen in old captures. */
  withExpiresIn: boolean
}

export function createSns(
  { apps, codes, answers, now }: { apps: Apps; codes: Codes<Account>; answers: Answers; now: () => number },
  settings: SnsSettings,
): Endpoint {
  const refuse = (errcode: number, errmsg?: string): Answer => answers.failure('sns', errcode, errmsg)

  function answer({ method, query, ip }: Call): Answer {
    // A POST was answered "appid missing" in the field: the query is not looked at.
    const appid = method === 'GET' ? query.get('appid') : undefined
    const secret = query.get('secret')
    const code = query.get('js_code')
    if (appid === undefined) return refuse(41002)
    if (secret === undefined) return refuse(41004)
    if (code === undefined) return refuse(41008)
    if (query.get('grant_type') !== 'authorization_code') return refuse(40002)

    const admission = admit(apps, { appid, secret, ip })
    if ('errcode' in admission) return refuse(admission.errcode, admission.errmsg)
    const { app } = admission

    const found = codes.find(code)
    const account = found?.subject
    if (!spendOfMinute(app.counts.exchangesPerAppPerMinute, app.quotas.exchangesPerAppPerMinute, now())) {
      return refuse(45011)
    }
    if (account && !spendOfMinute(account.exchanges, app.quotas.exchangesPerUserPerMinute, now())) {
      return refuse(45011)
    }

    if (!found || !account) return refuse(40029)
    if (account.appid !== appid) {
      if (settings.wrongAppidBurnsCode) found.used = true
      return refuse(40029)
    }
    if (found.used) return refuse(40163)
    if (account.blocked) return refuse(40226)

    found.used = true
    return answers.success('sns', {
      session_key: account.sessionKey,
      ...(settings.withExpiresIn && { expires_in: 7200 }),
      openid: account.openid,
      ...(app.openPlatform && account.user.unionid !== null && { unionid: account.user.unionid }),
      ...(settings.withErrcodeZero && { errcode: 0, errmsg: 'ok' }),
    })
  }

  return {
    answer,
    identify({ query }) {
      const appid = query.get('appid')
      const code = query.get('js_code')
      return {
        appid: appid ?? null,
        code: code ?? null,
        openid: (code !== undefined && codes.find(code)?.subject.openid) || null,
        secretRight: isSecretRight(apps, appid, query.get('secret')),
      }
    },
  }
}
