/**
 * What a database error means for the job it met: that another transaction came first (try again at once),
 * that the database cannot work now (try again later), or that this very job cannot succeed.
 *
 * Judged by SQLSTATE and errno, never by message. Postgres' list:
 * https://www.postgresql.org/docs/current/errcodes-appendix.html
 */

/** A user was merged away between being found and being locked. users.ts starts the transaction again. */
export class Superseded extends Error {
  constructor() {
    super('another transaction merged the user meanwhile')
    this.name = 'Superseded'
  }
}

/** The user was erased after the login of which the job tells. */
export class ErasedSince extends Error {
  readonly erasedAtMs: number

  constructor(erasedAtMs: number) {
    super('the user was erased since')
    this.name = 'ErasedSince'
    this.erasedAtMs = erasedAtMs
  }
}

const DEADLOCK_DETECTED = '40P01'
const SERIALIZATION_FAILURE = '40001'

/** Whether the transaction was rolled back for another's sake and the same call can simply be made again. */
export function isConflict(error: unknown): boolean {
  if (error instanceof Superseded) return true
  const code = readCode(error)
  return code === DEADLOCK_DETECTED || code === SERIALIZATION_FAILURE
}

/** Whole classes of SQLSTATE (its first two characters) that say: not now, or not this server. */
const TRANSIENT_CLASSES: ReadonlySet<string> = new Set([
  '08', // connection exception
  '28', // password or role refused: being rotated, and in any case no job's fault
  '3D', // database does not exist: not yet
  '40', // rolled back for another transaction's sake
  '53', // out of connections, memory, disk
  '57', // cancelled by statement_timeout, shutting down, starting up
  '58', // the server's own files
])

const TRANSIENT_STATES: ReadonlySet<string> = new Set([
  '25006', // read-only: a standby, or a primary that was demoted
  '25P03', // idle_in_transaction_session_timeout: this process was stalled
  '55P03', // lock_timeout
])

const SQLSTATE_PATTERN = /^[0-9A-Z]{5}$/

/**
 * Whether the same call may succeed later without anybody changing it. Only for errors that come from the
 * database or its driver.
 *
 * The driver gives its own errors (connection lost, no connection within the time) no code at all, so a plain
 * Error without one counts as transient. A subclass, such as TypeError, is a fault in the program.
 */
export function isTransient(error: unknown): boolean {
  if (!(error instanceof Error)) return false
  if (isConflict(error)) return true
  const code = readCode(error)
  if (code === undefined) return Object.getPrototypeOf(error) === Error.prototype
  if (SQLSTATE_PATTERN.test(code) && !isErrno(error)) {
    return TRANSIENT_STATES.has(code) || TRANSIENT_CLASSES.has(code.slice(0, 2))
  }
  // ECONNREFUSED, ECONNRESET, ETIMEDOUT, ENOTFOUND, EAI_AGAIN, EPIPE …: the network, whichever it is.
  return isErrno(error)
}

/** Classes of SQLSTATE that speak of tables, rights or the server's own state: every job meets the same. */
const SETUP_CLASSES: ReadonlySet<string> = new Set([
  '42', // no such table or column, no right to it: a migration or a grant is missing
  'F0', // configuration file
  'XX', // internal error, damaged data
])

/** Whether a person has to put the database in order; no job is to blame, and none may be lost by it. */
export function isWrongSetup(error: unknown): boolean {
  const code = readCode(error)
  return code !== undefined && SQLSTATE_PATTERN.test(code) && SETUP_CLASSES.has(code.slice(0, 2))
}

export interface DatabaseErrorDescription {
  readonly error: string
  readonly reason?: string
  readonly message?: string
  readonly [field: string]: unknown
}

/** What of a database error is harmless, besides its code: where it arose. */
const SAFE_FIELDS = ['syscall', 'table', 'constraint', 'routine']

/**
 * What may be written down of a database error; `reason` is its SQLSTATE or errno. Postgres' message, detail
 * and parameters can quote an openid, so they are left out; the driver's and the network's own messages name
 * no more than an address.
 */
export function describeDatabaseError(error: unknown): DatabaseErrorDescription {
  if (!(error instanceof Error)) return { error: 'unknown' }
  const reason = readCode(error)
  const fromPostgres = reason !== undefined && !isErrno(error)
  return {
    error: error.name,
    ...(reason !== undefined && { reason }),
    ...(!fromPostgres && { message: error.message }),
    ...Object.fromEntries(
      Object.entries(error).filter(([name, value]) => SAFE_FIELDS.includes(name) && value),
    ),
  }
}

function readCode(error: unknown): string | undefined {
  const code = error instanceof Error && 'code' in error ? error.code : undefined
  return typeof code === 'string' ? code : undefined
}

/** A system error of Node, alone or as the sum of the tries on all addresses of a host. EPIPE looks like a SQLSTATE. */
function isErrno(error: Error): boolean {
  return (
    'syscall' in error || (error instanceof AggregateError && error.errors.some((each) => 'syscall' in each))
  )
}
