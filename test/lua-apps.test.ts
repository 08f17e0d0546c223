/** The scripts that keep registered apps and seal values afresh, each answer of each of them, on a real Redis. */
import { Redis } from 'ioredis'
import { afterAll, afterEach, beforeEach, describe, expect, inject, test } from 'vitest'
import { newPrefix } from './harness/environment.ts'
import { createScripts } from './harness/scripts.ts'

const prefix = newPrefix()
const redis = new Redis(inject('redisUrl'))
const { run, unreached } = createScripts(redis)

let key = ''
let testCount = 0
beforeEach(() => {
  testCount += 1
  key = `${prefix}app:of-test-${testCount}`
})
afterEach(() => redis.del(key))
afterAll(() => redis.disconnect())

const FIRST = { version: '1', secret: 'sealed 1', fingerprint: 'f1' }

const add = (fields: Record<string, string>) => run('add-app', [key], Object.entries(fields).flat())
const rotate = (number: number, { endPrevious = false } = {}) => {
  const args = [`sealed ${number}`, `f${number}`, endPrevious ? '1' : '0', `version of ${number}`]
  return run('rotate-app-secret', [key], args)
}

const replace = (...triples: [name: string, seen: string, next: string][]) =>
  run('replace-fields', [key], triples.flat())

describe('add-app', () => {
  test('registers an app once, and tells of the one that is there', async () => {
    expect(await add(FIRST)).toEqual(['ADDED'])
    expect(await add({ version: '2', secret: 'other' })).toEqual(['EXISTS', '1'])
    expect(await redis.hgetall(key)).toEqual(FIRST)
  })
})

describe('rotate-app-secret', () => {
  test('makes the secret that was the previous one', async () => {
    await add(FIRST)
    expect(await rotate(2)).toBe('ROTATED')
    expect(await redis.hgetall(key)).toEqual({
      version: 'version of 2',
      secret: 'sealed 2',
      fingerprint: 'f2',
      previous: 'sealed 1',
      previous_fingerprint: 'f1',
    })
  })

  // An administrator whose first answer was lost sends it again: the older secret must not be lost with it.
  test('sent again, changes no secret', async () => {
    await add(FIRST)
    await rotate(2)
    expect(await rotate(2)).toBe('ROTATED')
    expect(await redis.hmget(key, 'secret', 'previous')).toEqual(['sealed 2', 'sealed 1'])
  })

  test('ends the previous one when asked, at once or later', async () => {
    await add(FIRST)
    await rotate(2, { endPrevious: true })
    expect(await redis.hmget(key, 'secret', 'previous', 'previous_fingerprint')).toEqual([
      'sealed 2',
      null,
      null,
    ])
    await rotate(3)
    await rotate(3, { endPrevious: true })
    expect(await redis.hmget(key, 'secret', 'previous', 'previous_fingerprint')).toEqual([
      'sealed 3',
      null,
      null,
    ])
  })

  test('does not make an app that is not there', async () => {
    expect(await rotate(2)).toBe('UNKNOWN')
    expect(await redis.exists(key)).toBe(0)
  })
})

const setPush = (version: string, ...settings: string[]) => run('set-app-push', [key], [version, ...settings])

describe('set-app-push', () => {
  test('gives an app settings of the message push, other ones, and none', async () => {
    await add(FIRST)
    expect(await setPush('2', 'sealed push')).toBe('SET')
    expect(await redis.hgetall(key)).toEqual({ ...FIRST, version: '2', push: 'sealed push' })
    expect(await setPush('3', 'another')).toBe('SET')
    expect(await redis.hmget(key, 'version', 'push')).toEqual(['3', 'another'])
    expect(await setPush('4')).toBe('SET')
    expect(await redis.hgetall(key)).toEqual({ ...FIRST, version: '4' })
  })

  test('does not make an app that is not there', async () => {
    expect(await setPush('2', 'sealed push')).toBe('UNKNOWN')
    expect(await redis.exists(key)).toBe(0)
  })
})

describe('replace-fields', () => {
  test('replaces what is as it was seen, counts it, and leaves the life of the hash', async () => {
    await redis.hset(key, { k: 'old k', p: 'old p', o: 'o-alice' })
    await redis.expire(key, 100)
    expect(await replace(['k', 'old k', 'new k'], ['p', 'old p', 'new p'])).toBe(2)
    expect(await redis.hgetall(key)).toEqual({ k: 'new k', p: 'new p', o: 'o-alice' })
    expect(await redis.ttl(key)).toBeLessThanOrEqual(100)
    expect(await redis.ttl(key)).toBeGreaterThan(70)
  })

  test('leaves alone what has changed since, or has gone', async () => {
    await redis.hset(key, { k: 'newer k' })
    expect(await replace(['k', 'old k', 'new k'], ['p', 'old p', 'new p'])).toBe(0)
    expect(await redis.hgetall(key)).toEqual({ k: 'newer k' })
  })

  test('does not bring back a hash that has gone', async () => {
    expect(await replace(['k', 'old k', 'new k'])).toBe(0)
    expect(await redis.exists(key)).toBe(0)
  })
})

test('every answer that the headers of these scripts promise has been reached above', () => {
  const names = ['add-app', 'rotate-app-secret', 'set-app-push', 'replace-fields']
  expect(names.map((name) => [name, ...unreached(name)])).toEqual(names.map((name) => [name]))
})
