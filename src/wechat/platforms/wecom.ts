/**
 * Kind `wecom`: a Mini Program in WeCom (企业微信), of the corp that runs it. Not those of WeCom's third-party
 * providers, whose calls are others.
 *
 * The code goes with an access_token, got with the secret of the agent that is linked to the Mini Program. A
 * member is a userid, unique within the corp; here it stands where elsewhere the openid does. There is no unionid.
 *
 * Source: https://developer.work.weixin.qq.com/document/path/96959
 */
import type { App } from '../../app-entry.ts'
import { readFields, readIdentity } from '../answer.ts'
import type { DeadAnswer, LiveAnswer } from '../answer.ts'
import type { Answer } from '../calls.ts'
import { createErrcodeTable } from '../errcode-table.ts'
import { pathOf } from '../platform.ts'
import type { Platform } from '../platform.ts'
import type { WecomTokens } from './wecom-tokens.ts'

/** Of jscode2session and of gettoken. WeCom does not tell a used code from a wrong one. */
export const WECOM_ERRCODES = createErrcodeTable(
  {
    [-1]: { meaning: 'system busy', answer: 'wechat_busy' },
    40001: { meaning: 'secret of the agent invalid', answer: 'app_misconfigured' },
    40013: { meaning: 'corpid invalid', answer: 'app_misconfigured' },
    40014: { meaning: 'access_token invalid, also a new one', answer: 'app_misconfigured' },
    40029: { meaning: 'code never issued, used, expired, or of another app', answer: 'code_invalid' },
    41001: { meaning: 'access_token missing', answer: 'app_misconfigured' },
    41008: { meaning: 'code missing', answer: 'code_invalid' },
    42001: { meaning: 'access_token expired, also a new one', answer: 'app_misconfigured' },
    45009: { meaning: 'too many calls', answer: 'wechat_rate_limited' },
    48002: { meaning: 'API not allowed for this agent', answer: 'app_misconfigured' },
    60020: { meaning: 'address of this gateway is not a trusted one', answer: 'app_misconfigured' },
  },
  {
    codeGone: new Set([40029]),
    credentialInvalid: new Set([40001, 40014, 42001]),
    // Not those of the token: another may work.
    appRefused: new Set([40001, 40013, 48002, 60020]),
  },
)

/** The adapter. */
export function createWecom(origins: readonly string[], tokens: WecomTokens): Platform {
  return {
    origins,
    errcodes: WECOM_ERRCODES,
    credential: async (app, deadline) => {
      const text = await tokens.get(app, deadline)
      return {
        text,
        async next(stillDeadline) {
          const renewed = await tokens.renew(app, text, stillDeadline)
          return renewed === undefined ? undefined : { text: renewed, next: () => undefined }
        },
      }
    },
    request: (_app, accessToken, code) => ({
      path: pathOf('/cgi-bin/miniprogram/jscode2session', {
        access_token: accessToken,
        js_code: code,
        grant_type: 'authorization_code',
      }),
    }),
    read: readWecomAnswer,
  }
}

function readWecomAnswer(answer: Answer, { extra }: App): LiveAnswer | DeadAnswer {
  const read = readFields(answer)
  if (read.outcome !== 'ok') return read
  const { corpid, userid, session_key } = read.fields
  // The same userid in another corp is another person.
  if (corpid !== extra['corpid']) return { outcome: 'invalid', reason: 'corpid is missing or another' }
  return readIdentity({ openid: userid, unionid: undefined, session_key })
}
