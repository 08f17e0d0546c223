/** U: what WeChat may do. */
import type { Row } from '../row.ts'

export const wechatRows: readonly Row[] = []
