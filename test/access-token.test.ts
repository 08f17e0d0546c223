/** The access_token: one for all gateways, fetched by one of them, whatever happens to the others. */
import { mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import { afterEach, describe, expect, inject, onTestFinished, test } from 'vitest'
import { loadGatewayConfig } from '../src/config.ts'
import { createSeal } from '../src/seal.ts'
import type { Client } from './harness/client.ts'
import { APP_SECRET, APPID, gatewayEnvironment, newKey } from './harness/environment.ts'
import type { TestEnvironment } from './harness/environment.ts'
import { metricIn, startHarness } from './harness/gateway.ts'
import { startMonitor } from './harness/monitor.ts'
import { startGatewayProcess } from './harness/processes.ts'
import { until } from './harness/until.ts'
import { startWechat } from './harness/wechat.ts'
import type { Simulator } from './simulator/server.ts'

const PHONE_PATH = '/wxa/business/getuserphonenumber'
const TOKEN_PATH = '/cgi-bin/stable_token'
const TAKE_OVER_MS_MAX = 5_000

let simulators: Simulator[] = []
afterEach(() => {
  // It would end the token that other backends of the same app use.
  if (simulators.some((wechat) => wechat.history({ path: '/cgi-bin/token' }).length > 0))
    throw new Error('the plain token endpoint was called')
  simulators = []
})

async function startCounted(...options: Parameters<typeof startWechat>): Promise<Simulator> {
  const wechat = await startWechat(...options)
  simulators.push(wechat)
  return wechat
}

const fetches = (wechat: Simulator) => wechat.history({ path: TOKEN_PATH })

/** A logged-in user who taps the phone number button again and again. */
async function logIn(client: Client, wechat: Simulator) {
  const { code, openid } = wechat.issueCode()
  const { body } = await client.login({ code })
  expect(body.token).toBeDefined()
  return {
    askPhone: (at: Client) =>
      at.post('/session/phone', { code: wechat.issuePhoneCode({ openid }).code }, body.token),
  }
}

function statuses(replies: readonly { status: number }[]): Record<number, number> {
  const counts: Record<number, number> = {}
  for (const { status } of replies) counts[status] = (counts[status] ?? 0) + 1
  return counts
}

/** The one that is in Redis, opened as the gateway does. */
async function heldToken(redis: Redis, env: TestEnvironment): Promise<string> {
  const sealed = await redis.hgetBuffer(`${env['KEY_PREFIX']}wechat:token:{${APPID}}`, 't')
  const seal = createSeal(loadGatewayConfig(env).sealKeys)
  return seal.unseal(sealed ?? Buffer.alloc(0), { appid: APPID, sub: 'access_token' })?.toString() ?? ''
}

describe('over three processes', () => {
  test('100 requests at once bring one call of stable_token when there is none, and one each time it stops working', async () => {
    const wechat = await startCounted()
    const env = gatewayEnvironment(wechat, { LOG_LEVEL: 'trace' })
    const gateways = await Promise.all([1, 2, 3].map(() => startGatewayProcess(env)))
    const [first] = gateways
    if (first === undefined) throw new Error('there are three')
    const user = await logIn(first, wechat)
    const storm = () =>
      Promise.all(
        Array.from({ length: 100 }, (_, i) => user.askPhone(gateways[i % gateways.length] ?? first)),
      )

    expect(statuses(await storm())).toEqual({ 200: 100 })
    expect(fetches(wechat)).toHaveLength(1)

    const redis = new Redis(inject('redisUrl'))
    onTestFinished(() => redis.disconnect())
    const secrets = [await heldToken(redis, env)]
    for (const errcode of [42001, 40001, 40014] as const) {
      expect(wechat.invalidateTokens({ errcode })).toBe(1)
      wechat.clearHistory()
      const replies = await storm()
      expect(statuses(replies)).toEqual({ 200: 100 })
      expect(fetches(wechat)).toHaveLength(1)
      secrets.push(await heldToken(redis, env))
    }

    // Ended by its time, and so gone from Redis.
    await redis.del(`${env['KEY_PREFIX']}wechat:token:{${APPID}}`)
    wechat.clearHistory()
    expect(statuses(await storm())).toEqual({ 200: 100 })
    expect(fetches(wechat)).toHaveLength(1)

    expect(new Set(secrets).size).toBe(4)
    expect(secrets.every((secret) => secret.length > 100)).toBe(true)
    const metrics = await Promise.all(gateways.map(async ({ admin }) => (await admin.get('/metrics')).text))
    const written = gateways.map((gateway) => gateway.output()).join('\n') + metrics.join('\n')
    for (const secret of [...secrets, APP_SECRET]) expect(written.includes(secret.slice(0, 24))).toBe(false)
  }, 60_000)

  test('a token that stops working while requests are on their way is renewed once, and all of them succeed', async () => {
    const wechat = await startCounted()
    const env = gatewayEnvironment(wechat)
    const gateways = await Promise.all([1, 2].map(() => startGatewayProcess(env)))
    const [first] = gateways
    if (first === undefined) throw new Error('there are two')
    const user = await logIn(first, wechat)
    await user.askPhone(first)
    wechat.clearHistory()

    const hold = wechat.addFault({ kind: 'hold', when: 'before', path: PHONE_PATH, times: 20 })
    const asking = Array.from({ length: 20 }, (_, i) => user.askPhone(gateways[i % 2] ?? first))
    await until('all to be at WeChat', () => wechat.history({ path: PHONE_PATH }).length === 20)
    wechat.invalidateTokens()
    hold.release()

    expect(statuses(await Promise.all(asking))).toEqual({ 200: 20 })
    expect(fetches(wechat)).toHaveLength(1)
    expect(wechat.history({ path: PHONE_PATH })).toHaveLength(40)
  }, 60_000)

  test('when the one that fetches is killed, another does it within five seconds', async () => {
    const wechat = await startCounted()
    const env = gatewayEnvironment(wechat)
    const [victim, survivor] = [await startGatewayProcess(env), await startGatewayProcess(env)]
    const user = await logIn(survivor, wechat)
    wechat.addFault({ kind: 'hang_before', path: TOKEN_PATH, times: 1 })

    user.askPhone(victim).catch(() => {}) // its process dies over it
    await until('the victim to be fetching', () => fetches(wechat).length === 1)
    const killedMs = performance.now()
    await victim.end('SIGKILL')

    const reply = await until('the survivor to have taken over', async () => {
      const reply = await user.askPhone(survivor)
      return reply.status === 200 && reply
    })
    expect(performance.now() - killedMs).toBeLessThan(TAKE_OVER_MS_MAX)
    expect(reply.body['country_code']).toBe('86')
    expect(fetches(wechat)).toHaveLength(2)
  }, 60_000)

  test('when the one that fetches is slow, the others wait for it and do not ask as well', async () => {
    const wechat = await startCounted()
    const env = gatewayEnvironment(wechat)
    const gateways = await Promise.all([1, 2].map(() => startGatewayProcess(env)))
    const [first] = gateways
    if (first === undefined) throw new Error('there are two')
    const user = await logIn(first, wechat)
    wechat.addFault({ kind: 'delay', ms: 1_000, path: TOKEN_PATH })
    const replies = await Promise.all(gateways.map((gateway) => user.askPhone(gateway)))
    expect(statuses(replies)).toEqual({ 200: 2 })
    expect(fetches(wechat)).toHaveLength(1)
  }, 60_000)
})

describe('in Redis', () => {
  test('it is sealed and lives as long as at WeChat', async () => {
    const wechat = await startCounted({ accessTokenSeconds: 600 })
    const harness = await startHarness({ wechat })
    await (await logIn(harness, wechat)).askPhone(harness)
    const key = harness.keys.accessToken(APPID)
    const token = await heldToken(harness.redis, harness.env)
    expect(token).toMatch(/^\d\d_/)
    expect((await harness.redis.hgetBuffer(key, 't'))?.includes(token)).toBe(false)
    const ttl = await harness.redis.ttl(key)
    expect(ttl).toBeGreaterThan(580)
    expect(ttl).toBeLessThanOrEqual(600)
    expect(await harness.redis.exists(harness.keys.accessTokenLock(APPID))).toBe(0)
  })

  test('one that cannot be opened is counted and fetched anew', async () => {
    const wechat = await startCounted()
    const harness = await startHarness({ wechat })
    const user = await logIn(harness, wechat)
    await user.askPhone(harness)
    const rotated = await startHarness({ wechat, env: { ...harness.env, SEAL_KEYS: newKey('new') } })
    expect((await user.askPhone(rotated)).status).toBe(200)
    expect(await rotated.metric('sealed_unreadable_total', { what: 'access_token' })).toBeGreaterThan(0)
    expect(fetches(wechat)).toHaveLength(2)
  })

  test('gone, nobody asks WeChat for anything', async () => {
    const wechat = await startCounted()
    const harness = await startHarness({ wechat })
    const user = await logIn(harness, wechat)
    wechat.clearHistory()
    await harness.redis.set(harness.keys.accessToken(APPID), 'of another type', 'EX', 60)
    const { status, body } = await user.askPhone(harness)
    expect({ status, code: body.code }).toEqual({ status: 503, code: 'store_unavailable' })
    expect(wechat.history()).toEqual([])
  })
})

describe('a new one by force', () => {
  // WeChat goes on giving out a token that its other servers refuse: only force helps, and WeChat counts it.
  test('is asked for at most every 30 s, whichever gateway wants it', async () => {
    const wechat = await startCounted()
    const one = await startHarness({ wechat })
    const two = await startHarness({ wechat, env: one.env })
    const user = await logIn(one, wechat)
    const forced = async () => {
      const texts = await Promise.all([one, two].map(async ({ admin }) => (await admin.get('/metrics')).text))
      const labels = { reason: 'forced', outcome: 'ok' }
      return texts.map((text) => metricIn(text, 'wechat_access_token_fetches_total', labels))
    }
    await user.askPhone(one)
    wechat.clearHistory()

    wechat.addFault({ kind: 'errcode', errcode: 40001, path: PHONE_PATH, times: 1, when: 'before' })
    expect((await user.askPhone(one)).status).toBe(200)
    expect(fetches(wechat)).toHaveLength(2) // the normal way first, then by force
    expect(await forced()).toEqual([1, 0])

    wechat.addFault({ kind: 'errcode', errcode: 40001, path: PHONE_PATH, when: 'before' })
    const { status, body, headers } = await user.askPhone(two)
    expect({ status, code: body.code, retry: body.retry }).toEqual({
      status: 503,
      code: 'wechat_call_failed',
      retry: 'same_code',
    })
    expect(Number(headers['retry-after'])).toBeGreaterThan(20)
    expect(await forced()).toEqual([1, 0])
  })
})

describe('before it ends', () => {
  test('one gateway renews it in the background, and the others find it renewed', async () => {
    const wechat = await startCounted()
    const one = await startHarness({ wechat })
    const two = await startHarness({ wechat, env: one.env })
    const user = await logIn(one, wechat)
    await user.askPhone(one)
    expect(fetches(wechat)).toHaveLength(1)

    // As if most of its life were over: both learn so with the next request, and go on using it.
    const key = one.keys.accessToken(APPID)
    const ending = Date.now() + 200_000
    await one.redis.hset(key, 'e', ending)
    const three = await startHarness({ wechat, env: one.env })
    const { commands } = await startMonitor(inject('redisUrl'))
    const lock = one.keys.accessTokenLock(APPID)
    const owners = () =>
      commands().flatMap(({ args: [command, key, owner = ''] }) =>
        command?.toLowerCase() === 'set' && key === lock ? [owner] : [],
      )
    expect(statuses(await Promise.all([two, three].map((gateway) => user.askPhone(gateway))))).toEqual({
      200: 2,
    })
    expect(fetches(wechat)).toHaveLength(1)

    await until('both to have tried', () => new Set(owners()).size === 2, 20_000)
    await until('it to be renewed', async () => Number(await one.redis.hget(key, 'e')) > ending + 1_000_000)
    await until(
      'the lock to be free',
      async () => (await one.redis.exists(one.keys.accessTokenLock(APPID))) === 0,
    )
    expect(fetches(wechat)).toHaveLength(2)
  }, 60_000)
})

describe('the AppSecret', () => {
  test('that is not valid yet gives way to the one that still is', async () => {
    const wechat = await startCounted()
    const file = join(mkdtempSync(join(tmpdir(), 'gateway-apps-')), 'apps.json')
    writeFileSync(file, JSON.stringify([{ appid: APPID, secrets: ['f'.repeat(32), APP_SECRET] }]))
    const env = { WECHAT_APPS_FILE: file, WECHAT_APPID: '', WECHAT_SECRET: '' }
    const harness = await startHarness({ wechat, env })
    const user = await logIn(harness, wechat)
    expect((await user.askPhone(harness)).status).toBe(200)
    expect(fetches(wechat).map(({ outcome }) => outcome)).toEqual([40125, 'ok'])
  })

  test('that is wrong is not tried again and again by everybody who asks', async () => {
    const wechat = await startCounted()
    const harness = await startHarness({ wechat })
    const user = await logIn(harness, wechat)
    wechat.addFault({ kind: 'errcode', errcode: 40125, path: TOKEN_PATH })
    const replies = await Promise.all(Array.from({ length: 50 }, () => user.askPhone(harness)))
    expect(new Set(replies.map(({ body }) => body.code))).toEqual(new Set(['app_misconfigured']))
    expect(fetches(wechat)).toHaveLength(1)
  })
})
