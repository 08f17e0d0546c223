/** How often a user is queued again whom the worker has not acknowledged; test/provisioning.test.ts has the whole way. */
import { expect, test } from 'vitest'
import { GatewayError } from '../src/errors.ts'
import { createSelfHeal } from '../src/provisioning.ts'

const MINUTE_MS = 60_000
const alice = { sub: 'alice', appid: 'wx-app', openid: 'o-alice', unionid: undefined, seenAtMs: 1_000 }
const bob = { ...alice, sub: 'bob', openid: 'o-bob' }

function startHealing(enqueue: () => Promise<boolean> = async () => true) {
  let nowMs = 1_000_000
  const queued: string[] = []
  let healed = 0
  const heal = createSelfHeal(
    {
      async enqueue({ sub }) {
        queued.push(sub)
        return enqueue()
      },
      oldestWaitingAtMs: async () => undefined,
      counts: async () => ({}),
      close: async () => {},
    },
    { nowMs: () => nowMs, sync: async () => {}, stop: () => {} },
    () => {
      healed += 1
    },
  )
  return {
    heal,
    queued,
    healed: () => healed,
    /** Validations every second, for so long. */
    async validate(user: typeof alice, forMs: number) {
      for (const endMs = nowMs + forMs; nowMs < endMs; nowMs += 1_000) {
        heal(user)
        await Promise.resolve()
      }
    },
  }
}

test('a lost job is queued again at the first validation, for each user', async () => {
  const { validate, queued, healed } = startHealing()
  await validate(alice, 10_000)
  await validate(bob, 10_000)
  expect(queued).toEqual(['alice', 'bob'])
  await expect.poll(healed).toBe(2)
})

// Its job dies each time; every further one would be one more dead job, and may be one more worker killed.
test('a user for whom it never helps is queued after one minute, two, four …, then once an hour', async () => {
  const { validate, queued } = startHealing()
  await validate(alice, 63 * MINUTE_MS)
  expect(queued).toHaveLength(6)
  queued.length = 0
  await validate(alice, 10 * 60 * MINUTE_MS)
  expect(queued.length).toBeLessThanOrEqual(11)
})

test('that Redis did not take the job does not lengthen the pause', async () => {
  const { validate, queued } = startHealing(async () => {
    throw new GatewayError('store_unavailable')
  })
  await validate(alice, 5 * MINUTE_MS)
  expect(queued).toHaveLength(5)
})

test('a job that only waits for a slow worker does not count as healed', async () => {
  const { validate, healed } = startHealing(async () => false)
  await validate(alice, MINUTE_MS)
  await Promise.resolve()
  expect(healed()).toBe(0)
})
