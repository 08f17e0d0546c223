/** Redis hangs, refuses or forgets: what clients are told meanwhile, and how soon. It is one of our own. */
import { performance } from 'node:perf_hooks'
import { beforeEach, describe, expect, onTestFinished, test } from 'vitest'
import { createCodes, LEASE_MS } from '../src/codes.ts'
import { loadGatewayConfig } from '../src/config.ts'
import { connectFailFast, waitUntilReady } from '../src/redis/connections.ts'
import { startStandalone } from './faults/redis-servers.ts'
import type { StandaloneRedis } from './faults/redis-servers.ts'
import { startHarness } from './harness/gateway.ts'
import type { Harness } from './harness/gateway.ts'
import { logIn } from './harness/session-values.ts'
import { until } from './harness/until.ts'

const TIMEOUT_MS = 250
const SETTINGS = { REDIS_COMMAND_TIMEOUT_MS: String(TIMEOUT_MS), LOG_LEVEL: 'silent' }

let redis: StandaloneRedis
beforeEach(async () => {
  redis = await startStandalone()
  onTestFinished(() => redis.close())
})

const start = (env: Record<string, string> = {}) =>
  startHarness({ env: { ...redis.env, ...SETTINGS, KEY_PREFIX: '', ...env } })

const adminOf = (harness: Harness) => (method: string, path: string) =>
  harness.admin.send(method, path, {
    headers: { authorization: `Bearer ${String(harness.env['ADMIN_TOKEN'])}` },
  })

async function timed<T>(action: Promise<T>): Promise<{ reply: T; ms: number }> {
  const startedMs = performance.now()
  return { reply: await action, ms: performance.now() - startedMs }
}

