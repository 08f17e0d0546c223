/** B: the circuit breaker, the bulkhead, and retries. */
import type { Row } from '../row.ts'

export const breakerRows: readonly Row[] = []
