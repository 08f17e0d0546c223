/**
 * Kind `douyin`: a Mini Program of Douyin (TikTok in China), code2Session v2.
 *
 * A POST with a JSON body. The answer has err_no in place of errcode and its fields under `data`; those that
 * a user has not are "" there. Douyin does not tell a used code from a wrong one. The anonymous_code of a user who
 * has not logged in at Douyin is no login and is not taken.
 *
 * Source: https://developer.open-douyin.com/docs/resource/zh-CN/mini-app/develop/server/log-in/code-2-session
 */
import { isRecord, parseErrcode, readIdentity, readObject } from '../answer.ts'
import type { DeadAnswer, LiveAnswer } from '../answer.ts'
import { createAppSecrets } from '../app-secrets.ts'
import type { Answer } from '../calls.ts'
import { createErrcodeTable } from '../errcode-table.ts'
import type { Platform } from '../platform.ts'

const ERR_NO_BUSY = -1

const ERR_NOS = createErrcodeTable(
  {
    [ERR_NO_BUSY]: { meaning: 'system error', answer: 'wechat_busy' },
    40014: { meaning: 'parameter missing', answer: 'app_misconfigured' },
    40015: { meaning: 'appid invalid', answer: 'app_misconfigured' },
    40017: { meaning: 'secret invalid', answer: 'app_misconfigured' },
    40018: { meaning: 'code never issued, used, expired, or of another app', answer: 'code_invalid' },
    40019: { meaning: 'anonymous_code invalid', answer: 'code_invalid' },
  },
  {
    codeGone: new Set([40018]),
    credentialInvalid: new Set([40017]),
    appRefused: new Set([40015, 40017]),
  },
)

/** The adapter. */
export function createDouyin(origins: readonly string[]): Platform {
  return {
    origins,
    errcodes: ERR_NOS,
    credential: createAppSecrets().credential,
    request: ({ appid }, secret, code) => ({
      path: '/api/apps/v2/jscode2session',
      json: JSON.stringify({ appid, secret, code }),
    }),
    read: readDouyinAnswer,
  }
}

function readDouyinAnswer(answer: Answer): LiveAnswer | DeadAnswer {
  const read = readObject(answer)
  if (read.outcome !== 'ok') return read
  const { err_no, log_id, data } = read.fields
  const errNo = err_no === undefined ? undefined : parseErrcode(err_no)
  if (errNo === undefined) return { outcome: 'invalid', reason: 'err_no is missing or not a number' }
  if (errNo !== 0) {
    const rid = logId(log_id)
    return errNo === ERR_NO_BUSY ? { outcome: 'busy', rid } : { outcome: 'refused', errcode: errNo, rid }
  }
  if (!isRecord(data)) return { outcome: 'invalid', reason: 'data is missing' }
  const { openid, unionid, session_key } = data
  return readIdentity({ openid, unionid, session_key })
}

/** Douyin's request id, for questions to its support. */
function logId(value: unknown): string | undefined {
  return typeof value === 'string' && /^[0-9A-Za-z-]{8,64}$/.test(value) ? value : undefined
}
