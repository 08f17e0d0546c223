/** What rows about an outage ask of the ledgers: what failed meanwhile, which codes were used up, how long it was. */
import { setTimeout as pause } from 'node:timers/promises'
import type { Attempt, AttemptKind, Ledger } from './ledger.ts'
import type { RedisServers } from './redis-servers.ts'
import type { Bench } from './row.ts'
import type { Stand } from './stand.ts'

/** Part of the load that is wanted, on a machine that cannot bear all of it. */
const LOAD_SHARE = Number(process.env['FAULTS_LOAD'] ?? 1)

/**
 * Goes on while Redis breaks. Two cores carry the whole stand and the bench: 200 first logins a second, each with its
 * job and its rows, are more than they bear (p99 400 ms with nothing broken), so three of four users come back.
 */
export const REDIS_LOAD = {
  loginsPerSecond: 200 * LOAD_SHARE,
  validationsPerSecond: 100 * LOAD_SHARE,
  loginsPerUser: 4,
}

export interface Span {
  fromMs: number
  toMs: number
}

/** They end with the row, after all that uses them. */
export async function deferred<T extends Pick<RedisServers, 'close'>>(
  bench: Bench,
  starting: Promise<T>,
): Promise<T> {
  const servers = await starting
  bench.defer(() => servers.close())
  return servers
}

export function isFailure({ status }: Pick<Attempt, 'status'>): boolean {
  return status === 0 || status >= 500
}

/** Logins that were due and answered with 200 within the span: one that is still under way at its end may succeed. */
export function loginsWithin(ledger: Ledger, span: Span): number {
  return ledger.find({ kind: 'login', status: 200, ...span }).filter(({ atMs, ms }) => atMs + ms <= span.toMs)
    .length
}

/** From the first to the last failure within the span; 0 when there is none. */
export function failureWindowMs(ledger: Ledger, span: Span, kind?: AttemptKind): number {
  const failed = ledger.find({ ...span, ...(kind === undefined ? {} : { kind }) }).filter(isFailure)
  if (failed.length === 0) return 0
  const times = failed.map(({ atMs }) => atMs)
  return Math.max(...times) - Math.min(...times)
}

/** Logins that were acknowledged in the last moment before the fault: what asynchronous replication may lose. */
export function acknowledgedJustBefore(ledger: Ledger, faultMs: number, momentMs = 100): number {
  return ledger
    .find({ kind: 'login', status: 200, toMs: faultMs })
    .filter(({ atMs, ms }) => atMs + ms >= faultMs - momentMs).length
}

/**
 * Exchanges within the span of codes whose login was due in it: what a claim made before began may end meanwhile. The
 * simulator keeps the last requests.
 */
export async function exchangesWithin({ wechat, ledger }: Stand, span: Span): Promise<number> {
  const codes = new Set(ledger.find({ kind: 'login', ...span }).map(({ code }) => code))
  const entries = await wechat.history({ path: '/sns/jscode2session', limit: 50_000 })
  const [from, to] = [span.fromMs, span.toMs].map((ms) => performance.timeOrigin + ms) as [number, number]
  return entries.filter(
    ({ receivedAt, code }) => receivedAt >= from && receivedAt < to && codes.has(code ?? ''),
  ).length
}

const AT_ONCE = 20

/**
 * Sends every code once more that was refused with `same_code` within the span, as its client would. Gives how many
 * did not log in, which must be none, and how many were sent.
 */
export async function sendRefusedAgain(
  { ledger, client, gateways }: Stand,
  span: Span,
): Promise<{ sent: number; lost: number; slowestMs: number }> {
  const refused = ledger
    .find({ kind: 'login', status: 503, ...span })
    .filter(({ retry, code }) => retry === 'same_code' && code !== undefined)
  let lost = 0
  let slowestMs = 0
  for (let from = 0; from < refused.length; from += AT_ONCE) {
    const answers = await Promise.all(
      refused
        .slice(from, from + AT_ONCE)
        .map(({ code = '', nonce, openid = '' }, at) =>
          client.login({ target: gateways[at % gateways.length]?.url ?? '', code, nonce, openid }),
        ),
    )
    lost += answers.filter(({ status }) => status !== 200).length
    slowestMs = Math.max(slowestMs, ...answers.map(({ ms }) => ms))
  }
  return { sent: refused.length, lost, slowestMs }
}

/** Polls until it holds. Gives the time it took, Infinity when it did not come to hold. */
export async function takesMs(
  holds: () => Promise<boolean> | boolean,
  { withinMs, pollMs = 50 }: { withinMs: number; pollMs?: number },
): Promise<number> {
  const startedMs = performance.now()
  for (;;) {
    if (await Promise.resolve(holds()).catch(() => false)) return performance.now() - startedMs
    if (performance.now() - startedMs > withinMs) return Infinity
    await pause(pollMs)
  }
}

/** The status of a health route; 0 when nobody answers. */
export async function statusOf(url: string): Promise<number> {
  try {
    const answer = await fetch(url, { signal: AbortSignal.timeout(2_000) })
    await answer.arrayBuffer()
    return answer.status
  } catch {
    return 0
  }
}
