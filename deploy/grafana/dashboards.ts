/** All of them, by the name of the file that Grafana reads. */
import type { Dashboard } from './dashboard.ts'
import { OVERVIEW } from './overview.ts'
import { REDIS_AND_QUEUE } from './redis-and-queue.ts'
import { SESSIONS_AND_ABUSE } from './sessions-and-abuse.ts'
import { WECHAT } from './wechat.ts'

export const DASHBOARDS: Readonly<Record<string, Dashboard>> = {
  overview: OVERVIEW,
  wechat: WECHAT,
  'redis-and-queue': REDIS_AND_QUEUE,
  'sessions-and-abuse': SESSIONS_AND_ABUSE,
}
