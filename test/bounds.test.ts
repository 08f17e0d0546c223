/** What the gateway remembers by subject, user or session is bounded, whoever and however many come (M5). */
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { describe, expect, test } from 'vitest'
import { createLocalLimit } from '../src/limits.ts'
import { createSelfHeal } from '../src/provisioning.ts'
import type { StoreClock } from '../src/redis/clock.ts'
import type { RedisClient } from '../src/redis/connections.ts'
import { createKeys } from '../src/redis/keys.ts'
import { createRenewal } from '../src/renewal.ts'
import { createSessionCache } from '../src/session-cache.ts'

const KEYS = 1_000_000
/** All of them together have to fit into a small container beside the rest. */
const MEGABYTES_MAX = 50

setFlagsFromString('--expose-gc')
const collectGarbage = runInNewContext('gc') as () => void

/** What is held more than before, when `KEYS` have come. */
async function megabytesHeldAfter(visit: (number: number) => unknown): Promise<number> {
  collectGarbage()
  const before = process.memoryUsage().heapUsed
  for (let number = 0; number < KEYS; number += 1) {
    visit(number)
    if (number % 10_000 === 0) await new Promise(setImmediate) // what was begun ends
  }
  await new Promise(setImmediate)
  collectGarbage()
  return (process.memoryUsage().heapUsed - before) / 1_000_000
}

const subject = (number: number) => `subject-of-a-user-${number}`
/** Answers each script at once, with what it says when there was nothing to do. */
const redis = { evalsha: async () => 0 } as unknown as RedisClient

describe('a million of them', { timeout: 120_000 }, () => {
  test('sessions that are due to be renewed', async () => {
    const life = { idleSeconds: 100, maxSeconds: 1_000 }
    const renew = createRenewal({ redis, keys: createKeys('') }, life, () => {})
    const held = await megabytesHeldAfter((number) => renew({ sub: subject(number), field: 'k:field' }, 50))
    expect(held).toBeLessThan(MEGABYTES_MAX)
    renew({ sub: 'still there', field: 'f' }, 50)
  })

  test('users that wait to be provisioned', async () => {
    const provisioning = {
      enqueue: async () => false,
      oldestWaitingAtMs: async () => undefined,
      counts: async () => ({}),
      close: async () => {},
    }
    const clock = { nowMs: () => 1_000_000_000 } as StoreClock
    const heal = createSelfHeal(provisioning, clock, () => {})
    const held = await megabytesHeldAfter((number) =>
      heal({ sub: subject(number), appid: 'wx', openid: 'o', unionid: undefined, seenAtMs: 0 }),
    )
    expect(held).toBeLessThan(MEGABYTES_MAX)
    heal({ sub: 'still there', appid: 'wx', openid: 'o', unionid: undefined, seenAtMs: 0 })
  })

  test('sessions that were found valid', async () => {
    const cache = createSessionCache<{ sub: string; device: string }>(60_000)
    const held = await megabytesHeldAfter((number) => {
      const sub = subject(number)
      return cache.find({ sub, field: 'k:field' }, async () => ({ session: { sub, device: 'ios' } }))
    })
    expect(held).toBeLessThan(MEGABYTES_MAX)
    expect(cache.size()).toBeGreaterThan(1_000)
  })

  test('addresses that are counted while Redis is away', async () => {
    const { spend } = createLocalLimit(10)
    const held = await megabytesHeldAfter((number) => spend(`10.${number}`))
    expect(held).toBeLessThan(MEGABYTES_MAX)
    expect(spend('10.999999')).toBeUndefined()
  })
})
