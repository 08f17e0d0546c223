/**
 * A span for each statement of the database that is run in the name of a job. Only with tracing on.
 *
 * Of a statement it says what it does to which table, and neither its text nor its values.
 */
import type { LogEvent } from 'kysely'
import type { SpanAttributes } from '../src/tracing/attributes.ts'
import { activeSpan } from '../src/tracing/span.ts'
import { describeDatabaseError } from './database-errors.ts'

/** To be given to Kysely as its log, which is told of each statement when it has ended. */
export function recordQuery(event: LogEvent): void {
  const span = activeSpan()
  if (span === undefined) return
  const { operation, table } = summaryOf(event.query.sql)
  const summary = table === undefined ? operation : `${operation} ${table}`
  const attributes: SpanAttributes = {
    'db.system.name': 'postgresql',
    'db.operation.name': operation,
    'db.query.summary': summary,
  }
  const failure =
    event.level === 'error' ? (describeDatabaseError(event.error).reason ?? 'connection lost') : undefined
  span.record(summary, { kind: 'client', attributes, durationMs: event.queryDurationMillis, failure })
}

/** What changes something goes before what only reads; of several the first. */
const CHANGE = /(?<!\bfor )\b(insert into|update|delete from)\s+"?([a-z_]+)"?/i
const READ = /\bfrom\s+"?([a-z_]+)"?/i
const FIRST_WORD = /^\s*([a-z]+)/i

function summaryOf(sql: string): { operation: string; table: string | undefined } {
  const [, change, changed] = CHANGE.exec(sql) ?? []
  if (change !== undefined) return { operation: wordOf(change), table: changed }
  const first = wordOf(FIRST_WORD.exec(sql)?.[1] ?? 'query')
  return { operation: first === 'WITH' ? 'SELECT' : first, table: READ.exec(sql)?.[1] }
}

function wordOf(operation: string): string {
  return operation.split(' ')[0]?.toUpperCase() ?? ''
}
