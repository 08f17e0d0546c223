/**
 * Kind `wechat_component`: a Mini Program that has authorised a third-party platform of WeChat ("component"). The
 * platform exchanges the code with its own component_access_token; of the app no secret is needed.
 *
 * Source: https://developers.weixin.qq.com/doc/oplatform/openApi/OpenApiDoc/miniprogram-management/login/thirdpartyCode2Session.html
 */
import { GatewayError } from '../../errors.ts'
import { readAnswer } from '../answer.ts'
import { createErrcodeTable } from '../errcode-table.ts'
import { ERRCODES, WECHAT_ERRCODES } from '../errcodes.ts'
import { pathOf } from '../platform.ts'
import type { Platform } from '../platform.ts'
import type { ComponentTokens } from './component-tokens.ts'

/** WeChat's own, and what can be wrong with the platform's part. */
const COMPONENT_ERRCODES = createErrcodeTable(
  {
    ...ERRCODES,
    40001: { meaning: 'component_access_token invalid', answer: 'app_misconfigured' },
    40014: { meaning: 'component_access_token invalid', answer: 'app_misconfigured' },
    40090: { meaning: 'address of this gateway is not registered', answer: 'app_misconfigured' },
    40094: { meaning: 'component credential invalid', answer: 'app_misconfigured' },
    41001: { meaning: 'component_access_token missing', answer: 'app_misconfigured' },
    42001: { meaning: 'component_access_token expired', answer: 'app_misconfigured' },
    61003: { meaning: 'the app has not authorised the component', answer: 'app_misconfigured' },
  },
  {
    codeGone: WECHAT_ERRCODES.codeGone,
    credentialInvalid: new Set([40001, 40014, 40094, 42001]),
    // Not those of the token: it is in a file that may be renewed the next moment.
    appRefused: new Set([40013, 40090, 61003, 61004]),
  },
)

/** The adapter. */
export function createComponent(origins: readonly string[], tokens: ComponentTokens): Platform {
  return {
    origins,
    errcodes: COMPONENT_ERRCODES,
    async credential({ extra }, deadline) {
      const component = extra['component_appid'] ?? ''
      const text = await tokens.get(component, deadline)
      if (text === undefined) {
        throw new GatewayError('app_misconfigured', {
          cause: new Error('no component_access_token of this component in WECHAT_COMPONENT_TOKENS_FILE'),
        })
      }
      return {
        text,
        async next(stillDeadline) {
          const renewed = await tokens.getNewerThan(component, text, stillDeadline)
          return renewed === undefined ? undefined : { text: renewed, next: () => undefined }
        },
      }
    },
    request: ({ appid, extra }, componentAccessToken, code) => ({
      path: pathOf('/sns/component/jscode2session', {
        appid,
        js_code: code,
        grant_type: 'authorization_code',
        component_appid: extra['component_appid'] ?? '',
        component_access_token: componentAccessToken,
      }),
    }),
    read: readAnswer,
  }
}