describe('while Redis hangs', () => {
  test('a login costs one command timeout, though it is several commands, and the next ones nothing', async () => {
    const harness = await start()
    const { token } = await logIn(harness)
    const codes = Array.from({ length: 20 }, () => harness.wechat.issueCode().code)
    const asked = harness.wechat.history().length
    redis.node.stop()

    const [first = '', ...others] = codes
    const slow = await timed(harness.login({ code: first }))
    expect([slow.reply.status, slow.reply.body.code]).toEqual([503, 'store_unavailable'])
    expect(slow.ms).toBeLessThan(2 * TIMEOUT_MS)
    for (const code of others) {
      const { reply, ms } = await timed(harness.login({ code }))
      expect([reply.status, reply.body.code, reply.body.retry]).toEqual([
        503,
        'store_unavailable',
        'same_code',
      ])
      expect(ms).toBeLessThan(TIMEOUT_MS)
    }
    const validation = await timed(harness.get('/auth', token))
    expect([validation.reply.status, validation.ms < TIMEOUT_MS]).toEqual([503, true])
    expect(harness.wechat.history()).toHaveLength(asked)
    expect(await harness.metric('redis_failures_total', { reason: 'silent' })).toBeGreaterThan(0)

    // Each code logs in afterwards, by one exchange.
    redis.node.resume()
    await until('Redis to be heard', async () => (await harness.get('/auth', token)).status === 200)
    for (const code of codes) expect((await harness.login({ code })).status).toBe(200)
    for (const code of codes) expect(harness.wechat.history({ code })).toHaveLength(1)
  })

  // A claim that timed out is made all the same, as soon as Redis goes on. What takes it back runs right behind it,
  // so that the same client need not wait for the lease to end.
  test('a claim that nobody heard of is given back by the same stroke', async () => {
    const { keys, env, wechat, ...harness } = await start()
    await logIn({ ...harness, wechat }) // its scripts are known from here on
    await harness.login({ code: 'x'.repeat(32) })
    const connection = connectFailFast(loadGatewayConfig(env).redis)
    onTestFinished(() => connection.disconnect())
    await waitUntilReady(connection, 1_000)
    const codes = createCodes(connection, keys, { onClaim() {}, onClaimLost() {} })
    redis.node.stop()
    const attempts = ['a', 'b', 'c'].map((code) => ({ appid: 'wx', code, bind: '', ip: '', device: '' }))
    const claims = await Promise.allSettled(
      attempts.map((attempt) => codes.claim(attempt, AbortSignal.timeout(1_000))),
    )
    expect(claims.map(({ status }) => status)).toEqual(attempts.map(() => 'rejected'))
    redis.node.resume()
    const resumedMs = performance.now()
    for (const attempt of attempts) {
      const again = await until('Redis to be heard', () =>
        codes.claim(attempt, AbortSignal.timeout(100)).catch(() => undefined),
      )
      expect(again).toMatchObject({ state: 'leading', claim: { generation: 2 } })
    }
    expect(performance.now() - resumedMs).toBeLessThan(LEASE_MS / 2)
  })

  // Redis reads 16 KiB of a socket at a time. Having answered those it finds the connection gone, and never reads what
  // takes the claims back.
  test('claims that are made when their connection has gone are given back as soon as Redis is heard', async () => {
    const { keys, env } = await start()
    const connection = connectFailFast(loadGatewayConfig(env).redis)
    onTestFinished(() => connection.disconnect())
    await waitUntilReady(connection, 1_000)
    const codes = createCodes(connection, keys, { onClaim() {}, onClaimLost() {} })
    await codes.claim(
      { appid: 'wx', code: 'first', bind: '', ip: '', device: '' },
      AbortSignal.timeout(1_000),
    ) // the script is known
    redis.node.stop()
    const closed = new Promise((resolve) => connection.once('close', resolve))
    const attempts = Array.from({ length: 150 }, (_, at) => ({
      appid: 'wx',
      code: `code-${at}`,
      bind: '',
      ip: '',
      device: '',
    }))
    await Promise.allSettled(attempts.map((attempt) => codes.claim(attempt, AbortSignal.timeout(1_000))))
    await closed
    redis.node.resume()
    await redis.admin.ping()
    const inState = async (state: string) => {
      const found = await redis.admin.keys(keys.code('*'))
      const states = await Promise.all(found.map((key) => redis.admin.hget(key, 'st')))
      return states.filter((one) => one === state).length
    }
    // The first code is held by its leader.
    await until('the claims to be given back', async () => (await inState('P')) === 1, 1_000)
    expect(await inState('R')).toBeGreaterThan(0)
  })

  test('a stall that is shorter than the timeout refuses nobody', async () => {
    const harness = await start({ REDIS_COMMAND_TIMEOUT_MS: '2000' })
    const { token } = await logIn(harness)
    const stall = redis.admin.call('DEBUG', 'SLEEP', '0.3')
    const replies = await Promise.all(Array.from({ length: 20 }, () => harness.get('/auth', token)))
    expect(replies.map(({ status }) => status)).toEqual(replies.map(() => 200))
    await stall
  })

  // Where WeChat has taken the code already, giving it back would only have WeChat asked in vain.
  test('a login that has been exchanged by then ends in an answer that leads to a session', async () => {
    const harness = await start()
    await logIn(harness) // Redis knows the scripts
    const { code } = harness.wechat.issueCode()
    const hold = harness.wechat.addFault({ kind: 'hold', code })
    const login = timed(harness.login({ code }))
    await harness.wechat.received(code)
    redis.node.stop()
    const releasedMs = performance.now()
    hold.release()
    const { reply } = await login
    expect([reply.status, reply.body.code]).toEqual([503, 'store_unavailable'])
    expect(performance.now() - releasedMs).toBeLessThan(2 * TIMEOUT_MS)
    redis.node.resume()
    // What was sent to Redis in time is done: the session is there.
    const again = await until('Redis to be heard', async () => {
      const retried = await harness.login({ code })
      return retried.status !== 503 && retried
    })
    expect(again.status).toBe(200)
    expect(harness.wechat.history({ code })).toHaveLength(1)
  })
})

