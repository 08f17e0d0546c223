/**
 * WeCom (企业微信): GET /cgi-bin/gettoken and GET /cgi-bin/miniprogram/jscode2session.
 *
 * The corp's own apps. An agent's secret and the corpid bring an access_token, the same for everybody while it
 * lives; that and the code bring a userid. Where WeChat tells a used code (40163), WeCom does not (40029).
 */
import type { AccessTokens } from './access-tokens.ts'
import type { Answers } from './answers.ts'
import type { Apps } from './apps.ts'
import type { Endpoint } from './calls.ts'
import type { Redemption } from './redemption.ts'

interface Parts {
  apps: Apps
  accessTokens: AccessTokens
  redemption: Redemption
  answers: Answers
}

export function createWecomToken({ apps, accessTokens, answers }: Parts): Endpoint {
  return {
    identify({ query }) {
      const ofCorp = apps.ofCorp(query.get('corpid') ?? '')
      const secret = query.get('corpsecret') ?? ''
      const app = ofCorp.find(({ secrets }) => secrets.includes(secret))
      return {
        appid: (app ?? ofCorp[0])?.appid ?? null,
        code: null,
        openid: null,
        secretRight: ofCorp.length === 0 ? null : app !== undefined,
      }
    },
    answer({ query, ip }) {
      const ofCorp = apps.ofCorp(query.get('corpid') ?? '')
      if (ofCorp.length === 0) return answers.failure('wecom', 40013)
      const secret = query.get('corpsecret')
      if (secret === undefined) return answers.failure('wecom', 41004)
      const app = ofCorp.find(({ secrets }) => secrets.includes(secret))
      if (!app) return answers.failure('wecom', 40001)
      if (app.ipWhitelist && !app.ipWhitelist.includes(ip)) return answers.failure('wecom', 60020)
      const { accessToken, expiresIn } = accessTokens.lasting(app)
      return answers.success('wecom', {
        errcode: 0,
        errmsg: 'ok',
        access_token: accessToken,
        expires_in: expiresIn,
      })
    },
  }
}

export function createWecomSession({ apps, accessTokens, redemption, answers }: Parts): Endpoint {
  return {
    identify({ query }) {
      const token = accessTokens.check(query.get('access_token') ?? '')
      const code = query.get('js_code')
      return {
        appid: typeof token === 'number' ? null : token.appid,
        code: code ?? null,
        openid: redemption.openidOf(code),
        secretRight: null,
      }
    },
    answer({ query }) {
      const text = query.get('access_token')
      const code = query.get('js_code')
      if (text === undefined) return answers.failure('wecom', 41001)
      const token = accessTokens.check(text)
      // "Not the latest" is WeChat's alone.
      if (typeof token === 'number') return answers.failure('wecom', token === 40001 ? 40014 : token)
      const app = apps.find(token.appid)
      if (app?.kind !== 'wecom') return answers.failure('wecom', 40014)
      if (code === undefined) return answers.failure('wecom', 41008)
      if (query.get('grant_type') !== 'authorization_code') return answers.failure('wecom', 40002)
      const redeemed = redemption.redeem(app, code)
      if (redeemed === 45011) return answers.failure('wecom', 45009)
      if (typeof redeemed === 'number') return answers.failure('wecom', 40029)
      return answers.success('wecom', {
        errcode: 0,
        errmsg: 'ok',
        corpid: app.corpid,
        userid: redeemed.openid,
        session_key: redeemed.sessionKey,
      })
    },
  }
}
