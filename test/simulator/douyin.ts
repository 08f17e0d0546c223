/**
 * Douyin: POST /api/apps/v2/jscode2session, with a JSON body.
 *
 * err_no in place of errcode, the fields under `data`, and "" for those that a user has not. A used code is told
 * from a wrong one as little as at WeCom. anonymous_code is known as a parameter, and never right.
 */
import type { Answers } from './answers.ts'
import type { Apps } from './apps.ts'
import type { Endpoint } from './calls.ts'
import type { Redemption } from './redemption.ts'
import { isSecretRight } from './admission.ts'
import { bodyText } from './calls.ts'

export function createDouyin({
  apps,
  redemption,
  answers,
}: {
  apps: Apps
  redemption: Redemption
  answers: Answers
}): Endpoint {
  return {
    identify(call) {
      const appid = bodyText(call, 'appid')
      const code = bodyText(call, 'code')
      return {
        appid: appid ?? null,
        code: code ?? null,
        openid: redemption.openidOf(code),
        secretRight: isSecretRight(apps, appid, bodyText(call, 'secret')),
      }
    },
    answer(call) {
      const appid = call.method === 'POST' ? bodyText(call, 'appid') : undefined
      const code = bodyText(call, 'code')
      if (appid === undefined) return answers.failure('douyin', 40014)
      if (code === undefined)
        return answers.failure('douyin', bodyText(call, 'anonymous_code') === undefined ? 40014 : 40019)
      const app = apps.find(appid)
      if (app?.kind !== 'douyin') return answers.failure('douyin', 40015)
      if (!app.secrets.includes(bodyText(call, 'secret') ?? '')) return answers.failure('douyin', 40017)
      const redeemed = redemption.redeem(app, code)
      if (redeemed === 45011) return answers.failure('douyin', -1)
      if (typeof redeemed === 'number') return answers.failure('douyin', 40018)
      return answers.success('douyin', {
        session_key: redeemed.sessionKey,
        openid: redeemed.openid,
        anonymous_openid: '',
        unionid: (app.openPlatform && redeemed.user.unionid) || '',
        dopenid: '',
      })
    },
  }
}
