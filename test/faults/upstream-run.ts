/** What the rows about WeChat have in common: a load that meets a fault, and the counts that say what came of it. */
import { setTimeout as pause } from 'node:timers/promises'
import { newNonce } from './client.ts'
import type { Load, LoadSettings } from './load.ts'
import type { Bench } from './row.ts'
import { startStand } from './stand.ts'
import type { Gateway, Stand, StandOptions } from './stand.ts'
import { untilWarm } from './warm-up.ts'
import type { FaultRule, WechatApp } from './wechat.ts'

/** As in src/wechat/: these are the promises of the rows. */
export const SLOTS = 64
export const DEADLINE_MS = 3_000
export const RESET_MS = { min: 4_000, max: 6_000 }
export const BREAKER = { closed: 0, halfOpen: 1, open: 2 }
/** Of failures in a row, after which a circuit opens. */
export const VOLUME = 20

/** The catalogue has a minute; nothing that a row waits for takes longer than ten seconds. */
export const FAULT_MS = 15_000
/** A code may be seen twice where an attempt that broke before any answer is made once more (failures.md D4). */
export const ASKED_AGAIN = { exchangesPerCode: 2 }
/** As the catalogue has it. */
export const LOGINS_PER_SECOND = 100
export const VALIDATIONS_PER_SECOND = 100
/**
 * Before the fault: long enough for good answers to fill the breaker's window of ten seconds, so that it has to open
 * against them.
 */
const WARM_MS = 10_000
const WELL_MS_MAX = 20_000
const POLL_MS = 50

export interface FaultRun {
  stand: Stand
  load: Load
  /** When the fault began, on performance.now(). */
  faultMs: number
}

/** Starts a stand with a load on it, warms it up, and brings the fault. */
export async function bringFault(
  bench: Bench,
  rules: FaultRule | readonly FaultRule[],
  options: StandOptions & { load?: Partial<LoadSettings>; warmMs?: number } = {},
): Promise<FaultRun> {
  const { load: loadSettings, warmMs = WARM_MS, ...standOptions } = options
  const stand = await startStand(bench, standOptions)
  const load = await stand.load({
    loginsPerSecond: LOGINS_PER_SECOND,
    validationsPerSecond: VALIDATIONS_PER_SECOND,
    loginsPerUser: 4,
    ...loadSettings,
  })
  if (warmMs > 0) await untilWarm(bench, stand, { minMs: warmMs })
  for (const rule of [rules].flat()) await stand.wechat.fault(rule)
  return { stand, load, faultMs: performance.now() }
}

/** The end of the fault, and of what is left of it: every gateway takes a login again. Resolves with how long it took. */
export async function recover(bench: Bench, { stand, load }: FaultRun): Promise<number> {
  await load.stop()
  await stand.wechat.clearFaults()
  const clearedMs = performance.now()
  for (const gateway of stand.gateways) {
    while (!(await takesLogin(stand, gateway))) {
      if (performance.now() - clearedMs > WELL_MS_MAX) {
        bench.check(`${gateway.name} takes logins again within ${WELL_MS_MAX} ms`, false)
        break
      }
      await pause(POLL_MS)
    }
  }
  return performance.now() - clearedMs
}

async function takesLogin({ wechat, client }: Stand, { url }: Gateway): Promise<boolean> {
  const [issued] = await wechat.codes(1)
  if (issued === undefined) throw new Error('no code')
  const { status } = await client.login({ target: url, ...issued, nonce: newNonce() })
  return status === 200
}

/** A metric of all gateways together. */
export async function total(
  { gateways }: Stand,
  name: string,
  labels: Record<string, string> = {},
): Promise<number> {
  const values = await Promise.all(gateways.map((gateway) => gateway.metric(name, labels)))
  return values.reduce((sum, value) => sum + value, 0)
}

/** Calls of code2Session that the gateways have made, whatever came of them. */
export const attemptsOf = (stand: Stand, labels: Record<string, string> = {}): Promise<number> =>
  total(stand, 'wechat_exchange_duration_seconds_count', labels)

/** Waits for a state of all gateways' breakers. Resolves with how long it took; NaN: it did not come. */
export async function untilBreakers({ gateways }: Stand, state: number, timeoutMs = 10_000): Promise<number> {
  const startedMs = performance.now()
  for (;;) {
    const states = await Promise.all(gateways.map((gateway) => gateway.metric('wechat_breaker_state')))
    const tookMs = performance.now() - startedMs
    if (states.every((one) => one === state)) return tookMs
    if (tookMs > timeoutMs) return Number.NaN
    await pause(POLL_MS)
  }
}

/** That nobody's circuit has opened. */
export async function checkClosed(bench: Bench, stand: Stand): Promise<void> {
  const opened = stand.gateways.filter((gateway) => /"state":"open"/.test(gateway.output())).length
  bench.figure('gateways whose circuit opened', opened, { is: 0 })
}

/** That validations did not notice: they ask Redis, not WeChat. */
export function checkValidations(bench: Bench, { stand, faultMs }: FaultRun): void {
  const filter = { kind: 'validate', fromMs: faultMs } as const
  bench.figure(
    'validations that failed',
    stand.ledger.count(filter) - stand.ledger.count({ ...filter, status: 200 }),
    {
      is: 0,
    },
  )
  bench.figure('validation p99', stand.ledger.quantile(0.99, filter), { unit: 'ms', max: 30 })
}

/** That every login since the fault has an answer of these, and 200 is one of them only if it is named. */
export function checkAnswers(bench: Bench, { stand, faultMs }: FaultRun, codes: readonly string[]): void {
  const answers = stand.ledger.find({ kind: 'login', fromMs: faultMs })
  const others = answers.filter(({ status, errorCode }) => !codes.includes(errorCode ?? String(status)))
  bench.say(`  ${stand.ledger.summary({ kind: 'login', fromMs: faultMs })}`)
  bench.figure('logins with another answer than expected', others.length, { is: 0 })
}

export const shareOf = (part: number, whole: number): number => Math.round((10_000 * part) / whole) / 100

/** Adds apps over the administrator's interface, and waits until all gateways know them. */
export async function addApps(stand: Stand, apps: readonly WechatApp[]): Promise<void> {
  for (const app of apps) {
    const { status } = await stand.gateway().admin('POST', '/apps', app)
    if (status >= 300) throw new Error(`an app could not be added: ${status}`)
  }
  for (const gateway of stand.gateways) {
    const isKnown = async () => {
      const { body } = await gateway.admin('GET', '/apps')
      const text = JSON.stringify(body)
      return apps.every(({ appid }) => text.includes(appid))
    }
    while (!(await isKnown())) await pause(POLL_MS)
  }
}