describe('a Redis that answers, but not as one would like', () => {
  const states: Record<string, { cause: [string, ...string[]][]; cure: [string, ...string[]][] }> = {
    'is a replica': { cause: [['REPLICAOF', '127.0.0.1', '1']], cure: [['REPLICAOF', 'NO', 'ONE']] },
    'is a replica without its master': {
      cause: [
        ['CONFIG', 'SET', 'replica-serve-stale-data', 'no'],
        ['REPLICAOF', '127.0.0.1', '1'],
      ],
      cure: [['REPLICAOF', 'NO', 'ONE']],
    },
    'has lost its replicas': {
      cause: [['CONFIG', 'SET', 'min-replicas-to-write', '1']],
      cure: [['CONFIG', 'SET', 'min-replicas-to-write', '0']],
    },
    'takes the rights away': {
      cause: [['ACL', 'SETUSER', 'gateway', '-@all']],
      cure: [['ACL', 'SETUSER', 'gateway', '+@all']],
    },
    'has another password': {
      cause: [
        ['ACL', 'SETUSER', 'gateway', 'resetpass', '>another'],
        ['CLIENT', 'KILL', 'USER', 'gateway'],
      ],
      cure: [['ACL', 'SETUSER', 'gateway', 'resetpass', '>only-for-tests']],
    },
  }

  test.each(Object.keys(states))(
    'that %s: 503, never 401 or 500, WeChat not asked, then all goes on',
    async (name) => {
      const { cause = [], cure = [] } = states[name] ?? {}
      await redis.admin.call('ACL', 'SETUSER', 'gateway', 'on', '>only-for-tests', '~*', '&*', '+@all')
      const url = `redis://gateway:only-for-tests@127.0.0.1:${redis.node.port}`
      const harness = await start({ REDIS_URL: url })
      const { token } = await logIn(harness)
      const { code } = harness.wechat.issueCode()
      for (const [command, ...args] of cause) await redis.admin.call(command, ...args)

      await until('the fault to be noticed', async () => (await harness.login({ code })).status === 503)
      for (let i = 0; i < 10; i += 1) {
        const login = await harness.login({ code })
        expect([login.status, login.body.code, login.body.retry]).toEqual([
          503,
          'store_unavailable',
          'same_code',
        ])
        expect(login.headers['retry-after']).toMatch(/^\d+$/)
        expect([200, 503]).toContain((await harness.get('/auth', token)).status)
        expect((await harness.delete('/session', token)).status).toBe(503)
      }
      expect(harness.wechat.history({ code })).toEqual([])

      for (const [command, ...args] of cure) await redis.admin.call(command, ...args)
      const back = await until('the same code to log in', async () => {
        const reply = await harness.login({ code })
        return reply.status === 200 && reply
      })
      expect((await harness.get('/auth', back.body.token)).status).toBe(200)
      expect((await harness.get('/auth', token)).status).toBe(200)
      expect((await harness.delete('/session', token)).status).toBe(204)
    },
  )
})

describe('a Redis that has lost everything', () => {
  test('means a new login for everybody, and no more', async () => {
    const harness = await start()
    const { code, openid } = harness.wechat.issueCode()
    const { body } = await harness.login({ code })
    expect((await harness.get('/auth', body.token)).status).toBe(200)
    await redis.admin.flushall()
    await redis.admin.script('FLUSH')

    expect((await harness.get('/auth', body.token)).status).toBe(401)
    const again = await harness.login({ code: harness.wechat.issueCode({ openid }).code })
    expect([again.status, again.body.sub]).toEqual([200, body.sub])
    expect((await harness.get('/auth', again.body.token)).status).toBe(200)
    expect(await harness.metric('provisioning_enqueued_total', { outcome: 'added' })).toBe(2)
    expect((await harness.delete('/session', again.body.token)).status).toBe(204)
  })
})

/** Full means: more in use than is allowed. */
function fill(full: boolean) {
  return redis.admin.config('SET', 'maxmemory', full ? '1' : '0')
}

