/**
 * The WeChat simulator, for tests in the same process: starts both listeners and gives the handle on them.
 *
 * ```ts
 * const wechat = await startSimulator()
 * const { code } = wechat.issueCode({ user: 'alice' })
 * // point the system under test to wechat.url, log in with the code, then:
 * expect(wechat.history({ code })).toHaveLength(1)
 * await wechat.close()
 * ```
 *
 * FOR TESTS ONLY: anybody who reaches the control port can log in as anybody.
 */
import type { Server } from 'node:http'
import type { AppInput, AppView } from './apps.ts'
import type { FaultRule } from './faults.ts'
import type { HistoryEntry, HistoryFilter, HistorySummary } from './history.ts'
import type { OpenData } from './open-data.ts'
import type {
  CodeInput,
  InvalidateInput,
  Issued,
  OpenDataRequest,
  PhoneCodeInput,
  Platform,
  PlatformSettings,
  PushInput,
  UserInput,
} from './platform.ts'
import type { PushReport } from './pushes.ts'
import type { AccountView } from './users.ts'
import type { TrafficStats } from './listener.ts'
import { createControl } from './control.ts'
import { createFaults } from './faults.ts'
import { createHistory } from './history.ts'
import { createPlatform } from './platform.ts'
import { createWechatListener } from './listener.ts'

export interface SimulatorOptions extends PlatformSettings {
  /** Default 127.0.0.1. */
  host?: string
  /** Default 0: any free port. */
  port?: number
  /** Default 127.0.0.1. */
  controlHost?: string
  /** Default 0: any free port. */
  controlPort?: number
  /** Whether the control port also serves callers from other machines. Default false. */
  controlRemote?: boolean
  /** Serves https with this key and certificate (PEM). */
  tls?: { key: string; cert: string }
  /** How long an unused connection stays open. Default 65,000, as nginx has it. */
  keepAliveTimeoutMs?: number
  /** Requests kept in the history. Default 100,000. */
  historyMax?: number
}

/** A snapshot of sizes and traffic. */
interface SimulatorStats extends TrafficStats {
  seed: string
  held: number
  faults: number
  historyEntries: number
  counts: ReturnType<Platform['counts']>
}

export interface Simulator {
  /** Where WeChat is, for instance http://127.0.0.1:3080. */
  url: string
  controlUrl: string
  /** Does wx.login(). Without openid and user: a new person. */
  issueCode(input?: CodeInput): Issued
  issueCodes(count: number, input?: CodeInput): Issued[]
  issuePhoneCode(input?: PhoneCodeInput): Issued & { phoneNumber: string }
  /** Makes or changes a user. */
  putUser(input: UserInput): AccountView
  /** The users that fit, the newest first, session_key included. */
  users(filter?: { appid?: string; openid?: string; user?: string }): AccountView[]
  /** Adds or changes an app: secrets, whitelist, quotas. */
  putApp(input: AppInput): AppView
  /** What the Mini Program would get from WeChat for its backend. */
  openData(input: OpenDataRequest): OpenData
  /** Pushes an event to the app's server; resolves when that says `success` or WeChat gives up. */
  push(input?: PushInput): Promise<PushReport>
  /** Whether the app's server passes the URL check. */
  checkPushUrl(appid?: string): Promise<boolean>
  /** Returns how many access_tokens were taken out of service. */
  invalidateTokens(input?: InvalidateInput): number
  /** Adds a fault rule. `release` lets go what it holds; `remove` ends it and leaves held requests held. */
  addFault(rule: FaultRule): { id: number; remove(): void; release(): number }
  /** Lets go all requests held by `hold` rules; returns how many. */
  release(): number
  clearFaults(): void
  /** The requests that fit, oldest first. */
  history(filter?: HistoryFilter): HistoryEntry[]
  summary(): HistorySummary
  clearHistory(): void
  /** How many requests brought each code. */
  exchangesByCode(): Map<string, number>
  /** Resolves when the code has arrived (`times` times); rejects at reset() and close(). */
  received(code: string, times?: number): Promise<void>
  stats: () => SimulatorStats
  /** As newly started, but for the seed's streams: no users, codes, faults, history; connections are cut. */
  reset(): void
  /** Cuts all connections and stops. Takes no time, also while requests hang. */
  close(): Promise<void>
}

