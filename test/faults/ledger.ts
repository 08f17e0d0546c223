/**
 * The client's ledger: every request that was sent, and what came of it. Figures and invariants are read off it.
 */

export type AttemptKind = 'login' | 'validate' | 'logout' | 'other'

export interface Attempt {
  kind: AttemptKind
  /** When it was due, on this process's monotonic clock; its latency counts from here, so a stall is not hidden. */
  atMs: number
  /** From when it was due until its answer was read. */
  ms: number
  /** 0: no answer came; `fault` says why. */
  status: number
  /** ECONNRESET, ECONNREFUSED, UND_ERR_…; undefined when an answer came. */
  fault?: string | undefined
  /** Of a problem document. */
  errorCode?: string | undefined
  retry?: string | undefined
  retryAfterSeconds?: number | undefined
  /** Whether an error was application/problem+json. */
  isProblem: boolean
  /** The base URL it went to. */
  target: string
  /** Of a login. */
  code?: string | undefined
  nonce?: string | undefined
  appid?: string | undefined
  openid?: string | undefined
  /** Of a login that was answered 200, or the one that was presented. */
  token?: string | undefined
  sub?: string | undefined
}

export interface LedgerFilter {
  kind?: AttemptKind
  /** Due at or after, on performance.now(). */
  fromMs?: number
  /** Due before. */
  toMs?: number
  status?: number
  errorCode?: string
  target?: string
  appid?: string
}

export type Ledger = ReturnType<typeof createLedger>

export function createLedger() {
  const attempts: Attempt[] = []
  /** Sessions that were answered with 200 and not ended by a client since. */
  const sessions = new Map<string, { sub: string; appid: string; openid: string; code: string }>()

  function find({ kind, fromMs = -Infinity, toMs = Infinity, ...rest }: LedgerFilter = {}): Attempt[] {
    return attempts.filter(
      (attempt) =>
        (kind === undefined || attempt.kind === kind) &&
        attempt.atMs >= fromMs &&
        attempt.atMs < toMs &&
        (rest.status === undefined || attempt.status === rest.status) &&
        (rest.errorCode === undefined || attempt.errorCode === rest.errorCode) &&
        (rest.target === undefined || attempt.target === rest.target) &&
        (rest.appid === undefined || attempt.appid === rest.appid),
    )
  }

  return {
    attempts: attempts as readonly Attempt[],
    sessions,
    find,
    note(attempt: Attempt): void {
      attempts.push(attempt)
      if (attempt.kind === 'login' && attempt.status === 200 && attempt.token !== undefined)
        sessions.set(attempt.token, {
          sub: attempt.sub ?? '',
          appid: attempt.appid ?? '',
          openid: attempt.openid ?? '',
          code: attempt.code ?? '',
        })
      if (attempt.kind === 'logout' && attempt.token !== undefined) sessions.delete(attempt.token)
    },
    count: (filter: LedgerFilter) => find(filter).length,
    /** Milliseconds that this share of the requests did not exceed; 0.99 for p99. NaN when there are none. */
    quantile: (share: number, filter: LedgerFilter) =>
      quantile(
        find(filter).map(({ ms }) => ms),
        share,
      ),
    /** "200 ×812, 503 store_unavailable ×40", for progress lines. */
    summary(filter: LedgerFilter = {}): string {
      const counts = new Map<string, number>()
      for (const { status, errorCode, fault } of find(filter)) {
        const name = [status || fault, errorCode].filter(Boolean).join(' ')
        counts.set(name, (counts.get(name) ?? 0) + 1)
      }
      const sorted = [...counts].toSorted(([, a], [, b]) => b - a)
      return sorted.map(([name, count]) => `${name} ×${count}`).join(', ') || 'nothing'
    },
    /**
     * How long after `fromMs` the last request failed that was due then or later (5xx or no answer): the length of
     * the trouble. 0 when none did.
     */
    lastFailureAfterMs(fromMs: number, filter: LedgerFilter = {}): number {
      const failed = find({ ...filter, fromMs }).filter(({ status }) => status === 0 || status >= 500)
      return Math.max(0, ...failed.map(({ atMs }) => atMs - fromMs))
    },
  }
}

export function quantile(values: readonly number[], share: number): number {
  if (values.length === 0) return Number.NaN
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN
}
