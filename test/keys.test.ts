/** `npm run keys`: what the operator is given, told, and spared. */
import { randomBytes } from 'node:crypto'
import type { RedisKey } from 'ioredis'
import { describe, expect, inject, test } from 'vitest'
import { loadKeysConfig } from '../src/config.ts'
import { createSeal, kidOf } from '../src/seal.ts'
import { weaknessOf } from '../src/key-ring.ts'
import { generateKey } from '../src/keys/generate.ts'
import { reseal } from '../src/keys/reseal.ts'
import { createAppsAdmin, newWechatApp } from './harness/apps-admin.ts'
import { closedHost } from './harness/wechat.ts'
import { faultsOf } from './harness/configuration.ts'
import { APPID, newKey, newPrefix } from './harness/environment.ts'
import type { TestEnvironment } from './harness/environment.ts'
import { startHarness } from './harness/gateway.ts'
import type { Harness } from './harness/gateway.ts'
import { runKeys } from './harness/keys-command.ts'

describe('generate', () => {
  test('prints a key that the gateway takes, alone on stdout, and what to do with it on stderr', async () => {
    const { code, stdout, stderr } = await runKeys(['generate'])
    expect(code).toBe(0)
    expect(stdout).toMatch(/^\d{4}a:[A-Za-z0-9+/]{43}=\n$/)
    expect(faultsOf({ NODE_ENV: 'production', SEAL_KEYS: stdout.trim() })).toEqual([])
    expect(stderr).toContain('Put it behind the present one')
    expect(stderr).not.toContain(stdout.trim().split(':')[1])
  })

  test('gives it a kid that neither ring has', async () => {
    const [first = ''] = (await runKeys(['generate'])).stdout.split(':')
    const next = first.replace(/a$/, 'b')
    const env = { SEAL_KEYS: `${newKey('s1')},${newKey(first)}`, TOKEN_KEYS: newKey(next) }
    expect((await runKeys(['generate'], env)).stdout).toMatch(new RegExp(`^${first.replace(/a$/, 'c')}:`))
  })

  test('goes on beyond the 26th key of a month', () => {
    const date = new Date('2026-11-22T12:00:00Z')
    const taken = new Set<string>()
    for (let i = 0; i < 702; i += 1) taken.add(generateKey(taken, date).split(':')[0] ?? '')
    expect([...taken].slice(25, 28)).toEqual(['2611z', '2611aa', '2611ab'])
    expect([...taken].every((kid) => /^[A-Za-z0-9]{1,8}$/.test(kid))).toBe(true)
    expect(() => generateKey(taken, date)).toThrow('taken')
  })
})

const hex = (text: string) => Buffer.from(text, 'hex')
const steps = (from: number, by: number) => Buffer.from(Array.from({ length: 32 }, (_, i) => from + by * i))

describe('a key out of a book', () => {
  test.each<[what: string, bytes: Buffer]>([
    ['counting up', steps(0, 1)],
    ['counting down', steps(255, -1)],
    ['counting by seven', steps(3, 7)],
    ['of NIST SP 800-38A', hex('603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4')],
    ['of the GCM specification', hex('feffe9928665731c6d6a8f9467308308'.repeat(2))],
    ['of letters', Buffer.from('correct-horse-battery-staple-now')],
    ['of hexadecimal digits', Buffer.from('0123456789abcdeffedcba9876543210')],
  ])('%s is refused at the start', (_what, bytes) => {
    for (const ring of ['SEAL_KEYS', 'TOKEN_KEYS']) {
      const faults = faultsOf({ [ring]: `k1:${bytes.toString('base64')}` })
      expect(faults).toEqual([expect.stringMatching(new RegExp(`^${ring}, key 1 \\(k1\\) is not random`))])
      expect(faults.join()).not.toContain(bytes.toString('base64'))
    }
  })

  test('is not what random bytes look like', () => {
    for (let i = 0; i < 20_000; i += 1) expect(weaknessOf(randomBytes(32))).toBeUndefined()
  })
})

async function logIn(harness: Harness, openid?: string) {
  const { code } = harness.wechat.issueCode({ appid: APPID, ...(openid && { openid }) })
  const reply = await harness.login({ code, appid: APPID })
  expect(reply.status).toBe(200)
  return reply.body
}

