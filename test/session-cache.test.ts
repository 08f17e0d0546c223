/** The cache of validations: fast within its bound, and right beyond it whatever becomes of messages. */
import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { startRedis } from '../deploy/local/redis-server.ts'
import { createSessionCache } from '../src/session-cache.ts'
import { APPID, gatewayEnvironment, SIMULATED } from './harness/environment.ts'
import { metricIn, startHarness } from './harness/gateway.ts'
import type { Harness } from './harness/gateway.ts'
import { startGatewayProcess } from './harness/processes.ts'
import { ageSession, logIn } from './harness/session-values.ts'
import { until } from './harness/until.ts'
import { startSimulator } from './simulator/server.ts'
import { createRandom } from './simulator/random.ts'

const BOUND_MS = 2_000
const CACHE = { SESSION_CACHE_SECONDS: '2' }

const validate = async (harness: Pick<Harness, 'get'>, token: string) =>
  (await harness.get('/auth', token)).status
const hits = (harness: Harness) =>
  harness.metric('session_validations_total', { outcome: 'valid', cache: 'hit' })

describe('with the cache on', () => {
  test('Redis is asked once for many validations, and each says how long the session still lives', async () => {
    const harness = await startHarness({ env: { ...CACHE, SESSION_TTL_SECONDS: '60' } })
    const { token, sub } = await logIn(harness)
    for (let i = 0; i < 50; i += 1) expect(await validate(harness, token)).toBe(200)
    expect(await hits(harness)).toBeGreaterThanOrEqual(45)

    await harness.redis.publish(harness.keys.endedChannel, sub)
    await ageSession(harness, sub, { opened: 59 })
    // A second later it has ended, with its entry in the cache still fresh.
    await until('the session to end', async () => (await validate(harness, token)) === 401, 3_000)
  })

  test('a session that ends here is ended here at once, in every way there is', async () => {
    const harness = await startHarness({ env: { ...CACHE, SESSIONS_PER_USER: '2' } })
    const openid = 'o-many-ends'
    const authorization = `Bearer ${harness.env['ADMIN_TOKEN'] ?? ''}`
    const user = `/users/${APPID}/${openid}`
    const ways: Record<string, (token: string) => Promise<unknown>> = {
      'log out': (token) => harness.delete('/session', token),
      'log out everywhere': (token) => harness.delete('/sessions', token),
      'log out everywhere else': async () =>
        harness.delete('/sessions?keep=current', (await logIn(harness, { openid })).token),
      'log in again with the old token': (token) =>
        logIn(harness, { openid, headers: { authorization: `Bearer ${token}` } }),
      'log in too often': async () => {
        const [seconds] = await harness.redis.time()
        await until('the next second', async () => (await harness.redis.time())[0] !== seconds)
        for (let i = 0; i < 2; i += 1) await logIn(harness, { openid })
      },
      'be ended by an administrator': () =>
        harness.admin.send('DELETE', `${user}/sessions`, { headers: { authorization } }),
      'be blocked': () => harness.admin.send('PUT', `${user}/block`, { headers: { authorization } }),
    }
    for (const [way, end] of Object.entries(ways)) {
      const { token } = await logIn(harness, { openid })
      expect([way, await validate(harness, token), await validate(harness, token)]).toEqual([way, 200, 200])
      await end(token)
      expect([way, await validate(harness, token)]).toEqual([way, 401])
    }
  })

  test('a session that ends at one gateway is ended at the others within moments', async () => {
    const one = await startHarness({ env: { ...CACHE, SESSION_CACHE_SECONDS: '5' } })
    const other = await startHarness({ env: one.env, wechat: one.wechat })
    await until('both to listen', async () => (await listeners(one)) === 2)
    const { token } = await logIn(one)
    expect([await validate(other, token), await validate(other, token)]).toEqual([200, 200])
    await one.delete('/session', token)
    const endedAtMs = performance.now()
    await until('the other to hear of it', async () => (await validate(other, token)) === 401)
    expect(performance.now() - endedAtMs).toBeLessThan(1_000)
  })

  test('without any message the bound holds', async () => {
    const harness = await startHarness({ env: CACHE })
    const { token, sub } = await logIn(harness)
    expect(await validate(harness, token)).toBe(200)
    await harness.redis.del(harness.keys.user(sub)) // nobody is told
    const endedAtMs = performance.now()
    expect(await validate(harness, token)).toBe(200)
    await until('the entry to end', async () => (await validate(harness, token)) === 401)
    // A validation in the meantime must not have prolonged it.
    expect(performance.now() - endedAtMs).toBeLessThan(BOUND_MS + 500)
  })

  test('after a gap in the messages nothing of before is believed', async () => {
    const harness = await startHarness({ env: { SESSION_CACHE_SECONDS: '5' } })
    await until('it to listen', async () => (await listeners(harness)) === 1)
    const { token, sub } = await logIn(harness)
    expect(await validate(harness, token)).toBe(200)
    await harness.redis.del(harness.keys.user(sub))
    expect(await validate(harness, token)).toBe(200)
    await harness.redis.call('CLIENT', 'KILL', 'TYPE', 'pubsub')
    const killedAtMs = performance.now()
    await until('the entry to be gone', async () => (await validate(harness, token)) === 401)
    expect(performance.now() - killedAtMs).toBeLessThan(2_000)
  })

  test('what is not valid is asked for each time', async () => {
    const harness = await startHarness({ env: CACHE })
    const { token } = await logIn(harness)
    await harness.delete('/session', token)
    for (let i = 0; i < 5; i += 1) expect(await validate(harness, token)).toBe(401)
    expect(await harness.metric('session_validations_total', { outcome: 'invalid', cache: 'miss' })).toBe(5)
  })

  test('use prolongs a session all the same', async () => {
    const harness = await startHarness({ env: { ...CACHE, SESSION_TTL_SECONDS: '600' } })
    const { token, sub } = await logIn(harness)
    await ageSession(harness, sub, { opened: 300 })
    for (let i = 0; i < 5; i += 1) expect(await validate(harness, token)).toBe(200)
    await until(
      'its use to be noted',
      async () => (await harness.metric('session_renewals_total', { outcome: 'renewed' })) === 1,
    )
    expect(await harness.redis.ttl(harness.keys.user(sub))).toBeGreaterThan(590)
  })

  test('while Redis is away it answers until its bound, then 503, never 401', async () => {
    const redis = await startRedis({
      persistent: true,
      dataDir: mkdtempSync(join(tmpdir(), 'gateway-redis-')),
      allowDocker: false,
    })
    onTestFinished(() => redis.stop())
    const harness = await startHarness({
      env: { ...CACHE, REDIS_URL: redis.url, REDIS_COMMAND_TIMEOUT_MS: '250' },
    })
    const { token } = await logIn(harness)
    const { token: unseen } = await logIn(harness)
    expect(await validate(harness, token)).toBe(200)
    process.kill(redis.pid ?? 0, 'SIGSTOP')
    onTestFinished(() => void process.kill(redis.pid ?? 0, 'SIGCONT'))
    const stoppedAtMs = performance.now()

    expect(await validate(harness, token)).toBe(200)
    expect(await validate(harness, unseen)).toBe(503)
    const seen = new Set<number>()
    await until('the entry to end', async () => {
      seen.add(await validate(harness, token))
      return seen.has(503)
    })
    expect(performance.now() - stoppedAtMs).toBeLessThan(BOUND_MS + 1_000)
    expect([...seen].filter((status) => status !== 200 && status !== 503)).toEqual([])
    process.kill(redis.pid ?? 0, 'SIGCONT')
    await until('Redis to be back', async () => (await validate(harness, token)) === 200)
  })
})

