/** The clock by which sessions expire, in a process that stands still at the wrong moment. */
import { expect, onTestFinished, test } from 'vitest'
import { createStoreClock } from '../src/redis/clock.ts'
import type { RedisClient } from '../src/redis/connections.ts'
import { occupy } from './harness/blocked-loop.ts'
import { until } from './harness/until.ts'

const STALL_MS = 1_000
/** Half of a stall is what a bad answer is off by. */
const OFF_MS_MAX = 100

/** A Redis with the clock of this machine, which answers at once. */
function startClock() {
  let asked = 0
  const time = () => {
    asked += 1
    const nowMs = Date.now()
    return Promise.resolve([String(Math.floor(nowMs / 1000)), String((nowMs % 1000) * 1000)])
  }
  const clock = createStoreClock({ time } as unknown as RedisClient)
  onTestFinished(clock.stop)
  return { clock, asked: () => asked, offMs: () => Math.abs(clock.nowMs() - Date.now()) }
}

type Clock = ReturnType<typeof startClock>['clock']

/** Stands still between question and answer. */
async function syncAcrossStall({ sync }: Clock): Promise<void> {
  const syncing = sync()
  occupy(STALL_MS)
  await syncing
}

test('an answer that was heard late is not believed, and Redis is asked again soon', async () => {
  const { clock, asked, offMs } = startClock()
  await clock.sync()
  await syncAcrossStall(clock)
  expect(offMs()).toBeLessThan(OFF_MS_MAX)
  expect(asked()).toBe(2)
  await until('Redis to be asked', () => asked() === 3, 2_000)
})

test('a first answer that was heard late will do until the next', async () => {
  const { clock, offMs } = startClock()
  await syncAcrossStall(clock)
  expect(offMs()).toBeLessThan(STALL_MS)
  expect(offMs()).toBeGreaterThan(OFF_MS_MAX)
  await until('the clock to be right', () => offMs() < OFF_MS_MAX, 2_000)
})
