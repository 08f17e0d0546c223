/**
 * Kind `qq`: a Mini Program of QQ. It speaks as WeChat does, on another host.
 *
 * Source: https://q.qq.com/wiki/develop/miniprogram/server/open_port/port_login.html
 */
import { createErrcodeTable } from '../errcode-table.ts'
import type { Platform } from '../platform.ts'
import { createWechat } from './wechat.ts'

/** The first three are documented; the rest is WeChat's, whose text QQ's answers share. */
const ERRCODES = createErrcodeTable(
  {
    [-1]: { meaning: 'system busy', answer: 'wechat_busy' },
    40029: { meaning: 'code never issued, used, expired, or of another app', answer: 'code_invalid' },
    45011: { meaning: 'too many calls this minute', answer: 'wechat_rate_limited' },
    40163: { meaning: 'code has been used', answer: 'code_already_used' },
    41008: { meaning: 'code missing', answer: 'code_invalid' },
    40013: { meaning: 'appid invalid', answer: 'app_misconfigured' },
    40125: { meaning: 'AppSecret invalid', answer: 'app_misconfigured' },
    41002: { meaning: 'appid missing', answer: 'app_misconfigured' },
    41004: { meaning: 'AppSecret missing', answer: 'app_misconfigured' },
  },
  {
    codeGone: new Set([40029, 40163]),
    credentialInvalid: new Set([40125]),
    appRefused: new Set([40013, 40125]),
  },
)

/** The adapter. */
export function createQq(origins: readonly string[]): Platform {
  return { ...createWechat(origins), errcodes: ERRCODES }
}