/** How many connections hear of sessions that end. */
async function listeners({ redis, keys }: Harness): Promise<number> {
  const answer = (await redis.call('PUBSUB', 'NUMSUB', keys.endedChannel)) as [string, number]
  return answer[1]
}

/** What Redis says of a user who is logged in. */
const found = (sub: string) => async () => ({ session: { sub } })

describe('the cache itself', () => {
  test('is bounded, and what was found last stays', async () => {
    const cache = createSessionCache(60_000, 100)
    for (let i = 0; i < 1_000; i += 1) {
      await cache.find({ sub: `u${i}`, field: 'a' }, found(`u${i}`))
      if (i % 3 === 0) await cache.find({ sub: `u${i}`, field: 'b' }, found(`u${i}`))
      expect(cache.size()).toBeLessThanOrEqual(100)
    }
    expect(cache.get('u999', 'a')).toBeDefined()
    expect(cache.get('u999', 'b')).toBeDefined()
    expect(cache.get('u0', 'a')).toBeUndefined()
    for (let i = 0; i < 1_000; i += 1) cache.drop(`u${i}`)
    expect(cache.size()).toBe(0)
  })

  // Redis said "valid", the session was ended, and the message overtook the answer.
  test('does not keep an answer that was overtaken by the end of the session', async () => {
    const cache = createSessionCache(60_000)
    for (const end of [() => cache.drop('u'), () => cache.clear()]) {
      const answer = Promise.withResolvers<{ session: { sub: string } }>()
      const asking = cache.find({ sub: 'u', field: 'a' }, () => answer.promise)
      end()
      answer.resolve({ session: { sub: 'u' } })
      expect((await asking)?.session.sub).toBe('u')
      expect(cache.get('u', 'a')).toBeUndefined()
    }
    const failing = cache.find({ sub: 'u', field: 'a' }, () => Promise.reject(new Error('Redis is away')))
    await expect(failing).rejects.toThrow('Redis is away')
    await cache.find({ sub: 'u', field: 'a' }, found('u'))
    expect(cache.get('u', 'a')).toBeDefined()
  })
})

