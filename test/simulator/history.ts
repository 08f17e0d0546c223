/**
 * What the simulated WeChat has received: the ledger that tests compare with their own.
 *
 * Three records, all bounded. The entries are a ring of the last requests. The totals by path and outcome
 * are counters over the whole run. The number of exchanges by code is a map whose oldest code is
 * forgotten beyond its limit, while "codes exchanged more than once" stays a counter and forgets nothing.
 * No AppSecret and no access_token is kept, only whether it was right.
 */
import type { FaultKind } from './faults.ts'
import type { Identity } from './calls.ts'
import { InputError } from './fields.ts'

const WAITERS_MAX = 10_000
/** Lists of parameter names that are kept once for all requests that have them. */
const KNOWN_NAMES_MAX = 100
/** Names and codes are cut to this, so that a hostile request cannot fill the memory. */
const TEXT_MAX = 512
const NAMES_MAX = 64

/**
 * How a request ended. 'pending': not yet. 'ok' or an errcode: that was answered. A fault's kind: that
 * fault stood in place of the plain answer. 'http_412', 'http_413': turned away by HTTP.
 * 'gone': the client left before it was decided what to answer.
 */
export type Outcome = 'pending' | 'ok' | number | FaultKind | 'http_412' | 'http_413' | 'gone'

/** One request. */
export interface HistoryEntry extends Identity {
  /** 1 for the first request since the start or the last clearing of everything. */
  seq: number
  /** Unix milliseconds, by the simulator's clock. */
  receivedAt: number
  method: string
  path: string
  /** Names of the query parameters as received, in order, repetitions included. */
  parameters: readonly string[]
  /** Names of the JSON body's fields. */
  bodyParameters: readonly string[]
  ip: string
  /** The caller's port: the same port twice is the same connection used again. */
  remotePort: number
  /** What WeChat decided, when it came to that: 'ok' on an exchange means that the code is used up. */
  decided: 'ok' | number | null
  fault: FaultKind | null
  outcome: Outcome
  /** Until the answer was handed over or the connection ended; null while neither has happened. */
  durationMs: number | null
  /** Whether the whole answer was handed to the socket. */
  answered: boolean
}

/** Which entries are asked for; `limit` keeps the last ones. Outcomes are compared as text: 40029 is '40029'. */
export interface HistoryFilter {
  path?: string
  code?: string
  appid?: string
  openid?: string
  outcome?: string | number
  limit?: number
}

/** Counters over the whole run; cheap to ask for after any number of requests. */
export interface HistorySummary {
  requests: number
  /** path → outcome → count. Paths that are not WeChat endpoints count as "other". */
  outcomes: Record<string, Record<string, number>>
  codes: { exchanged: number; moreThanOnce: number; mostExchanges: number; mostExchanged: string | null }
  /** Requests with a query parameter more than once. */
  repeatedParameters: number
  wrongSecrets: number
}

export type History = ReturnType<typeof createHistory>