describe('a full Redis', () => {
  test('finds sessions and ends them in every way; logins are refused at once, before WeChat is asked', async () => {
    const harness = await start()
    const openids = ['one', 'two', 'three', 'four', 'five'].map((name) => `o-${name}`)
    const tokens: string[] = []
    for (const openid of openids) tokens.push((await logIn(harness, { openid })).token)
    const second = (await logIn(harness, { openid: 'o-two' })).token
    const [one = '', two = '', three = '', four = '', five = ''] = tokens
    const asked = harness.wechat.history().length
    const admin = adminOf(harness)
    const user = `/users/${String(harness.env['WECHAT_APPID'])}`
    await fill(true)
    const before = await redis.admin.dbsize()

    for (const token of [...tokens, second]) {
      expect((await harness.get('/auth', token)).status).toBe(200)
      expect((await harness.get('/sessions', token)).status).toBe(200)
    }
    for (let i = 0; i < 10; i += 1) {
      const { reply, ms } = await timed(harness.login({ code: harness.wechat.issueCode().code }))
      expect([reply.status, reply.body.code]).toEqual([503, 'store_unavailable'])
      expect(Number(reply.headers['retry-after'])).toBeGreaterThan(0)
      expect(ms).toBeLessThan(TIMEOUT_MS)
    }
    expect(harness.wechat.history()).toHaveLength(asked)
    expect(await redis.admin.dbsize()).toBe(before)
    expect(await harness.metric('redis_failures_total', { reason: 'full' })).toBeGreaterThan(0)

    const { sessions } = (await harness.get('/sessions', two)).body
    const other = sessions.find(({ current }) => !current)?.id ?? ''
    expect((await harness.delete('/session', one)).status).toBe(204)
    expect((await harness.delete(`/sessions/${other}`, two)).status).toBe(204)
    expect((await harness.delete('/sessions?keep=current', two)).status).toBe(204)
    expect((await harness.delete('/sessions', three)).status).toBe(204)
    expect((await admin('DELETE', `${user}/o-four/sessions`)).status).toBe(204)
    expect((await admin('PUT', `${user}/o-five/block`)).status).toBe(204)
    for (const token of [one, second, three, four, five])
      expect((await harness.get('/auth', token)).status).toBe(401)
    expect((await harness.get('/auth', two)).status).toBe(200)

    await fill(false)
    expect((await logIn(harness, { openid: 'o-one' })).token).toMatch(/^wxs_/)
  })

  test('that fills up between the claim and the session leaves no half of one', async () => {
    const harness = await start()
    const { code } = harness.wechat.issueCode()
    const hold = harness.wechat.addFault({ kind: 'hold', code })
    const login = harness.login({ code })
    await harness.wechat.received(code)
    await fill(true)
    hold.release()
    expect((await login).body.code).toBe('store_unavailable')
    expect(await redis.admin.keys('user:*')).toEqual([])
    await fill(false)
    expect((await logIn(harness)).token).toMatch(/^wxs_/)
  })

  // It cannot count the limits either.
  test('has each gateway allow its share of a limit', async () => {
    const harness = await start({ LIMIT_LOGIN_PER_IP: '7', GATEWAY_COUNT: '2' })
    await fill(true)
    const replies: unknown[] = []
    for (let i = 0; i < 5; i += 1)
      replies.push((await harness.login({ code: harness.wechat.issueCode().code })).body.code)
    expect(replies).toEqual([...Array<string>(4).fill('store_unavailable'), 'rate_limited'])
    expect(await harness.metric('limit_total', { limit: 'login_per_ip', outcome: 'degraded' })).toBe(5)

    // Who is over it is known here, and Redis is not asked for their claim.
    const claims = () => harness.metric('redis_command_duration_seconds_count', { command: 'claim-code' })
    const before = await claims()
    const again = await harness.login({ code: harness.wechat.issueCode().code })
    expect(again.body.code).toBe('rate_limited')
    expect(await claims()).toBe(before)
    expect(await harness.metric('limit_total', { limit: 'login_per_ip', outcome: 'denied' })).toBe(1)
  })
})
