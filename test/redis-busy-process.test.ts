/** A process that is busy for longer than it waits for Redis does not take its own slowness for Redis'. */
import { readFile } from 'node:fs'
import { expect, inject, onTestFinished, test } from 'vitest'
import { connectFailFast, waitUntilReady } from '../src/redis/connections.ts'
import { Secret } from '../src/secret.ts'
import { newPrefix } from './harness/environment.ts'

const TIMEOUT_MS = 60
/** After which ioredis gives a connection up. */
const SOCKET_TIMEOUT_MS = 1_500

/** Keeps Redis from answering for so many milliseconds. */
const BUSY_REDIS = `
local function now() local t = redis.call('TIME') return t[1] * 1000 + t[2] / 1000 end
local till = now() + tonumber(ARGV[1])
while now() < till do end
return 'done'`

async function connect(url: string) {
  const redis = connectFailFast({
    target: { kind: 'standalone', url: new Secret(url) },
    username: undefined,
    password: undefined,
    commandTimeoutMs: TIMEOUT_MS,
    keyPrefix: '',
  })
  onTestFinished(() => redis.disconnect())
  await waitUntilReady(redis, 2_000)
  return redis
}

function beBusy(ms: number): void {
  const endsMs = performance.now() + ms
  while (performance.now() < endsMs);
}

test('an answer that came while the process was busy counts, however late it is read', async () => {
  const redis = await connect(inject('redisUrl'))
  const answers = Array.from({ length: 20 }, () => redis.ping())
  beBusy(4 * TIMEOUT_MS)
  expect(await Promise.all(answers)).toEqual(answers.map(() => 'PONG'))
})

test('the time of a command begins when it is sent, not with the turn of the loop that it waits for', async () => {
  const redis = await connect(inject('redisUrl'))
  // Within a turn that reads files or sockets the clock of timers stands still.
  const answer = await new Promise<{ promise: Promise<unknown> }>((resolve) => {
    readFile(new URL(import.meta.url), () => {
      beBusy(2 * TIMEOUT_MS)
      resolve({ promise: redis.eval(BUSY_REDIS, 0, TIMEOUT_MS / 3) })
      beBusy(2 * TIMEOUT_MS)
    })
  })
  expect(await answer.promise).toBe('done')
})

test('nor is the connection given up that was silent only because nobody listened', async () => {
  const redis = await connect(inject('redisUrl'))
  let closed = 0
  redis.on('close', () => {
    closed += 1
  })
  const answer = redis.ping()
  beBusy(SOCKET_TIMEOUT_MS + 200)

  expect(await answer).toBe('PONG')
  expect(await redis.ping()).toBe('PONG')
  expect(closed).toBe(0)
})

test('an answer that does not come is not waited for beyond the time', async () => {
  const redis = await connect(inject('redisUrl'))
  const sentMs = performance.now()
  await expect(redis.blpop(`${newPrefix()}nothing-comes`, 5)).rejects.toThrow('Command timed out')
  const waitedMs = performance.now() - sentMs
  expect(waitedMs).toBeGreaterThanOrEqual(TIMEOUT_MS - 1)
  expect(waitedMs).toBeLessThan(1_000)
})
