/**
 * Single-use codes: who may send one to WeChat, and what everybody else with the same code gets.
 *
 * WeChat itself guarantees that a code succeeds at most once. So this is not mutual exclusion for safety:
 * losing a claim (failover, a stalled process) costs one more call and a refusal, never a wrong session.
 * What it buys is that a thousand copies of one code become one call and a thousand equal answers.
 *
 * Two levels. Within a process a map of flights: the first caller leads, the rest share its outcome. Between
 * processes a record in Redis (src/lua/claim-code.lua): the leader holds a lease, which it renews while it
 * works; others ask again every few milliseconds until the outcome is there or the lease has run out. Asking
 * is cheap, because of the first level there is at most one waiter a process, and unlike a subscription it
 * cannot lose its message in a failover.
 */
import { hash, randomBytes } from 'node:crypto'
import { setTimeout as pause } from 'node:timers/promises'
import { createDoubtfulClaims } from './doubtful-claims.ts'
import type { DoubtfulClaim } from './doubtful-claims.ts'
import { GatewayError, isErrorCode } from './errors.ts'
import type { ClaimOutcome, Claim, Grant, LoginAttempt } from './login.ts'
import { loadScript } from './redis/scripts.ts'
import { stored } from './redis/stored.ts'
import type { RedisClient } from './redis/connections.ts'
import type { Keys } from './redis/keys.ts'
import { sendAnyway } from './redis/watch.ts'

/** A dead leader is replaced after this; short enough for the waiters' own deadline. */
export const LEASE_MS = 1_500
const LEASE_RENEWAL_MS = 500
/** Life of a claim that is pending or was given back. */
const PENDING_LIFE_MS = 30_000
/** How long a retry of a finished login gets its session again; covers a phone that was in a pocket. */
const SETTLED_LIFE_MS = 60_000
/** A refused code stays refused: WeChat lets codes live for five minutes. */
const REFUSED_LIFE_MS = 300_000
/** A user whom WeChat blocks may be unblocked. */
const BLOCKED_LIFE_MS = 60_000
/** A code that has lost this many leaders, which went silent with it, is given up. */
const LEADS_MAX = 3

/**
 * Between the tries to write an outcome down that Redis did not take: a failover or a reconnection should not cost
 * another call to WeChat. The claim is held meanwhile.
 */
const CLOSE_AGAIN_MS = [100, 200, 400, 800, 1_600]

const POLL_FIRST_MS = 15
const POLL_GROWTH = 1.6
const POLL_MS_MAX = 100

export type ClaimEvent =
  | 'shared' // joined a flight of this process
  | 'lead'
  | 'takeover' // led a code whose leader had gone silent or had given it back
  | 'wait' // another process was leading
  | 'replay' // got a settled login again
  | 'refused' // got a kept refusal
  | 'other_client'
  | 'exhausted'
  | 'expired' // another process was leading until the login's deadline

const claimScript = loadScript('claim-code')
const renewScript = loadScript('renew-claim')
const settleScript = loadScript('settle-code')
const failScript = loadScript('fail-code')

export interface CodesObserver {
  onClaim(event: ClaimEvent): void
  /** A claim could not be settled or failed in Redis; a retry of the code gets `new_code`. */
  onClaimLost(error: unknown): void
}

