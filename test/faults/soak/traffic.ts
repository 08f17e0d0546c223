/**
 * Everything that phones do, for an hour: a fixed population that logs in again and again, now and then somebody new,
 * double taps, proxies that validate, log-outs, open data; and one in a hundred who misbehaves. At a fixed rate,
 * whether or not answers come.
 */
import { randomBytes, randomInt } from 'node:crypto'
import { connect } from 'node:net'
import { setTimeout as pause } from 'node:timers/promises'
import { Agent, request } from 'undici'
import { createFaultClient, newNonce } from '../client.ts'
import type { Attempt, AttemptKind, Ledger } from '../ledger.ts'
import type { Bench } from '../row.ts'
import type { Stand } from '../stand.ts'
import type { IssuedCode } from '../wechat.ts'

const TICK_MS = 20
/** So many that each logs in every few minutes, and few enough for all of them to have come before it is measured. */
const PHONES = 4_000
/** Below the idle life that the soak gives to sessions, by more than the tenth to which uses are noted. */
const SURELY_ALIVE_MS = 200_000
const TRIES_MAX = 8

/** Shares of logins. */
const NEWCOMERS = 0.05
const DOUBLE_TAPS = 0.03
/** Whose old token got lost. */
const FORGETFUL = 0.1
/** One in a hundred, in three ways. */
const HANG_UPS = 0.006
const BAD_CODES = 0.002
const STOLEN_CODES = 0.002
/** Connections a second that send half a request and are cut. */
const HALF_REQUESTS = 0.2

export interface TrafficRates {
  loginsPerSecond: number
  validationsPerSecond: number
  logoutsPerSecond: number
  decryptsPerSecond: number
}

interface Phone {
  openid: string | undefined
  ip: string
  token: string | undefined
  usedMs: number
  busy: boolean
}

/** What happened since it was asked for last. */
export interface Interval {
  /** Milliseconds of those that were answered, whatever with. */
  loginMs: number[]
  validateMs: number[]
  ok: Record<AttemptKind, number>
  /** "503 wechat_busy" and how often. */
  refused: Record<string, number>
}

/** What must never happen, counted over the whole run. */
export interface Wrongs {
  /** A session that had to be alive was answered with 401. */
  aliveRefused: number
  /** A session that had been ended was answered with 200. */
  endedAccepted: number
  /** A login that got nowhere although it did what the answers said. */
  loginsGivenUp: number
  /** Open data of the user's last login that was not decrypted. */
  decryptsRefused: number
  /** Something that the traffic itself did not expect. */
  other: string[]
}

export interface Traffic {
  takeInterval(): Interval
  wrongs: Wrongs
  /** How often which act was done. */
  acts: Record<string, number>
  /** Stops, waits for what is under way, and leaves only sessions in the ledger that must be alive. */
  stop(): Promise<void>
}

