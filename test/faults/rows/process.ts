/** M and T: the process itself, its loop, its memory, its clock. */
import type { Row } from '../row.ts'

export const processRows: readonly Row[] = []