describe('check', () => {
  test('says what hangs on each key, and shows none', async () => {
    const [s1, s2, t1, t2] = [newKey('s1'), newKey('s2'), newKey('t1'), newKey('t2')]
    const before = await startHarness({ env: { SEAL_KEYS: s1, TOKEN_KEYS: t1 } })
    const shared = { KEY_PREFIX: before.env['KEY_PREFIX'] ?? '' }
    const after = await startHarness({
      wechat: before.wechat,
      env: { ...shared, SEAL_KEYS: `${s2},${s1}`, TOKEN_KEYS: `${t2},${t1}` },
    })
    const app = newWechatApp(before.wechat)
    await createAppsAdmin(before).add({ ...app, push: { token: 'of-the-push'.replaceAll('-', '') } })
    for (let i = 0; i < 3; i += 1) await logIn(before)
    const { openid } = await logIn(before)
    await logIn(after, openid)
    await logIn(after)

    const { code, stdout, stderr } = await runKeys(['check'], after.env)
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    const line = (kid: string) => stdout.split('\n').find((one) => one.startsWith(`  ${kid}:`)) ?? ''
    expect(line('s2')).toContain('2 users and 0 apps. It seals what is new')
    expect(line('s1')).toContain('4 users and 1 apps. In use')
    expect(line('t2')).toContain('2 sessions. It makes what is new')
    expect(line('t1')).toMatch(/4 sessions\. In use: the last ends by 20\d\d-/)
    for (const key of [s1, s2, t1, t2]) expect(stdout).not.toContain(key.split(':')[1])

    const retired = await runKeys(['check'], { ...after.env, SEAL_KEYS: s2, TOKEN_KEYS: t2 })
    expect(retired.code).toBe(1)
    expect(retired.stdout).toContain('no key of the ring opens values of 5 users and apps')
    expect(retired.stdout).toContain('4 sessions of keys that are not in the ring')
  })

  test('does not take another key of the same name for the one that sealed', async () => {
    const harness = await startHarness({ env: { SEAL_KEYS: newKey('s1') } })
    await logIn(harness)
    const { code, stdout } = await runKeys(['check'], { ...harness.env, SEAL_KEYS: newKey('s1') })
    expect(code).toBe(1)
    expect(stdout).toContain('s1: seals of 0 users')
    expect(stdout).toContain('no key of the ring opens values of 1 users')
  })

  test('tells every fault of the rings, or that Redis is away, and ends with 1', async () => {
    const rings = { SEAL_KEYS: newKey('s1'), TOKEN_KEYS: newKey('t1') }
    const faulty = await runKeys(['check'], { SEAL_KEYS: 's1:PLANTED', TOKEN_KEYS: '' })
    expect(faulty).toMatchObject({ code: 1, stdout: '' })
    expect(faulty.stderr).toMatch(
      /3 faults:[^]*SEAL_KEYS, key 1[^]*TOKEN_KEYS is missing[^]*REDIS_URL is missing/,
    )
    expect(faulty.stderr).not.toContain('PLANTED')
    const REDIS_URL = (await closedHost()).replace('http', 'redis')
    expect(await runKeys(['check'], { ...rings, REDIS_URL })).toEqual({
      code: 1,
      stdout: '',
      stderr: 'Redis does not answer.\n',
    })
  })

  test.each([[[]], [['unknown']], [['constructor']], [['check', 'more']]])(
    '%j is no command',
    async (args) => {
      const { code, stdout, stderr } = await runKeys(args)
      expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
      expect(stderr).toContain('usage: npm run keys')
    },
  )
})

/** As many users as several batches hold, put there directly. */
async function plantUsers(harness: Harness, env: TestEnvironment, count: number) {
  const seal = createSeal(loadKeysConfig(env).sealKeys)
  const users = Array.from({ length: count }, () => ({
    sub: randomBytes(16).toString('base64url'),
    sessionKey: randomBytes(16),
    previous: randomBytes(16),
  }))
  const pipeline = harness.redis.pipeline()
  for (const { sub, sessionKey, previous } of users) {
    const place = { appid: APPID, sub }
    const key = harness.keys.user(sub)
    pipeline.hset(key, { a: APPID, o: 'o', k: seal.seal(sessionKey, place), p: seal.seal(previous, place) })
    pipeline.expire(key, 3_600)
  }
  await pipeline.exec()
  return users
}