export function startTraffic(bench: Bench, stand: Stand, rates: TrafficRates): Traffic {
  const { ledger, wechat } = stand
  const targets = stand.gateways.map(({ url }) => url)
  const phones = Array.from({ length: PHONES }, (_, number) => newPhone(number))
  const wrongs: Wrongs = {
    aliveRefused: 0,
    endedAccepted: 0,
    loginsGivenUp: 0,
    decryptsRefused: 0,
    other: [],
  }
  const acts: Record<string, number> = {}
  const underWay = new Set<Promise<void>>()
  let interval = newInterval()

  // Validations that succeed are half a million in an hour, and nobody looks at them one by one.
  const lean: Ledger = {
    ...ledger,
    note(attempt) {
      tally(attempt)
      if (attempt.kind === 'login' || attempt.kind === 'logout' || attempt.status !== 200)
        ledger.note(attempt)
    },
  }
  const client = createFaultClient(lean)
  bench.defer(() => client.close())
  const rude = new Agent({ connections: 64 })
  bench.defer(() => rude.destroy())

  const anyTarget = () => targets[randomInt(targets.length)] ?? ''

  function tally(attempt: Attempt): void {
    const { kind, status, ms } = attempt
    if (status !== 0 && kind === 'login') interval.loginMs.push(ms)
    if (status !== 0 && kind === 'validate') interval.validateMs.push(ms)
    if (status === 200 || status === 204) interval.ok[kind] += 1
    else {
      const name = `${status || attempt.fault} ${attempt.errorCode ?? ''}`.trim()
      interval.refused[name] = (interval.refused[name] ?? 0) + 1
    }
  }

  /** It has a token no more, or none that anybody knows to be good. */
  function forget(phone: Phone): string | undefined {
    const { token } = phone
    if (token !== undefined) ledger.sessions.delete(token)
    phone.token = undefined
    return token
  }

  async function newCode({ openid }: Phone): Promise<IssuedCode> {
    const [issued] = await persistent(() => wechat.codes(1, openid === undefined ? {} : { openid }))
    if (issued === undefined) throw new Error('no code')
    return issued
  }

  /** As the README's client does it: the same code again, or a new one, as the answer says. */
  async function logIn(phone: Phone, dueMs: number): Promise<Attempt | undefined> {
    const former = Math.random() < FORGETFUL ? undefined : phone.token
    forget(phone)
    const headers: Record<string, string> = former === undefined ? {} : { authorization: `Bearer ${former}` }
    let issued = await newCode(phone)
    let nonce = newNonce()
    phone.openid ??= issued.openid
    if (Math.random() < HANG_UPS) await hangUp({ issued, nonce, headers })
    for (let tries = 1; tries <= TRIES_MAX; tries += 1) {
      const copies = tries === 1 && Math.random() < DOUBLE_TAPS ? 2 + randomInt(2) : 1
      if (copies > 1) count('double tap')
      const attempts = await Promise.all(
        Array.from({ length: copies }, () =>
          client.login({
            target: anyTarget(),
            ...issued,
            nonce,
            ip: phone.ip,
            headers,
            dueMs: tries === 1 ? dueMs : undefined,
          }),
        ),
      )
      const done = attempts.find(({ status }) => status === 200)
      if (done?.token !== undefined) {
        phone.token = done.token
        phone.usedMs = performance.now()
        return done
      }
      const [failed] = attempts
      if (failed?.retry === 'never') break
      await pause(1_000 * (failed?.retryAfterSeconds ?? 0.3) * (0.5 + Math.random() / 2))
      if (failed?.retry === 'new_code') {
        issued = await newCode(phone)
        nonce = newNonce()
      }
    }
    wrongs.loginsGivenUp += 1
    return undefined
  }

  /** Sends the login and does not wait for its answer. What the gateway does with it is its own business. */
  async function hangUp({
    issued: { code },
    nonce,
    headers,
  }: {
    issued: IssuedCode
    nonce: string
    headers: Record<string, string>
  }): Promise<void> {
    count('hang up')
    const giveUp = new AbortController()
    setTimeout(() => giveUp.abort(), randomInt(1, 90))
    await request(`${anyTarget()}/login`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body: JSON.stringify({ code, nonce }),
      dispatcher: rude,
      signal: giveUp.signal,
    }).then(
      ({ body }) => body.dump(),
      () => {}, // it was cut off, as it should be
    )
  }

  const doings = {
    async login(dueMs: number): Promise<void> {
      if (Math.random() < BAD_CODES) {
        count('bad code')
        const code = randomBytes(24).toString('base64url')
        const answer = await client.login({ target: anyTarget(), code, nonce: newNonce(), dueMs })
        if (answer.status === 200) wrongs.other.push('a code that WeChat never gave out logged somebody in')
        return
      }
      const isNew = Math.random() < NEWCOMERS
      const phone = isNew ? newPhone(randomInt(PHONES)) : idlePhone()
      if (phone === undefined) return
      count(isNew ? 'first login' : 'login again')
      await withPhone(phone, async () => {
        const done = await logIn(phone, dueMs)
        if (done === undefined) return
        if (isNew) {
          // Looks around, and is never seen again: its session ends by not being used.
          await ask(phone)
          forget(phone)
        } else if (Math.random() < STOLEN_CODES) {
          count('stolen code')
          const stolen = { code: done.code ?? '', openid: done.openid ?? '' }
          const answer = await client.login({ target: anyTarget(), ...stolen, nonce: newNonce() })
          if (answer.status === 200) wrongs.other.push("another's code gave a session")
        }
      })
    },

    async validate(dueMs: number): Promise<void> {
      const phone = loggedInPhone()
      if (phone === undefined) return
      count('validation')
      await ask(phone, dueMs)
    },

    async logout(): Promise<void> {
      const phone = loggedInPhone()
      if (phone === undefined || phone.busy) return
      count('log-out')
      await withPhone(phone, async () => {
        const token = forget(phone) ?? ''
        const { status } = await client.logout(anyTarget(), token)
        if (status !== 204) return
        const after = await stand.client.validate(anyTarget(), token) // whose refusals are not in the statistics
        if (after.status === 200) wrongs.endedAccepted += 1
      })
    },

    async decrypt(): Promise<void> {
      const phone = loggedInPhone()
      if (phone === undefined || phone.busy) return
      count('open data')
      await withPhone(phone, async () => {
        // wx.login() and what was encrypted after it, so that there is one session_key that both sides mean.
        if ((await logIn(phone, performance.now())) === undefined) return
        const { encryptedData, iv } = (await persistent(() =>
          wechat.control('POST', '/open-data', { openid: phone.openid, kind: 'user_info' }),
        )) as { encryptedData: string; iv: string }
        const { status } = await client.send('other', anyTarget(), {
          method: 'POST',
          path: '/session/decrypt',
          headers: { authorization: `Bearer ${phone.token ?? ''}` },
          body: { encrypted_data: encryptedData, iv },
        })
        if (status >= 400 && status < 500) wrongs.decryptsRefused += 1
      })
    },

    /** Not a whole request: the gateway has to let go of it. */
    async half(): Promise<void> {
      count('half a request')
      const { hostname, port } = new URL(anyTarget())
      const socket = connect(Number(port), hostname)
      socket.on('error', () => {}) // it may be turned away first
      socket.write('POST /login HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\ncontent-le')
      await pause(randomInt(2_000))
      socket.resetAndDestroy()
    },
  }

  async function ask(phone: Phone, dueMs = performance.now()): Promise<void> {
    const { token = '' } = phone
    phone.usedMs = dueMs
    const { status } = await client.validate(anyTarget(), token, dueMs)
    if (status === 401 && phone.token === token) wrongs.aliveRefused += 1
  }

  function idlePhone(): Phone | undefined {
    return choose((phone) => !phone.busy)
  }

  function loggedInPhone(): Phone | undefined {
    return choose((phone) => {
      if (phone.token !== undefined && performance.now() - phone.usedMs > SURELY_ALIVE_MS) forget(phone)
      return phone.token !== undefined
    })
  }

  /** One of them, by chance; undefined when a few in a row will not do. */
  function choose(isFit: (phone: Phone) => boolean): Phone | undefined {
    for (let tries = 0; tries < 50; tries += 1) {
      const phone = phones[randomInt(phones.length)]
      if (phone !== undefined && isFit(phone)) return phone
    }
    return undefined
  }

  function count(act: string): void {
    acts[act] = (acts[act] ?? 0) + 1
  }

  const schedule = Object.entries({
    login: rates.loginsPerSecond,
    validate: rates.validationsPerSecond,
    logout: rates.logoutsPerSecond,
    decrypt: rates.decryptsPerSecond,
    half: HALF_REQUESTS,
  } satisfies Record<keyof typeof doings, number>) as [keyof typeof doings, number][]
  const begun = new Map(schedule.map(([what]) => [what, 0]))
  const startedMs = performance.now()

  const timer = setInterval(() => {
    const elapsedSeconds = (performance.now() - startedMs) / 1_000
    for (const [what, perSecond] of schedule) {
      let number = begun.get(what) ?? 0
      for (; number < elapsedSeconds * perSecond; number += 1) {
        const run = doings[what](startedMs + (1_000 * number) / perSecond).catch((error: unknown) => {
          wrongs.other.push(`${what}: ${error instanceof Error ? error.message : String(error)}`)
        })
        underWay.add(run)
        void run.finally(() => underWay.delete(run))
      }
      begun.set(what, number)
    }
  }, TICK_MS)

  async function stop(): Promise<void> {
    clearInterval(timer)
    while (underWay.size > 0) await Promise.all(underWay)
    const alive = new Set(
      phones.filter(({ usedMs }) => performance.now() - usedMs < SURELY_ALIVE_MS).map(({ token }) => token),
    )
    for (const token of ledger.sessions.keys()) if (!alive.has(token)) ledger.sessions.delete(token)
  }
  bench.defer(stop)

  return {
    takeInterval() {
      const taken = interval
      interval = newInterval()
      return taken
    },
    wrongs,
    acts,
    stop,
  }
}

/** The simulator's control port closes idle connections, now and then just when one is used. */
async function persistent<T>(ask: () => Promise<T>): Promise<T> {
  try {
    return await ask()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'UND_ERR_SOCKET') throw error
    return ask()
  }
}

async function withPhone(phone: Phone, run: () => Promise<void>): Promise<void> {
  phone.busy = true
  try {
    await run()
  } finally {
    phone.busy = false
  }
}

function newPhone(number: number): Phone {
  const ip = `10.${Math.floor(number / 62_500) + 2}.${Math.floor(number / 250) % 250}.${(number % 250) + 1}`
  return { openid: undefined, ip, token: undefined, usedMs: -Infinity, busy: false }
}

function newInterval(): Interval {
  return {
    loginMs: [],
    validateMs: [],
    ok: { login: 0, validate: 0, logout: 0, other: 0 },
    refused: {},
  }
}