const OPERATIONS = 12_000
const USERS = 500
const CLIENTS = 24
/** Of the operations on a living session: how many end it rather than ask for it. */
const END_SHARE = 0.05

interface Life {
  token: string
  endAskedMs?: number
  endedMs?: number
}

test('12,000 validations and log-outs interleaved over 3 gateways are all answered rightly within the bound', {
  timeout: 120_000,
}, async () => {
  const wechat = await startSimulator(SIMULATED)
  onTestFinished(() => wechat.close())
  const env = gatewayEnvironment(wechat, { SESSION_CACHE_SECONDS: '1', LOG_LEVEL: 'warn' })
  const boundMs = 1_000
  const gateways = await Promise.all([1, 2, 3].map(() => startGatewayProcess({ ...env, LOG_LEVEL: 'info' })))
  const seed = Math.floor(Math.random() * 2 ** 31)
  const random = createRandom(String(seed), 'operations')
  const pick = <T>(list: readonly T[]): T => list[Math.floor(random.fraction() * list.length)] as T

  const lives: Life[] = []
  await Promise.all(
    gateways.map(async (gateway) => {
      while (lives.length < USERS)
        lives.push({ token: (await logIn({ wechat, login: gateway.login })).token })
    }),
  )

  const faults: string[] = []
  let stale = 0
  let staleMsMax = 0
  let left = OPERATIONS
  const operate = async () => {
    while (left > 0) {
      left -= 1
      const life = pick(lives)
      const gateway = pick(gateways)
      if (life.endAskedMs === undefined && random.fraction() < END_SHARE) {
        life.endAskedMs = performance.now()
        const { status } = await gateway.delete(pick(['/session', '/sessions']), life.token)
        life.endedMs = performance.now()
        if (status !== 204) faults.push(`a log-out was answered ${status}`)
        continue
      }
      const startedMs = performance.now()
      const { status } = await gateway.get(pick(['/auth', '/session']), life.token)
      const answeredMs = performance.now()
      const { endAskedMs = Infinity, endedMs = Infinity } = life
      if (status === 200) {
        const lateMs = startedMs - endedMs
        if (lateMs > 0) stale += 1
        staleMsMax = Math.max(staleMsMax, lateMs)
        if (lateMs > boundMs) faults.push(`valid ${lateMs} ms after its end`)
      } else if (status !== 401 || endAskedMs > answeredMs) faults.push(`a living session was ${status}`)
    }
  }
  const startedMs = performance.now()
  await Promise.all(Array.from({ length: CLIENTS }, operate))
  const seconds = ((performance.now() - startedMs) / 1000).toFixed(1)

  const texts = await Promise.all(gateways.map(async ({ admin }) => (await admin.get('/metrics')).text))
  const hitCount = texts
    .map((text) => metricIn(text, 'session_validations_total', { outcome: 'valid', cache: 'hit' }))
    .reduce((sum, count) => sum + count, 0)
  const ended = lives.filter(({ endedMs }) => endedMs !== undefined).length
  console.log(
    `seed ${seed}: ${OPERATIONS} operations in ${seconds} s, ${ended} sessions ended, ${hitCount} cache hits, ` +
      `${stale} stale answers, the latest ${staleMsMax.toFixed(1)} ms after the log-out`,
  )
  expect(faults.slice(0, 5), `seed ${seed}`).toEqual([])
  expect(ended).toBeGreaterThan(USERS * 0.3)
  expect(ended).toBeLessThan(USERS)
  expect(hitCount).toBeGreaterThan(1_000)
  // And in the end every gateway knows of every one.
  for (const gateway of gateways) {
    for (const { token, endedMs } of lives) {
      await until(
        'the bound to pass',
        async () => (await validate(gateway, token)) === (endedMs === undefined ? 200 : 401),
        boundMs,
      )
    }
  }
})
