/**
 * GET /sns/jscode2session: the exchange of a code for openid and session_key, at WeChat and, for an app of kind
 * qq, at QQ; and GET /sns/component/jscode2session, the same by a third-party platform of WeChat.
 *
 * Checked in this order, which is a guess no source confirms: parameters (41002, 41004, 41008, 40002),
 * app, address and secret (40013, 40164, 40125, 40243), quota (45011), code (40029, 40163), user (40226).
 * Everything happens in one synchronous step, so a code is taken by exactly one of its exchanges.
 */
import type { Answer, Answers } from './answers.ts'
import type { App, Apps } from './apps.ts'
import type { Call, Endpoint, Identity } from './calls.ts'
import type { Redemption } from './redemption.ts'
import type { Account } from './users.ts'
import { admit, isSecretRight } from './admission.ts'

interface Parts {
  apps: Apps
  redemption: Redemption
  answers: Answers
}

export interface SnsSettings {
  /** Add errcode 0 to a success, as the documentation shows and no capture does. */
  withErrcodeZero: boolean
  /** Add the expires_in of 7200 seen in old captures. */
  withExpiresIn: boolean
}

export function createSns({ apps, redemption, answers }: Parts, settings: SnsSettings): Endpoint {
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

    const admission = admit(apps, { appid, secret, ip }, ['wechat', 'qq'])
    if ('errcode' in admission) return refuse(admission.errcode, admission.errmsg)
    const redeemed = redemption.redeem(admission.app, code)
    if (typeof redeemed === 'number') return refuse(redeemed)
    return answers.success('sns', writeSession(admission.app, redeemed, settings))
  }

  return {
    answer,
    identify: (call) =>
      identify(redemption, call, isSecretRight(apps, call.query.get('appid'), call.query.get('secret'))),
  }
}

export function createComponentSns({ apps, redemption, answers }: Parts, settings: SnsSettings): Endpoint {
  const refuse = (errcode: number): Answer => answers.failure('sns', errcode)

  function answer({ method, query, ip }: Call): Answer {
    const appid = method === 'GET' ? query.get('appid') : undefined
    const component = query.get('component_appid')
    const token = query.get('component_access_token')
    const code = query.get('js_code')
    if (appid === undefined || component === undefined) return refuse(41002)
    if (token === undefined) return refuse(41001)
    if (code === undefined) return refuse(41008)
    if (query.get('grant_type') !== 'authorization_code') return refuse(40002)

    const app = apps.find(appid)
    if (app?.kind !== 'wechat_component') return refuse(40013)
    if (app.ipWhitelist && !app.ipWhitelist.includes(ip)) return refuse(61004)
    if (app.componentAppid !== component) return refuse(61003)
    if (!app.componentAccessTokens.includes(token)) return refuse(40001)
    const redeemed = redemption.redeem(app, code)
    if (typeof redeemed === 'number') return refuse(redeemed)
    return answers.success('sns', writeSession(app, redeemed, settings))
  }

  return { answer, identify: (call) => identify(redemption, call, null) }
}

function writeSession(app: App, account: Account, settings: SnsSettings): object {
  return {
    session_key: account.sessionKey,
    ...(settings.withExpiresIn && { expires_in: 7200 }),
    openid: account.openid,
    ...(app.openPlatform && account.user.unionid !== null && { unionid: account.user.unionid }),
    ...(settings.withErrcodeZero && { errcode: 0, errmsg: 'ok' }),
  }
}

function identify(redemption: Redemption, { query }: Call, secretRight: boolean | null): Identity {
  const code = query.get('js_code')
  return {
    appid: query.get('appid') ?? null,
    code: code ?? null,
    openid: redemption.openidOf(code),
    secretRight,
  }
}
