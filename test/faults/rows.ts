/** All rows, in the order of the catalogue. A new file of rows is named here. */
import { codeRows } from './rows/codes.ts'
import type { Row } from './row.ts'

export const ROWS: readonly Row[] = [...codeRows]