/** Starts the simulator. Rejects when a port is taken (EADDRINUSE). */
export async function startSimulator(options: SimulatorOptions = {}): Promise<Simulator> {
  const platform = createPlatform(options)
  const faults = createFaults({ seed: platform.seed })
  const history = createHistory(
    { paths: new Set(Object.keys(platform.endpoints)) },
    { entriesMax: options.historyMax ?? 100_000, codesMax: options.codesMax ?? 1_000_000 },
  )
  const wechat = createWechatListener(
    { endpoints: platform.endpoints, answers: platform.answers, faults, history, now: platform.now },
    { keepAliveTimeoutMs: options.keepAliveTimeoutMs ?? 65_000, ...(options.tls && { tls: options.tls }) },
  )

  const stats = (): SimulatorStats => ({
    ...wechat.stats(),
    seed: platform.seed,
    held: faults.heldCount(),
    faults: faults.count(),
    historyEntries: history.entryCount(),
    counts: platform.counts(),
  })

  function reset(): void {
    wechat.cutConnections()
    faults.clear()
    platform.reset()
    history.clear()
    history.abandonWaiters('The simulator was reset.')
  }

  const control = createControl(
    { platform, faults, history, stats, reset },
    { remote: options.controlRemote ?? false },
  )

  await listen(wechat.server, options.port, options.host)
  try {
    await listen(control, options.controlPort, options.controlHost)
  } catch (error) {
    wechat.server.close()
    throw error
  }

  return {
    url: urlOf(wechat.server, options.tls ? 'https' : 'http'),
    controlUrl: urlOf(control, 'http'),
    issueCode: (input) => first(platform.issueCodes({ ...input, count: 1 })),
    issueCodes: (count, input) => platform.issueCodes({ ...input, count }),
    issuePhoneCode: (input) => first(platform.issuePhoneCodes({ ...input, count: 1 })),
    putUser: (input) => first(platform.putUsers({ ...input, count: 1 })),
    users: (filter = {}) => platform.listUsers(filter, Infinity),
    putApp: (input) => platform.putApp(input),
    openData: (input) => platform.writeOpenData(input),
    push: (input = {}) => platform.push(input),
    checkPushUrl: async (appid) =>
      (await platform.checkPushUrl(appid === undefined ? {} : { appid })).verified,
    invalidateTokens: (input = {}) => platform.invalidateTokens(input),
    addFault(rule) {
      const id = faults.add(rule)
      return { id, remove: () => void faults.remove(id), release: () => faults.release(id) }
    },
    release: () => faults.release(),
    clearFaults: () => faults.clear(),
    history: (filter) => history.list(filter),
    summary: () => history.summary(),
    clearHistory: () => history.clear(),
    exchangesByCode: () => history.exchangesByCode(),
    received: (code, times = 1) => history.received(code, times),
    stats,
    reset,
    async close() {
      history.abandonWaiters('The simulator was closed.')
      platform.endPushes()
      const closed = Promise.all([stop(wechat.server), stop(control)])
      wechat.cutConnections()
      control.closeAllConnections()
      await closed
    },
  }
}

function listen(server: Server, port = 0, host = '127.0.0.1'): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen({ port, host }, () => {
      server.off('error', reject)
      resolve()
    })
  })
}

/** Stops listening; a second time is no error. */
function stop(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve())
  })
}

function urlOf(server: Server, scheme: 'http' | 'https'): string {
  const bound = server.address()
  if (bound === null || typeof bound === 'string') throw new Error('the server does not listen on a TCP port')
  const { address, port } = bound
  const host = address === '0.0.0.0' || address === '::' ? '127.0.0.1' : address
  return `${scheme}://${host.includes(':') ? `[${host}]` : host}:${port}`
}

function first<T>(items: T[]): T {
  const [item] = items
  if (item === undefined) throw new Error('expected one item')
  return item
}
