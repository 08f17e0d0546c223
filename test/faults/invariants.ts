/**
 * What must hold after every row, whatever its fault was: the client's ledger against the simulator's, Redis (through
 * the front door), Postgres and the receiver of webhooks.
 *
 *   I1  every token that was answered with 200 validates, until a client ended it
 *   I2  WeChat saw each code once (twice where a row kills or stalls who was exchanging it)
 *   I3  same code and nonce, same session; another nonce, never one
 *   I4  every login that was answered with 200 has exactly one row in Postgres
 *   I5  every event that was written down has arrived, signed, with one id, and nobody who logged in is left untold of
 *   I6  only the contract's statuses; errors are problem documents, 429 and 503 say when to come back; no resets
 *   I7  no secret in any log, metric, Redis value or table
 *   I8  no process ended by itself, nor with an unhandled rejection
 *   I9  it is well again by itself: logins and validations of fresh clients succeed, at once and all of them
 */
import { setTimeout as pause } from 'node:timers/promises'
import { findCanaries } from './canaries.ts'
import { newNonce } from './client.ts'
import type { Bench } from './row.ts'
import type { Stand } from './stand.ts'
import { checkWebhooks } from './webhook-ledger.ts'

export interface InvariantSettings {
  /** I2; 2 in rows that kill or stall the leader. Default 1. */
  exchangesPerCode?: number
  /**
   * I1 and I4: acknowledged sessions that may be lost, and with each the job that writes its user, where the row's
   * fault loses writes of Redis. Default 0.
   */
  sessionsLost?: number
  /** I6: whether the row kills gateways that the client talks to directly. Default false. */
  resetsAllowed?: boolean
  /** I4: how long after the end the rows may take. Default 60 s. */
  provisionedWithinMs?: number
  /** Which are left out, and why it cannot be otherwise; the row's table shows it. */
  without?: Partial<Record<'I1' | 'I2' | 'I3' | 'I4' | 'I5' | 'I6' | 'I7' | 'I8' | 'I9', string>>
}

const STATUSES: ReadonlySet<number> = new Set([
  200, 204, 400, 401, 403, 404, 405, 408, 409, 413, 415, 429, 431, 503,
])
/** Of all sessions, the newest; a validation costs some 100 µs. */
const VALIDATED_MAX = 5_000
const AT_ONCE = 50
const WELL_LOGINS = 30
const I4_POLL_MS = 250

/** Call it when the load has stopped and the fault is over. */
export async function checkInvariants(
  bench: Bench,
  stand: Stand,
  settings: InvariantSettings = {},
): Promise<void> {
  const { without = {} } = settings
  for (const [name, reason] of Object.entries(without)) bench.say(`  ${name} left out: ${reason}`)
  bench.say('  invariants')
  if (!without.I9) await checkWell(bench, stand)
  if (!without.I1) await checkSessions(bench, stand, settings.sessionsLost ?? 0)
  if (!without.I2) await checkExchanges(bench, stand, settings.exchangesPerCode ?? 1)
  if (!without.I3) checkSameSession(bench, stand)
  if (!without.I4 && stand.database !== undefined)
    await checkRows(bench, stand, {
      withinMs: settings.provisionedWithinMs ?? 60_000,
      lostMax: settings.sessionsLost ?? 0,
    })
  if (!without.I5) await checkWebhooks(bench, stand, { withinMs: settings.provisionedWithinMs ?? 60_000 })
  if (!without.I6) checkAnswers(bench, stand, settings.resetsAllowed ?? false)
  if (!without.I7) for (const found of await findCanaries(stand)) bench.check(`I7: ${found}`, false)
  if (!without.I8) checkProcesses(bench, stand)
}

/** I9. Fresh clients, one after another: what a person would see now. */
async function checkWell(bench: Bench, { gateways, client, wechat }: Stand): Promise<void> {
  const up = gateways.filter((gateway) => gateway.isRunning())
  let failed = ''
  for (const [at, issued] of (await wechat.codes(WELL_LOGINS)).entries()) {
    const target = up[at % up.length]?.url ?? ''
    const login = await client.login({ target, ...issued, nonce: newNonce() })
    const asked = login.token === undefined ? undefined : await client.validate(target, login.token)
    if (login.status !== 200 || asked?.status !== 200)
      failed ||= `${login.status} ${login.errorCode ?? login.fault ?? ''}, ${asked?.status}`
  }
  bench.check(`I9: not well again: ${failed}`, failed === '')
}

