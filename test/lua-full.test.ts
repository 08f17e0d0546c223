/** The scripts on a Redis that has forgotten them, and on one that is full. It is one of our own. */
import { Redis } from 'ioredis'
import { afterAll, afterEach, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { startRedis } from '../deploy/local/redis-server.ts'
import type { RunningRedis } from '../deploy/local/redis-server.ts'
import { createKeys } from '../src/redis/keys.ts'
import { loadScript } from '../src/redis/scripts.ts'
import type { ScriptArgument } from '../src/redis/scripts.ts'
import { packUserId, readMarks } from '../src/user-marks.ts'
import { startHarness } from './harness/gateway.ts'
import { IDLE_SECONDS, LIFE_SECONDS_MAX, openSessionArgs } from './harness/user-scripts.ts'

const keys = createKeys('')
const userKey = keys.user('alice')
const limitKey = keys.userLimit('alice')
const blockKey = keys.block('alice')
const codeKey = keys.code('hash')
const channel = 'ended'

let server: RunningRedis
let redis: Redis
beforeAll(async () => {
  server = await startRedis({ persistent: false, extraArgs: ['--maxmemory', '0'] })
  redis = new Redis(server.url)
})
afterEach(async () => {
  await fill(false)
  await redis.flushall()
})
afterAll(async () => {
  redis.disconnect()
  await server.stop()
})

/** Full means: more in use than is allowed. */
async function fill(full: boolean): Promise<void> {
  await redis.config('SET', 'maxmemory', full ? '1' : '0')
}

const BOUNDS = [IDLE_SECONDS, LIFE_SECONDS_MAX]
const claimArgs = ['owner', 'bind', 1_500, 30_000, 3]
interface Call {
  keys: string[]
  args: ScriptArgument[]
  answer: unknown
}

/** The scripts of a login and all that may follow, in that order, with what they answer then. */
const calls: Record<string, Call> = {
  'claim-code': { keys: [codeKey], args: claimArgs, answer: ['LEAD', 1, expect.any(Number), 0] },
  'renew-claim': { keys: [codeKey], args: ['owner', 1_500], answer: 1 },
  'fail-code': { keys: [codeKey], args: ['owner', 'R', '', 30_000], answer: 'SET' },
  'settle-code': { keys: [codeKey], args: ['value', 60_000, 'bind'], answer: 'SET' },
  'open-session': {
    keys: [userKey, limitKey, blockKey],
    args: openSessionArgs(channel, { field: 't1:a' }),
    answer: ['OPENED', 1, 0, ''],
  },
  'acknowledge-provisioned': { keys: [userKey], args: [packUserId('user-7'), ''], answer: 1 },
  'renew-session': { keys: [userKey], args: ['t1:a', ...BOUNDS, 0], answer: 1 },
  'revoke-session': { keys: [userKey], args: [...BOUNDS, channel, 't1:a'], answer: 1 },
  'revoke-sessions': { keys: [userKey], args: [...BOUNDS, channel], answer: 0 },
  'erase-user': { keys: [userKey, limitKey], args: [channel], answer: [expect.any(Number), 0] },
  'block-user': { keys: [userKey, blockKey], args: ['why', 60, channel], answer: 0 },
}

async function run(name: string): Promise<unknown> {
  const call = calls[name]
  if (call === undefined) throw new Error(`no call of ${name}`)
  return loadScript(name)(redis, call.keys, call.args)
}

function openAnother(): Promise<unknown> {
  const args = openSessionArgs(channel, { field: 't1:b' })
  return loadScript('open-session')(redis, [userKey, limitKey, blockKey], args)
}

describe('a Redis that has forgotten the scripts', () => {
  // Restarted, or failed over to a replica: each script is sent whole, once, and by its hash from then on.
  test('is given each of them once', async () => {
    for (const [name, { answer }] of Object.entries(calls)) {
      await redis.script('FLUSH')
      expect(await run(name), name).toEqual(answer)
      await redis.config('RESETSTAT')
      await run(name)
      expect(await redis.info('commandstats'), name).not.toContain('cmdstat_eval:')
    }
  })
})

describe('on a full Redis', () => {
  const full = expect.objectContaining({ message: expect.stringContaining('OOM') })

  test('a login opens no session, not even half of one', async () => {
    await fill(true)
    await expect(run('open-session')).rejects.toEqual(full)
    expect(await redis.keys('*')).toEqual([])
  })

  test('a further login of a user changes nothing: neither the session_key nor the sessions', async () => {
    await run('open-session')
    const before = await redis.hgetall(userKey)
    await fill(true)
    await expect(openAnother()).rejects.toEqual(full)
    expect(await redis.hgetall(userKey)).toEqual(before)
    expect(await redis.get(limitKey)).toBe('1')
  })

  test('no code is claimed, so none is burnt at WeChat', async () => {
    await fill(true)
    await expect(run('claim-code')).rejects.toEqual(full)
    expect(await redis.exists(codeKey)).toBe(0)
  })

  test.each(['renew-claim', 'settle-code', 'fail-code'])('%s leaves the claim as it was', async (name) => {
    await run('claim-code')
    const before = await redis.hgetall(codeKey)
    await fill(true)
    await expect(run(name)).rejects.toEqual(full)
    expect(await redis.hgetall(codeKey)).toEqual(before)
    expect(await redis.pttl(codeKey)).toBeGreaterThan(0)
  })

  test('the worker cannot acknowledge, and the user stays unprovisioned as a whole', async () => {
    await run('open-session')
    await fill(true)
    await expect(run('acknowledge-provisioned')).rejects.toEqual(full)
    expect(readMarks(await redis.hgetBuffer(userKey, 'm'))).toMatchObject({
      userId: undefined,
      acknowledged: false,
    })
  })

  test('sessions are found, and one or all of them ended', async () => {
    await run('open-session')
    await openAnother()
    await fill(true)
    expect(await redis.hmget(userKey, 'o', 't1:a')).toEqual(['o-alice', expect.any(String)])
    expect(await run('revoke-session')).toBe(1)
    expect(await redis.hexists(userKey, 't1:a')).toBe(0)
    expect(await redis.hexists(userKey, 't1:b')).toBe(1)
    expect(await redis.del(userKey)).toBe(1)
  })

  test('all sessions but one are ended', async () => {
    await run('open-session')
    await openAnother()
    await fill(true)
    const args = [...BOUNDS, channel, 't1:b']
    expect(await loadScript('revoke-sessions')(redis, [userKey], args)).toBe(1)
    expect(await redis.hexists(userKey, 't1:a')).toBe(0)
    expect(await redis.hexists(userKey, 't1:b')).toBe(1)
  })

  test.each(['logged in', 'not logged in'])('a user who is %s can be blocked', async (state) => {
    if (state === 'logged in') await run('open-session')
    await fill(true)
    expect(await run('block-user')).toBe(state === 'logged in' ? 1 : 0)
    expect(await redis.exists(userKey)).toBe(0)
    expect(await redis.get(blockKey)).toBe('why')
    expect(await redis.ttl(blockKey)).toBeGreaterThan(0)
  })

  test('a user can be erased', async () => {
    await run('open-session')
    await fill(true)
    expect(await run('erase-user')).toEqual([expect.any(Number), 1])
    expect(await redis.exists(userKey, limitKey)).toBe(0)
  })

  test('a session in use is not prolonged, and goes on as it was', async () => {
    await run('open-session')
    const before = await redis.hgetall(userKey)
    await fill(true)
    await expect(run('renew-session')).rejects.toEqual(full)
    expect(await redis.hgetall(userKey)).toEqual(before)
  })

  test('the last session takes the hash away', async () => {
    await run('open-session')
    await fill(true)
    expect(await run('revoke-session')).toBe(1)
    expect(await redis.exists(userKey)).toBe(0)
  })

  test('everything works again when there is room', async () => {
    await fill(true)
    await expect(run('claim-code')).rejects.toEqual(full)
    await fill(false)
    for (const name of Object.keys(calls)) await run(name)
    expect(await redis.exists(userKey)).toBe(0)
  })

  test('a gateway refuses logins before WeChat is asked, and goes on validating and logging out', async () => {
    const { login, get, delete: remove, wechat } = await startHarness({ env: { REDIS_URL: server.url } })
    onTestFinished(() => fill(false))
    const [first, second] = [await login({ code: wechat.issueCode().code }), wechat.issueCode()]
    expect(first.status).toBe(200)
    await fill(true)

    const refused = await login({ code: second.code })
    expect(refused.status).toBe(503)
    expect(refused.body).toMatchObject({ code: 'store_unavailable', retry: 'same_code' })
    expect(refused.headers['retry-after']).toMatch(/^\d+$/)
    expect(wechat.history({ code: second.code })).toEqual([])
    expect((await get('/session', first.body.token)).status).toBe(200)
    expect((await remove('/session', first.body.token)).status).toBe(204)
    expect((await get('/session', first.body.token)).status).toBe(401)

    await fill(false)
    expect((await login({ code: second.code })).status).toBe(200)
  })
})
