/** W: workers and the database. */
import type { Row } from '../row.ts'

export const workerRows: readonly Row[] = []
