/**
 * Load at a fixed rate, whether or not answers come: an open loop, so that a stall shows in the latencies instead
 * of slowing the load down. Codes are minted ahead, so that a fault elsewhere does not starve it.
 */
import { setTimeout as pause } from 'node:timers/promises'
import { newNonce } from './client.ts'
import type { FaultClient } from './client.ts'
import type { Attempt, Ledger } from './ledger.ts'
import type { IssuedCode } from './wechat.ts'

/** What is due between two ticks is sent late, and counts as slower by as much. */
const TICK_MS = 2
/** More at once would keep the simulator from answering meanwhile; half a second's need, where that is more. */
const CODES_AT_ONCE_MIN = 100
/** More than this unanswered and the load counts what it could not send, as a failure. */
const IN_FLIGHT_MAX = 5_000

export interface LoadSettings {
  loginsPerSecond: number
  /** Of sessions that this load has opened. Default 0. */
  validationsPerSecond?: number
  /** Where to send them, in turn. */
  targets: readonly string[]
  /** The app that codes are for; default: the simulator's first. */
  appid?: string
  /** How often each user logs in. Default 1: each login is a first one, and work for a worker and the database. */
  loginsPerUser?: number
  /**
   * Whether a login goes on as the README's client does: the same code again, or a new one, as the answer says. A
   * row that looks at single answers leaves it off.
   */
  follows?: boolean
  /** The phone's address by the number of the login; default: 10,000 different ones. */
  ipOf?(login: number): string
}

export interface Load {
  /** Stops sending, waits for what is under way. */
  stop(): Promise<void>
  /** Logins that were given up in spite of following; 0 when `follows` is off. */
  givenUp(): number
}

const FOLLOW_TRIES_MAX = 12

export async function startLoad(
  {
    ledger,
    client,
    mintCodes,
  }: {
    ledger: Ledger
    client: FaultClient
    mintCodes(count: number): Promise<IssuedCode[]>
  },
  {
    loginsPerSecond,
    validationsPerSecond = 0,
    targets,
    appid,
    follows = false,
    ipOf = defaultIp,
  }: LoadSettings,
): Promise<Load> {
  const codesAtOnce = Math.max(CODES_AT_ONCE_MIN, loginsPerSecond / 2)
  const codesAhead = Math.max(6 * CODES_AT_ONCE_MIN, loginsPerSecond)
  const codes: IssuedCode[] = loginsPerSecond > 0 ? await mintCodes(2 * codesAtOnce) : []
  const tokens: string[] = [...ledger.sessions.keys()]
  const underWay = new Set<Promise<unknown>>()
  let minting: Promise<void> | undefined
  let logins = 0
  let validations = 0
  let givenUp = 0
  // Each kind has turns of its own: of two that are sent in step, one would always find the same gateway.
  const nextOf = (turn: number) => () => targets[turn++ % targets.length] ?? ''
  const loginTarget = nextOf(0)
  const validationTarget = nextOf(1)

  async function takeCode(): Promise<IssuedCode | undefined> {
    if (codes.length < codesAhead) {
      minting ??= mintCodes(codesAtOnce)
        // Mixed: else all first logins of a batch, with their jobs, would come in one burst.
        .then((minted) => void codes.push(...shuffled(minted)))
        .finally(() => {
          minting = undefined
        })
      if (codes.length === 0) await minting
    }
    return codes.shift()
  }

  async function logIn(dueMs: number, number: number): Promise<void> {
    const ip = ipOf(number)
    for (let tries = 1, due: number | undefined = dueMs; ; due = undefined) {
      const issued = await takeCode()
      if (issued === undefined) throw new Error('no code')
      const nonce = newNonce()
      let attempt: Attempt
      do {
        attempt = await client.login({
          target: loginTarget(),
          ...issued,
          nonce,
          ip,
          dueMs: due,
          ...(appid === undefined ? {} : { appid }),
        })
        due = undefined
        if (attempt.status === 200 && attempt.token !== undefined) {
          tokens.push(attempt.token)
          return
        }
        if (!follows) return
        if (++tries > FOLLOW_TRIES_MAX || attempt.retry === 'never') {
          givenUp += 1
          return
        }
        await pause(1000 * (attempt.retryAfterSeconds ?? 0.3) * (0.5 + Math.random() / 2))
      } while (attempt.retry !== 'new_code')
    }
  }

  async function validate(dueMs: number): Promise<void> {
    const token = tokens[Math.floor(Math.random() * tokens.length)]
    if (token !== undefined && ledger.sessions.has(token))
      await client.validate(validationTarget(), token, dueMs)
  }

  function begin(what: 'login' | 'validate', dueMs: number, run: Promise<void>): void {
    const tracked = run.catch((error: unknown) => {
      ledger.note({
        kind: what,
        target: '',
        atMs: dueMs,
        ms: 0,
        status: 0,
        fault: `bench: ${String(error)}`,
        isProblem: false,
      })
    })
    underWay.add(tracked)
    void tracked.finally(() => underWay.delete(tracked))
  }

  function sendDue(what: 'login' | 'validate', dueMs: number): void {
    if (underWay.size >= IN_FLIGHT_MAX) {
      ledger.note({
        kind: what,
        target: '',
        atMs: dueMs,
        ms: 0,
        status: 0,
        fault: 'bench: too many under way',
        isProblem: false,
      })
    } else if (what === 'login') begin(what, dueMs, logIn(dueMs, logins))
    else begin(what, dueMs, validate(dueMs))
  }

  const startedMs = performance.now()
  const timer = setInterval(() => {
    const elapsedSeconds = (performance.now() - startedMs) / 1000
    while (logins < elapsedSeconds * loginsPerSecond)
      sendDue('login', startedMs + (1000 * logins++) / loginsPerSecond)
    while (validations < elapsedSeconds * validationsPerSecond)
      sendDue('validate', startedMs + (1000 * validations++) / validationsPerSecond)
  }, TICK_MS)

  return {
    givenUp: () => givenUp,
    async stop() {
      clearInterval(timer)
      while (underWay.size > 0) await Promise.all(underWay)
    },
  }
}

function shuffled<T>(items: readonly T[]): T[] {
  const keyed = items.map((item) => ({ item, key: Math.random() }))
  return keyed.toSorted((a, b) => a.key - b.key).map(({ item }) => item)
}

function defaultIp(login: number): string {
  return `10.1.${Math.floor(login / 250) % 40}.${(login % 250) + 1}`
}