describe('reseal', () => {
  test('moves every user and app to the first key; their lives stay; a second run finds nothing to do', async () => {
    const [s1, s2] = [newKey('s1'), newKey('s2')]
    const harness = await startHarness({ env: { SEAL_KEYS: s1 } })
    const app = newWechatApp(harness.wechat)
    await createAppsAdmin(harness).add({
      appid: app.appid,
      secrets: [app.secret, `${app.secret}0`],
      push: { token: 'AAAAA' },
    })
    const users = await plantUsers(harness, harness.env, 1_500)

    const env = { ...harness.env, SEAL_KEYS: `${s2},${s1}` }
    const run = await runKeys(['reseal'], env)
    expect(run).toMatchObject({
      code: 0,
      stdout: '1501 users and apps read, 3003 values sealed anew under s2.\n',
    })
    expect((await runKeys(['reseal'], env)).stdout).toContain(' 0 values sealed anew')

    const seal = createSeal(loadKeysConfig({ ...env, SEAL_KEYS: s2 }).sealKeys)
    for (const { sub, sessionKey, previous } of users) {
      const { k, p, o } = await harness.redis.hgetallBuffer(harness.keys.user(sub))
      const place = { appid: APPID, sub }
      expect(seal.unseal(k ?? Buffer.alloc(0), place)).toEqual(sessionKey)
      expect(seal.unseal(p ?? Buffer.alloc(0), place)).toEqual(previous)
      expect(o?.toString()).toBe('o')
      const left = await harness.redis.ttl(harness.keys.user(sub))
      expect(left > 3_500 && left <= 3_600).toBe(true)
    }
    const after = await startHarness({ wechat: harness.wechat, env: { ...env, SEAL_KEYS: s2 } })
    const { code } = harness.wechat.issueCode({ appid: app.appid })
    expect((await after.login({ code, appid: app.appid })).status).toBe(200)
  })

  test('undoes no login that happens meanwhile, and leaves nothing under the old key', async () => {
    const [s1, s2] = [newKey('s1'), newKey('s2')]
    const before = await startHarness({ env: { SEAL_KEYS: s1 } })
    const shared = { KEY_PREFIX: before.env['KEY_PREFIX'] ?? '' }
    const env = { ...before.env, SEAL_KEYS: `${s2},${s1}` }
    const after = await startHarness({ wechat: before.wechat, env: { ...shared, SEAL_KEYS: env.SEAL_KEYS } })
    await plantUsers(before, before.env, 2_000) // so that it takes a while
    const openids = Array.from({ length: 20 }, (_, i) => `o-user-${i}`)
    for (const openid of openids) await logIn(before, openid)

    const load = { running: true }
    const subs = new Map<string, string>()
    const logins = openids.map(async (openid) => {
      do subs.set(openid, (await logIn(after, openid)).sub)
      while (load.running)
    })
    const run = await runKeys(['reseal'], env)
    load.running = false
    await Promise.all(logins)

    expect(run.code).toBe(0)
    const seal = createSeal(loadKeysConfig({ ...env, SEAL_KEYS: s2 }).sealKeys)
    const given = new Map(before.wechat.users().map(({ openid, sessionKey }) => [openid, sessionKey]))
    for (const [openid, sub] of subs) {
      const { k, p } = await after.redis.hgetallBuffer(after.keys.user(sub))
      expect([kidOf(k ?? Buffer.alloc(0)), kidOf(p ?? Buffer.alloc(0))]).toEqual(['s2', 's2'])
      const sessionKey = seal.unseal(k ?? Buffer.alloc(0), { appid: APPID, sub })
      expect(sessionKey?.toString('base64')).toBe(given.get(openid))
    }
  })

  test('takes a login between its reading and its writing into account', async () => {
    const [s1, s2] = [newKey('s1'), newKey('s2')]
    const before = await startHarness({ env: { SEAL_KEYS: s1 } })
    const env = { ...before.env, SEAL_KEYS: `${s2},${s1}` }
    const after = await startHarness({ wechat: before.wechat, env })
    const { sub, openid } = await logIn(before)
    const read = before.redis.hgetallBuffer.bind(before.redis)
    let readings = 0
    before.redis.hgetallBuffer = async (key: RedisKey) => {
      const fields = await read(key)
      readings += 1
      if (readings === 1) await logIn(after, openid)
      return fields
    }

    const { sealKeys } = loadKeysConfig(env)
    const counts = await reseal(before.redis, before.keys, sealKeys, () => {})
    // The login moved what s1 had sealed from k to p, and put a new key in its place.
    expect({ readings, counts }).toEqual({
      readings: 2,
      counts: { hashes: 1, resealed: 1, unopened: 0, left: 0 },
    })
    const { k, p } = await after.redis.hgetallBuffer(after.keys.user(sub))
    const seal = createSeal(loadKeysConfig({ ...env, SEAL_KEYS: s2 }).sealKeys)
    const opened = [k, p].map((one) => seal.unseal(one ?? Buffer.alloc(0), { appid: APPID, sub }))
    const given = before.wechat.users().find((user) => user.openid === openid)?.sessionKey
    expect(opened[0]?.toString('base64')).toBe(given)
    expect(opened[1]).toHaveLength(16)
    expect(opened[1]).not.toEqual(opened[0])
  })

  test('leaves alone what no key opens, says so, and ends with 1', async () => {
    const harness = await startHarness({ env: { SEAL_KEYS: newKey('s1') } })
    const { sub } = await logIn(harness)
    const sealed = await harness.redis.hgetBuffer(harness.keys.user(sub), 'k')
    const run = await runKeys(['reseal'], { ...harness.env, SEAL_KEYS: newKey('s2') })
    expect(run.code).toBe(1)
    expect(run.stdout).toContain('1 values are opened by no key of SEAL_KEYS')
    expect(await harness.redis.hgetBuffer(harness.keys.user(sub), 'k')).toEqual(sealed)
  })

  test('finds nothing to do on an empty Redis', async () => {
    const env = { REDIS_URL: inject('redisUrl'), KEY_PREFIX: newPrefix() }
    const run = await runKeys(['reseal'], { ...env, SEAL_KEYS: newKey('s1'), TOKEN_KEYS: newKey('t1') })
    expect(run).toMatchObject({ code: 0, stdout: '0 users and apps read, 0 values sealed anew under s1.\n' })
  })
})