/** The two levels of a claim: the flights of this process, and the records in Redis that all processes share. */
export function createCodes(redis: RedisClient, keys: Keys, observer: CodesObserver) {
  const flights = new Map<string, Promise<Grant>>()
  const processId = randomBytes(9).toString('base64url')
  let flightCount = 0

  const giveBack = ({ key, owner }: DoubtfulClaim) =>
    failScript(redis, [key], [owner, 'R', '', PENDING_LIFE_MS])
  const doubtful = createDoubtfulClaims(giveBack)

  const keyOf = ({ appid, code }: LoginAttempt) => keys.code(hash('sha256', `${appid}\0${code}`, 'base64url'))

  return {
    share(attempt: LoginAttempt, lead: () => Promise<Grant>): Promise<Grant> {
      const flight = `${attempt.appid}\0${attempt.code}\0${attempt.bind}`
      const running = flights.get(flight)
      if (running !== undefined) {
        observer.onClaim('shared')
        return running
      }
      const led = lead().finally(() => flights.delete(flight))
      flights.set(flight, led)
      return led
    },

    async claim(attempt: LoginAttempt, deadline: AbortSignal): Promise<ClaimOutcome> {
      const key = keyOf(attempt)
      const owner = `${processId}.${++flightCount}`
      let waited = false
      for (let pollMs = POLL_FIRST_MS; ; pollMs = Math.min(pollMs * POLL_GROWTH, POLL_MS_MAX)) {
        const answer = await begin(key, owner, attempt.bind)
        switch (answer.state) {
          case 'LEAD':
            observer.onClaim(answer.generation > 1 ? 'takeover' : 'lead')
            return { state: 'leading', claim: lead(key, owner, attempt.bind, answer) }
          case 'SETTLED':
            observer.onClaim('replay')
            return { state: 'settled', settlement: answer.value }
          case 'REFUSED':
            observer.onClaim('refused')
            throw parseRefusal(answer.value)
          case 'OTHER_CLIENT':
            observer.onClaim('other_client')
            throw new GatewayError('code_already_used', { detail: 'Another client has sent this code.' })
          case 'EXHAUSTED':
            observer.onClaim('exhausted')
            throw new GatewayError('code_consumed', {
              detail: 'The code was tried several times without an outcome.',
            })
          case 'WAIT':
            if (!waited) observer.onClaim('wait')
            waited = true
        }
        if (deadline.aborted) {
          observer.onClaim('expired')
          throw new GatewayError('login_in_progress')
        }
        await pause(Math.random() * pollMs)
      }
    },
  }

  async function begin(key: string, owner: string, bind: string): Promise<ClaimAnswer> {
    try {
      return parseAnswer(
        await stored(claimScript(redis, [key], [owner, bind, LEASE_MS, PENDING_LIFE_MS, LEADS_MAX])),
      )
    } catch (error) {
      // The claim may have been made although its answer was not heard. Commands of one connection run in
      // order, so this one gives it back right behind it, and nobody has to wait for the lease to end.
      sendAnyway(() => giveBack({ key, owner })).catch(() => doubtful.add({ key, owner }))
      throw error
    }
  }

  function lead(key: string, owner: string, bind: string, answer: Lead): Claim {
    const { generation, startedAtMs, mayBeUsed } = answer
    const heardAtMs = performance.now()
    const renewal = setInterval(() => {
      // By Redis' clock, which told when the claim began.
      const leaseEnd = Math.round(startedAtMs + performance.now() - heardAtMs + LEASE_MS)
      // A renewal that fails is not repeated: if the lease is lost, settling still works.
      renewScript(redis, [key], [owner, leaseEnd]).catch(ignore)
    }, LEASE_RENEWAL_MS)
    let latest: (() => Promise<unknown>) | undefined

    /** Resolves after the first try; further ones follow by themselves, until another outcome takes its place. */
    async function close(write: () => Promise<unknown>): Promise<void> {
      latest = write
      const error = await attempt(write)
      if (error !== undefined) void closeLater(write, error)
    }

    async function closeLater(write: () => Promise<unknown>, firstError: unknown): Promise<void> {
      let error: unknown = firstError
      for (const ms of CLOSE_AGAIN_MS) {
        await pause(ms, undefined, { ref: false })
        if (latest !== write) return
        error = await attempt(write)
        if (error === undefined) return
      }
      clearInterval(renewal)
      observer.onClaimLost(error)
    }

    /** The error, if there was one. */
    async function attempt(write: () => Promise<unknown>): Promise<unknown> {
      try {
        await write()
        clearInterval(renewal)
        return undefined
      } catch (error) {
        return error
      }
    }

    return {
      generation,
      startedAtMs,
      mayBeUsed,
      settle: (settlement) => close(() => settleScript(redis, [key], [settlement, SETTLED_LIFE_MS, bind])),
      async fail(error, { codeUsed }) {
        const { state, value, lifeMs } = refusalOf(error, codeUsed)
        const told = close(() => sendAnyway(() => failScript(redis, [key], [owner, state, value, lifeMs])))
        // Where the store has just not answered, the client is not kept waiting for it a second time.
        if (!(error instanceof GatewayError && error.code === 'store_unavailable')) await told
      },
    }
  }
}

interface Lead {
  state: 'LEAD'
  generation: number
  startedAtMs: number
  mayBeUsed: boolean
}

type ClaimAnswer =
  | Lead
  | { state: 'WAIT' | 'OTHER_CLIENT' | 'EXHAUSTED' }
  | { state: 'SETTLED' | 'REFUSED'; value: string }

function parseAnswer(answer: unknown): ClaimAnswer {
  const [state, first, second, third] = answer as [string, unknown, unknown, unknown]
  switch (state) {
    case 'LEAD':
      return { state, generation: Number(first), startedAtMs: Number(second), mayBeUsed: Number(third) > 0 }
    case 'WAIT':
    case 'OTHER_CLIENT':
    case 'EXHAUSTED':
      return { state }
    case 'SETTLED':
    case 'REFUSED':
      return { state, value: String(first) }
    default:
      throw new TypeError('claim-code.lua gave an answer that is not on its list')
  }
}

/**
 * What becomes of a code after a failure. `new_code`: WeChat has used it up or may have, so its retries get
 * the same answer without asking again. Otherwise it is given back, for the client was told to send it again.
 */
function refusalOf(error: unknown, codeUsed: boolean): { state: 'N' | 'R'; value: string; lifeMs: number } {
  if (error instanceof GatewayError) {
    const value = `${error.code} ${error.errcode ?? ''} ${error.rid ?? ''}`
    if (error.retry === 'new_code') return { state: 'N', value, lifeMs: REFUSED_LIFE_MS }
    if (error.code === 'login_blocked') return { state: 'N', value, lifeMs: BLOCKED_LIFE_MS }
  }
  // The session could not be opened, or nobody heard that it was. A settlement that did arrive goes before this.
  if (codeUsed) return { state: 'N', value: 'code_consumed', lifeMs: REFUSED_LIFE_MS }
  return { state: 'R', value: '', lifeMs: PENDING_LIFE_MS }
}

function parseRefusal(value: string): GatewayError {
  const [code = '', errcode = '', rid = ''] = value.split(' ')
  return new GatewayError(isErrorCode(code) ? code : 'code_consumed', {
    errcode: errcode === '' ? undefined : Number(errcode),
    rid: rid === '' ? undefined : rid,
  })
}

function ignore(): void {}
