/** R: Redis away, hung, failed over, full, foreign. */
import type { Row } from '../row.ts'

export const redisRows: readonly Row[] = []
