/** When a circuit opens, for how long, and who tries it again. With a clock of the test's; no host is asked. */
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { CircuitOpenError, createBreakers } from '../src/wechat/breaker.ts'
import type { Breaker, BreakerState } from '../src/wechat/breaker.ts'

/** As in src/wechat/breaker.ts. */
const VOLUME_MIN = 20
const WINDOW_MS = 10_000
const [RESET_MS_MIN, RESET_MS_MAX] = [4_000, 6_000]

beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

function start(callMsMax = 3_000) {
  const breakers = createBreakers({ callMsMax })
  const states: BreakerState[] = []
  const breaker = breakers.create('host', (state) => states.push(state))
  return { breakers, breaker, states }
}

const succeed = (breaker: Breaker, app = 'app') => breaker.run(() => Promise.resolve('well'), app)
const fail = (breaker: Breaker, app = 'app') =>
  breaker.run(() => Promise.reject(new Error('ill')), app).catch((error: Error) => error)

async function open(breaker: Breaker): Promise<void> {
  for (let i = 0; i < VOLUME_MIN; i += 1) await fail(breaker)
  expect(breaker.isPassable()).toBe(false)
}

describe('a circuit', () => {
  // By share alone it would take as many failures as there were good answers in ten seconds.
  test('opens at the twentieth failure in a row, however well it went before', async () => {
    const { breaker, states } = start()
    for (let i = 0; i < 1_000; i += 1) await succeed(breaker)
    for (let i = 1; i < VOLUME_MIN; i += 1) await fail(breaker)
    expect(states).toEqual(['closed'])
    await fail(breaker)
    expect(states).toEqual(['closed', 'open'])
  })

  test('opens when more than half of the calls of ten seconds fail, and not for half', async () => {
    const { breaker, states } = start()
    for (let i = 0; i < 100; i += 1) await (i % 2 === 0 ? succeed(breaker) : fail(breaker))
    expect(states).toEqual(['closed'])
    for (let i = 0; i < 2; i += 1) await fail(breaker)
    expect(states).toEqual(['closed', 'open'])
  })

  test('forgets what is older than ten seconds', async () => {
    const { breaker, states } = start()
    for (let i = 1; i < VOLUME_MIN; i += 1) await (i % 3 === 0 ? succeed(breaker) : fail(breaker))
    vi.advanceTimersByTime(WINDOW_MS)
    for (let i = 1; i < VOLUME_MIN; i += 1) await (i % 3 === 0 ? succeed(breaker) : fail(breaker))
    expect(states).toEqual(['closed'])
  })

  test('that is open makes no call, and says so at once', async () => {
    const { breaker } = start()
    await open(breaker)
    const call = vi.fn<() => Promise<string>>()
    await expect(breaker.run(call, 'app')).rejects.toBeInstanceOf(CircuitOpenError)
    expect(call).not.toHaveBeenCalled()
  })

  test('is tried by one call of a thousand, and closes when that is well', async () => {
    const { breaker, states } = start()
    await open(breaker)
    vi.advanceTimersByTime(RESET_MS_MAX)
    const { promise, resolve } = Promise.withResolvers<void>()
    const call = vi.fn<() => Promise<void>>(() => promise)
    const all = Promise.allSettled(Array.from({ length: 1_000 }, () => breaker.run(call, 'app')))
    expect(call).toHaveBeenCalledTimes(1)
    resolve()
    expect((await all).filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
    expect(states).toEqual(['closed', 'open', 'half_open', 'closed'])
  })

  test('stays open for another while when the one is not well', async () => {
    const { breaker, states } = start()
    await open(breaker)
    vi.advanceTimersByTime(RESET_MS_MAX)
    await fail(breaker)
    expect(states).toEqual(['closed', 'open', 'half_open', 'open'])
    vi.advanceTimersByTime(RESET_MS_MIN - 1)
    expect(breaker.isPassable()).toBe(false)
  })

  // The host failed for all; the late success of one makes the next failure of another look like its own trouble.
  test('stays open when the one is of an app that might be failing alone', async () => {
    const { breaker, states } = start()
    const { promise, resolve } = Promise.withResolvers<string>()
    const late = breaker.run(() => promise, 'B')
    for (let i = 0; i < VOLUME_MIN; i += 1) await fail(breaker, ['A', 'C', 'D', 'E'][i % 4])
    expect(states).toEqual(['closed', 'open'])
    vi.advanceTimersByTime(2_000)
    resolve('well')
    await late
    while (!breaker.isPassable()) vi.advanceTimersByTime(50)
    expect(await fail(breaker, 'A')).toMatchObject({ message: 'ill' })
    expect(states).toEqual(['closed', 'open', 'half_open', 'open'])
    vi.advanceTimersByTime(RESET_MS_MAX)
    await succeed(breaker, 'A')
    expect(states.at(-1)).toBe('closed')
  })

  // What failed before, and what was turned away while it was open, weighs neither for nor against it.
  test('that has closed begins anew', async () => {
    const { breaker, states } = start()
    await open(breaker)
    for (let i = 0; i < 1_000; i += 1) await fail(breaker)
    vi.advanceTimersByTime(RESET_MS_MAX)
    await succeed(breaker)
    for (let i = 1; i < VOLUME_MIN; i += 1) await (i % 4 === 0 ? succeed(breaker) : fail(breaker))
    expect(states.at(-1)).toBe('closed')
    await fail(breaker)
    expect(states.at(-1)).toBe('open')
  })
})

describe('an app that fails while others do not', () => {
  const TAKEN = ['sound', 'hanging']

  test('leaves the circuit closed, however much of the traffic is its own', async () => {
    const { breaker, states } = start()
    for (let i = 0; i < 300; i += 1) {
      await fail(breaker, 'hanging')
      if (i % 20 === 0) await succeed(breaker, 'sound')
      vi.advanceTimersByTime(50)
    }
    expect(states).toEqual(['closed'])
    expect(await fail(breaker, 'hanging')).toMatchObject({ message: 'ill' })
  })

  test('is not told from the host when nobody else asks, or was well for five seconds', async () => {
    for (const otherMs of [undefined, 5_001]) {
      const { breaker, states } = start()
      if (otherMs !== undefined) {
        await succeed(breaker, 'sound')
        vi.advanceTimersByTime(otherMs)
      }
      await open(breaker)
      expect(states).toEqual(['closed', 'open'])
    }
  })

  // All of them were well a moment ago.
  test('is not taken for that when the host dies', async () => {
    const { breaker, states } = start()
    for (let i = 0; i < 100; i += 1) await succeed(breaker, TAKEN[i % 2])
    for (let i = 0; i < VOLUME_MIN; i += 1) await fail(breaker, TAKEN[i % 2])
    expect(states).toEqual(['closed', 'open'])
  })

  test('is not taken for that when the host fails most calls of all', async () => {
    const { breaker, states } = start()
    for (let i = 0; i < 100 && states.length === 1; i += 1) {
      const app = TAKEN[i % 2]
      await (i % 5 === 0 ? succeed(breaker, app) : fail(breaker, app))
    }
    expect(states).toEqual(['closed', 'open'])
  })
})

describe('the pause of an open circuit', () => {
  test('is five seconds, more or less by a fifth, so that replicas do not come back in step', async () => {
    const pauses = new Set<number>()
    for (let i = 0; i < 20; i += 1) {
      const { breaker } = start()
      await open(breaker)
      const from = Date.now()
      while (!breaker.isPassable()) vi.advanceTimersByTime(50)
      pauses.add(Date.now() - from)
    }
    expect(Math.min(...pauses)).toBeGreaterThanOrEqual(RESET_MS_MIN)
    expect(Math.max(...pauses)).toBeLessThanOrEqual(RESET_MS_MAX + 50)
    expect(pauses.size).toBeGreaterThan(5)
  })

  // Or the late success of a call begun before it opened would close it.
  test('outlasts every call that was begun before', async () => {
    for (const callMsMax of [3_000, 4_500, 8_000]) {
      const { breaker } = start(callMsMax)
      await open(breaker)
      vi.advanceTimersByTime(callMsMax + 400)
      expect(breaker.isPassable(), `calls of ${callMsMax} ms`).toBe(false)
    }
  })
})

test('any number of breakers has one timer', () => {
  const { breakers } = start()
  for (let i = 0; i < 500; i += 1) breakers.create(`host ${i}`, () => {})
  expect(vi.getTimerCount()).toBe(1)
  breakers.close()
  expect(vi.getTimerCount()).toBe(0)
})
