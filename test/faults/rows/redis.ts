/** R: Redis away, hung, failed over, full, foreign; and T1, clocks that are wrong. */
import type { Row } from '../row.ts'
import { failoverRows } from './redis-failover.ts'
import { foreignRows } from './redis-foreign.ts'
import { outageRows } from './redis-outage.ts'

export const redisRows: readonly Row[] = [...outageRows, ...failoverRows, ...foreignRows]
