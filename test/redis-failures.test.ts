/** What is told of a Redis that fails: the reason in the metrics, and lines of the log that do not bury others. */
import { EventEmitter } from 'node:events'
import { Redis } from 'ioredis'
import { afterEach, beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest'
import { createLocalLimit } from '../src/limits.ts'
import { createThrottle } from '../src/log.ts'
import type { Log } from '../src/log.ts'
import { reportConnection } from '../src/redis/report.ts'
import { failureOf } from '../src/redis/watch.ts'

beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

test.each([
  ['Command timed out', 'timeout'],
  ['Redis is silent', 'silent'],
  ['Connection is closed.', 'disconnected'],
  ["Stream isn't writeable and enableOfflineQueue options is false", 'disconnected'],
  ["Cluster isn't ready and enableOfflineQueue options is false", 'disconnected'],
  ['Reached the max retries per request limit (which is 0). Refer to …', 'disconnected'],
  ["OOM command not allowed when used memory > 'maxmemory'.", 'full'],
  ['NOAUTH Authentication required.', 'denied'],
  ['WRONGPASS invalid username-password pair or user is disabled.', 'denied'],
  ["NOPERM this user has no permissions to run the 'evalsha' command", 'denied'],
  ["READONLY You can't write against a read only replica.", 'not_master'],
  ["ERR Error running script (…): @user_script:1: -READONLY You can't write …", 'not_master'],
  ['NOREPLICAS Not enough good replicas to write.', 'not_master'],
  ['LOADING Redis is loading the dataset in memory', 'not_ready'],
  ["MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", 'not_ready'],
  ['CLUSTERDOWN The cluster is down', 'not_ready'],
  ['TRYAGAIN Multiple keys request during rehashing of slot', 'not_ready'],
  ['UNBLOCKED force unblock from blocking operation', 'not_ready'],
  ['MISCONF Redis is configured to save RDB snapshots, but …', 'disk'],
  ['ERR unknown command', 'other'],
])('"%s" is told as %s', (message, failure) => {
  expect(failureOf(new Error(message))).toBe(failure)
})

test('of equal lines one a second is written, and says how many were held back', () => {
  const throttle = createThrottle()
  const written: string[] = []
  const say = (kind: string) => throttle(kind, (held) => written.push(`${kind} ${held}`))
  for (let i = 0; i < 100; i += 1) say('a')
  say('b')
  vi.advanceTimersByTime(1_001)
  say('a')
  expect(written).toEqual(['a 0', 'b 0', 'a 99'])
})

function report() {
  const lines: { reason?: string; text: string }[] = []
  const write = (first: { reason: string } | string, text?: string) =>
    lines.push(typeof first === 'string' ? { text: first } : { ...first, text: text ?? '' })
  const connection = new EventEmitter()
  reportConnection(
    connection as unknown as Redis,
    { warn: write, info: write } as unknown as Log,
    () => false,
  )
  return { lines, connection }
}

describe('the connection', () => {
  test('is told of when it goes, when the reason becomes another, and when it is back', () => {
    const { lines, connection } = report()
    connection.emit('close')
    for (let i = 0; i < 50; i += 1) {
      vi.advanceTimersByTime(100)
      connection.emit('error', new Error('connect ECONNREFUSED'))
      connection.emit('close')
    }
    for (let i = 0; i < 50; i += 1) {
      vi.advanceTimersByTime(100)
      connection.emit('error', new Error('WRONGPASS'))
      connection.emit('close')
    }
    connection.emit('ready')
    expect(lines).toEqual([
      { reason: '', text: 'waiting for Redis' },
      { reason: 'connect ECONNREFUSED', text: 'waiting for Redis' },
      { reason: 'WRONGPASS', text: 'waiting for Redis' },
      { text: 'Redis is back' },
    ])
  })

  test('of an outage that lasts a line a minute says that it does', () => {
    const { lines, connection } = report()
    for (let seconds = 0; seconds < 600; seconds += 1) {
      vi.advanceTimersByTime(1_000)
      connection.emit('error', new Error('connect ECONNREFUSED'))
    }
    expect(lines).toHaveLength(10)
  })

  // ioredis hangs the refused command on the error, with its arguments: AUTH and the password.
  test('is not told of with the password that Redis refused', () => {
    const { lines, connection } = report()
    connection.emit('error', Object.assign(new Error('WRONGPASS'), { command: { args: ['the password'] } }))
    expect(JSON.stringify(lines)).not.toContain('the password')
  })
})

describe('limits that are counted without Redis', () => {
  test('allow so many a minute and subject, and say when the minute is over', () => {
    const { spend } = createLocalLimit(2)
    expect([spend('a'), spend('a'), spend('b')]).toEqual([undefined, undefined, undefined])
    vi.advanceTimersByTime(20_000)
    expect(spend('a')).toEqual({ consumedPoints: 3, msBeforeNext: 40_000 })
    vi.advanceTimersByTime(40_000)
    expect(spend('a')).toBeUndefined()
  })

  test('hold a bounded number of subjects, whoever comes', () => {
    const { spend } = createLocalLimit(1, 100)
    const heapBytes = process.memoryUsage().heapUsed
    let denied = 0
    for (let i = 0; i < 300_000; i += 1) if (spend(`address ${i}`) !== undefined) denied += 1
    expect(denied).toBe(0)
    expect(spend('address 299999')).toBeDefined()
    expect(process.memoryUsage().heapUsed - heapBytes).toBeLessThan(50_000_000)
  })
})

test('a connection that nobody listens to ends no process when it fails', async () => {
  vi.useRealTimers()
  const { connectPatient } = await import('../src/redis/connections.ts')
  const { Secret } = await import('../src/secret.ts')
  const redis = connectPatient({
    target: { kind: 'standalone', url: new Secret('redis://127.0.0.1:1') },
    username: undefined,
    password: undefined,
    commandTimeoutMs: 250,
    keyPrefix: '',
  })
  onTestFinished(() => redis.disconnect())
  expect(redis).toBeInstanceOf(Redis)
  expect(redis.listenerCount('error')).toBeGreaterThan(0)
})