export function createHistory(
  { paths }: { paths: ReadonlySet<string> },
  { entriesMax, codesMax }: { entriesMax: number; codesMax: number },
) {
  let ring: HistoryEntry[] = []
  let firstSeq = 1
  let lastSeq = 0
  let outcomes = new Map<string, Map<Outcome, number>>()
  const exchanges = new Map<string, number>()
  const knownPaths = new Map([...paths].map((path) => [path, path]))
  const knownNames = new Map<string, readonly string[]>()
  let codes = { exchanged: 0, moreThanOnce: 0, mostExchanges: 0, mostExchanged: null as string | null }
  let repeatedParameters = 0
  let wrongSecrets = 0
  let waiters: { code: string; times: number; resolve: () => void; reject: (reason: Error) => void }[] = []

  function countCode(code: string): void {
    const times = (exchanges.get(code) ?? 0) + 1
    exchanges.set(code, times)
    if (times === 1) {
      codes.exchanged += 1
      if (exchanges.size > codesMax) forgetOldestCode()
    }
    if (times === 2) codes.moreThanOnce += 1
    if (times > codes.mostExchanges) Object.assign(codes, { mostExchanges: times, mostExchanged: code })
    if (waiters.length === 0) return
    const reached = (waiter: { code: string; times: number }) => waiter.code === code && waiter.times <= times
    const ready = waiters.filter(reached)
    waiters = waiters.filter((waiter) => !reached(waiter))
    for (const { resolve } of ready) resolve()
  }

  /** Nearly all requests have the same parameter names; one list serves them all. */
  function shareNames(names: readonly string[]): readonly string[] {
    const key = JSON.stringify(names)
    const known = knownNames.get(key)
    if (known) return known
    const kept = Object.freeze(names.slice(0, NAMES_MAX).map((name) => name.slice(0, TEXT_MAX)))
    if (knownNames.size < KNOWN_NAMES_MAX && key.length <= TEXT_MAX) knownNames.set(key, kept)
    return kept
  }

  function forgetOldestCode(): void {
    const oldest = exchanges.keys().next()
    if (!oldest.done) exchanges.delete(oldest.value)
  }

  function* newestFirst(): Generator<HistoryEntry> {
    for (let seq = lastSeq; seq >= firstSeq && seq > lastSeq - entriesMax; seq--) {
      const entry = ring[seq % entriesMax]
      if (entry) yield entry
    }
  }

  function clear(): void {
    ring = []
    firstSeq = lastSeq + 1
    outcomes = new Map()
    exchanges.clear()
    codes = { exchanged: 0, moreThanOnce: 0, mostExchanges: 0, mostExchanged: null }
    repeatedParameters = 0
    wrongSecrets = 0
  }

  return {
    /** Records a request on arrival and wakes those who wait for its code. */
    begin(
      request: Pick<HistoryEntry, 'receivedAt' | 'method' | 'path' | 'parameters' | 'bodyParameters'> &
        Pick<HistoryEntry, 'ip' | 'remotePort'> &
        Identity,
    ): HistoryEntry {
      lastSeq += 1
      const code = keepText(request.code)
      const entry: HistoryEntry = {
        seq: lastSeq,
        receivedAt: request.receivedAt,
        method: request.method,
        path: knownPaths.get(request.path) ?? keepText(request.path),
        parameters: shareNames(request.parameters),
        bodyParameters: shareNames(request.bodyParameters),
        appid: keepText(request.appid),
        code,
        openid: keepText(request.openid),
        secretRight: request.secretRight,
        ip: request.ip,
        remotePort: request.remotePort,
        decided: null,
        fault: null,
        outcome: 'pending',
        durationMs: null,
        answered: false,
      }
      ring[lastSeq % entriesMax] = entry
      if (new Set(request.parameters).size < request.parameters.length) repeatedParameters += 1
      if (request.secretRight === false) wrongSecrets += 1
      if (code !== null) countCode(code)
      return entry
    },

    /** Says how the request ended, once. */
    settle(entry: HistoryEntry, outcome: Outcome): void {
      if (entry.outcome !== 'pending') return
      entry.outcome = outcome
      // A request from before the last clear() belongs to no total.
      if (entry.seq < firstSeq) return
      const path = paths.has(entry.path) ? entry.path : 'other'
      const totals = outcomes.get(path) ?? new Map<Outcome, number>()
      outcomes.set(path, totals)
      totals.set(outcome, (totals.get(outcome) ?? 0) + 1)
    },

    /** The entries that fit, oldest first, as they are now. */
    list(filter: HistoryFilter = {}): HistoryEntry[] {
      const found: HistoryEntry[] = []
      for (const entry of newestFirst()) {
        if (found.length >= (filter.limit ?? Infinity)) break
        if (fits(entry, filter)) found.push({ ...entry })
      }
      return found.toReversed()
    },

    summary(): HistorySummary {
      const byPath = [...outcomes].map(([path, totals]) => [path, Object.fromEntries(totals)] as const)
      return {
        requests: lastSeq - firstSeq + 1,
        outcomes: Object.fromEntries(byPath),
        codes: { ...codes },
        repeatedParameters,
        wrongSecrets,
      }
    },

    /** How often each code has arrived; a copy. */
    exchangesByCode: (): Map<string, number> => new Map(exchanges),

    /** Resolves when the code has arrived `times` times; rejects when the simulator is reset or closed. */
    received(code: string, times: number): Promise<void> {
      if ((exchanges.get(code) ?? 0) >= times) return Promise.resolve()
      if (waiters.length >= WAITERS_MAX) throw new InputError(`no more than ${WAITERS_MAX} waiters`)
      const arrival = new Promise<void>((resolve, reject) => {
        waiters.push({ code, times, resolve, reject })
      })
      // A test that fails before it awaits must not fail once more for an unhandled rejection.
      arrival.catch(() => undefined)
      return arrival
    },

    /** Gives up on everybody who waits for a code. */
    abandonWaiters(reason: string): void {
      const abandoned = waiters
      waiters = []
      for (const { reject } of abandoned) reject(new Error(reason))
    },
    clear,
    entryCount: () => Math.min(lastSeq - firstSeq + 1, entriesMax),
  }
}

/**
 * A copy of at most TEXT_MAX characters. A copy, because what was cut out of a URL keeps the whole URL in
 * memory, AppSecret included.
 */
function keepText<T extends string | null>(text: T): T extends string ? string : string | null
function keepText(text: string | null): string | null {
  return text === null ? null : Buffer.from(text.slice(0, TEXT_MAX)).toString()
}

function fits(entry: HistoryEntry, { path, code, appid, openid, outcome }: HistoryFilter): boolean {
  return (
    (path === undefined || entry.path === path) &&
    (code === undefined || entry.code === code) &&
    (appid === undefined || entry.appid === appid) &&
    (openid === undefined || entry.openid === openid) &&
    (outcome === undefined || String(entry.outcome) === String(outcome))
  )
}
