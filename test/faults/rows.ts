/** All rows, by subject, about in the order of the catalogue. A new file of rows is named here. */
import { breakerRows } from './rows/breaker.ts'
import { killedLeaderRows } from './rows/codes-killed.ts'
import { codeRows } from './rows/codes.ts'
import { lifecycleRows } from './rows/lifecycle.ts'
import { processRows } from './rows/process.ts'
import { redisRows } from './rows/redis.ts'
import type { Row } from './row.ts'
import { wechatAnswerRows } from './rows/wechat-answers.ts'
import { wechatAppRows } from './rows/wechat-apps.ts'
import { wechatDnsRows } from './rows/wechat-dns.ts'
import { wechatRows } from './rows/wechat.ts'
import { workerRows } from './rows/worker.ts'

export const ROWS: readonly Row[] = [
  ...codeRows,
  ...killedLeaderRows,
  ...redisRows,
  ...wechatRows,
  ...wechatAnswerRows,
  ...wechatAppRows,
  ...wechatDnsRows,
  ...breakerRows,
  ...workerRows,
  ...lifecycleRows,
  ...processRows,
]
