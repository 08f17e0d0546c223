/** N: load balancers, starting, stopping, and clients that misbehave. */
import type { Row } from '../row.ts'

export const lifecycleRows: readonly Row[] = []
