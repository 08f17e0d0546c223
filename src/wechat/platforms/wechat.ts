/**
 * Kind `wechat`: a Mini Program of WeChat with an AppSecret of its own.
 *
 * Source: https://developers.weixin.qq.com/miniprogram/dev/OpenApiDoc/user-login/code2Session.html
 */
import { readAnswer } from '../answer.ts'
import { createAppSecrets } from '../app-secrets.ts'
import { WECHAT_ERRCODES } from '../errcodes.ts'
import { pathOf } from '../platform.ts'
import type { Platform } from '../platform.ts'

/** The adapter. */
export function createWechat(origins: readonly string[]): Platform {
  return {
    origins,
    errcodes: WECHAT_ERRCODES,
    credential: createAppSecrets().credential,
    request: ({ appid }, secret, code) => ({
      path: pathOf('/sns/jscode2session', {
        appid,
        secret,
        js_code: code,
        grant_type: 'authorization_code',
      }),
    }),
    read: readAnswer,
  }
}
