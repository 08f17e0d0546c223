/**
 * So many phones, each with one login under way at a time: a closed loop over connections that stay open, as a load
 * balancer sees it. Each code is sent three times, as by a phone that has lost its answers: the first is a login,
 * the others get its session.
 */
import { setTimeout as pause } from 'node:timers/promises'
import { newNonce } from './client.ts'
import type { Attempt } from './ledger.ts'
import type { Stand } from './stand.ts'
import type { IssuedCode } from './wechat.ts'

const SENDINGS = 3
const CODES_AT_ONCE = 500
const FOLLOW_TRIES_MAX = 8
/** Between two requests; 50 phones then send some 500 a second at most, and leave the machine room to start a gateway. */
const THINK_MS = 50
/** Without an answer, as the README's client has it. */
const PAUSE_SECONDS = 0.3

export interface Phones {
  /** Waits for what is under way. */
  stop(): Promise<void>
  /** Requests that have been answered, or have failed. */
  requests(): number
  /** Logins that were given up although their client did what each answer said. */
  givenUp(): number
}

interface PhonesSettings {
  target: string
  count: number
}

export function startPhones(
  { client, wechat }: Pick<Stand, 'client' | 'wechat'>,
  { target, count }: PhonesSettings,
): Phones {
  let codes: IssuedCode[] = []
  let minting: Promise<void> | undefined
  let isOver = false
  let requests = 0
  let givenUp = 0

  async function mint(): Promise<void> {
    codes = await wechat.codes(CODES_AT_ONCE)
    minting = undefined
  }

  async function takeCode(): Promise<IssuedCode> {
    for (;;) {
      const issued = codes.pop()
      if (issued !== undefined) return issued
      minting ??= mint()
      await minting
    }
  }

  async function logIn(): Promise<void> {
    const nonce = newNonce()
    let issued = await takeCode()
    for (let sending = 1, tries = 1; sending <= SENDINGS; ) {
      const attempt: Attempt = await client.login({ target, ...issued, nonce })
      requests += 1
      if (attempt.status === 200) {
        sending += 1
        await pause(THINK_MS)
        continue
      }
      if (attempt.retry === 'never' || ++tries > FOLLOW_TRIES_MAX) {
        givenUp += 1
        return
      }
      if (attempt.retry === 'new_code') issued = await takeCode()
      else await pause(1000 * (attempt.retryAfterSeconds ?? PAUSE_SECONDS))
    }
  }

  const phones = Array.from({ length: count }, async () => {
    for (;;) {
      if (isOver) return
      await logIn()
    }
  })
  return {
    requests: () => requests,
    givenUp: () => givenUp,
    async stop() {
      isOver = true
      await Promise.all(phones)
    },
  }
}