/** I1. */
async function checkSessions(
  bench: Bench,
  { ledger, client, gateways }: Stand,
  lostMax: number,
): Promise<void> {
  const up = gateways.filter((gateway) => gateway.isRunning())
  const tokens = [...ledger.sessions.keys()].slice(-VALIDATED_MAX)
  let lost = 0
  let other = ''
  for (let from = 0; from < tokens.length; from += AT_ONCE) {
    const answers = await Promise.all(
      tokens
        .slice(from, from + AT_ONCE)
        .map((token, at) => client.validate(up[at % up.length]?.url ?? '', token)),
    )
    for (const { status, errorCode } of answers) {
      if (status === 401) lost += 1
      else if (status !== 200) other ||= `${status} ${errorCode ?? ''}`
    }
  }
  bench.check(`I1: a validation was answered with ${other}`, other === '')
  bench.figure('acknowledged sessions lost', lost, { max: lostMax })
}

/** I2. */
async function checkExchanges(bench: Bench, { wechat }: Stand, max: number): Promise<void> {
  const { codes } = await wechat.summary()
  bench.figure('exchanges per code', codes.mostExchanges, { max })
}

/** I3. */
function checkSameSession(bench: Bench, { ledger }: Stand): void {
  const holders = new Map<string, { nonce: string | undefined; token: string | undefined }>()
  let broken = 0
  for (const { code = '', nonce, token, status } of ledger.find({ kind: 'login', status: 200 })) {
    if (status !== 200) continue
    const first = holders.get(code)
    if (first === undefined) holders.set(code, { nonce, token })
    else if (first.nonce !== nonce || first.token !== token) broken += 1
  }
  bench.check(`I3: ${broken} logins got another session, or another's, for one code`, broken === 0)
}

/** I4. The unique constraint sees to it that there are not two; this, that there is one. */
async function checkRows(
  bench: Bench,
  { ledger, database, app }: Stand,
  { withinMs, lostMax }: { withinMs: number; lostMax: number },
): Promise<void> {
  if (database === undefined) return
  const openids = new Map<string, Set<string>>()
  for (const attempt of ledger.find({ kind: 'login', status: 200 })) {
    const appid = attempt.appid || app.appid
    if (!openids.has(appid)) openids.set(appid, new Set())
    openids.get(appid)?.add(attempt.openid ?? '')
  }
  const endsAtMs = performance.now() + withinMs
  let missing = Infinity
  for (;;) {
    missing = 0
    for (const [appid, wanted] of openids) {
      const rows = await database
        .query<{ openid: string }>('select openid from identities where appid = $1', [appid])
        .catch(() => [])
      const there = new Set(rows.map(({ openid }) => openid))
      missing += [...wanted].filter((openid) => openid !== '' && !there.has(openid)).length
    }
    if (missing <= lostMax || performance.now() > endsAtMs) break
    await pause(I4_POLL_MS)
  }
  bench.figure('logged in users without a row', missing, { max: lostMax })
}

/** I6. */
function checkAnswers(bench: Bench, { ledger }: Stand, resetsAllowed: boolean): void {
  const silent = ledger.attempts.filter(({ status }) => status === 0)
  if (!resetsAllowed) {
    const [first] = silent
    bench.check(`I6: ${silent.length} requests got no answer (${first?.fault})`, silent.length === 0)
  }
  const answered = ledger.attempts.filter(({ status }) => status !== 0)
  const foreign = answered.find(({ status }) => !STATUSES.has(status))
  bench.check(
    `I6: a status that is not in the contract: ${foreign?.status} ${foreign?.errorCode}`,
    foreign === undefined,
  )
  const plain = answered.filter(({ status, isProblem }) => status >= 400 && !isProblem)
  bench.check(`I6: ${plain.length} errors were no problem documents`, plain.length === 0)
  const endless = answered.filter(
    ({ status, retryAfterSeconds }) =>
      (status === 429 || status === 503) && !(Number(retryAfterSeconds) >= 1),
  )
  bench.check(
    `I6: ${endless.length} answers with 429 or 503 did not say when to come back`,
    endless.length === 0,
  )
}

/** I8. */
function checkProcesses(bench: Bench, { gateways, workers }: Stand): void {
  for (const program of [...gateways, ...workers]) {
    for (const end of program.unexpectedEnds()) bench.check(`I8: ${end}`, false)
    const bad = /unhandled|MaxListenersExceeded|"level":60/i.exec(program.output())
    bench.check(`I8: ${program.name} wrote: ${bad && excerpt(program.output(), bad.index)}`, bad === null)
  }
}

function excerpt(text: string, at: number): string {
  return text.slice(Math.max(0, text.lastIndexOf('\n', at)), at + 400).trim()
}
