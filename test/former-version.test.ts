/** Users whom the version before has written into Redis: an upgrade logs nobody out and forgets nothing. */
import { randomUUIDv7 } from 'node:crypto'
import { expect, test } from 'vitest'
import { createAcknowledge } from '../src/provisioning.ts'
import { readMarks } from '../src/user-marks.ts'
import { APPID } from './harness/environment.ts'
import { startHarness } from './harness/gateway.ts'
import type { Harness } from './harness/gateway.ts'
import { logIn } from './harness/session-values.ts'

/** Writes a user as the version before would have: `x`, `g` and `i` instead of `m`, and sessions with dots. */
async function asBefore({ redis, keys }: Harness, sub: string): Promise<void> {
  const fields = await redis.hgetallBuffer(keys.user(sub))
  const m = fields['m'] ?? Buffer.alloc(0)
  const { userId, acknowledged, sinceSeconds } = readMarks(m)
  const startedAtMs = m.readUIntBE(0, 5) + Date.UTC(2020, 0, 1)
  const written: Record<string, string> = {
    x: startedAtMs.toString(36) + m.toString('base64url', 5, 8),
    g: `${acknowledged ? 'a' : 'e'}${sinceSeconds.toString(16)}`,
    ...(userId === undefined
      ? {}
      : { i: Buffer.from(userId.replaceAll('-', ''), 'hex').toString('base64url') }),
  }
  for (const [name, value] of Object.entries(fields).filter(([name]) => name.includes(':'))) {
    const [, issued = '', device = '', used = ''] = /^(.*)([A-Z])(.*)$/.exec(value.toString()) ?? []
    const [issuedSeconds, usedSeconds] = [Number.parseInt(issued, 36), Number.parseInt(used, 36) || 0]
    written[name] = `${issuedSeconds.toString(16)}.${usedSeconds.toString(16)}.${device.toLowerCase()}`
  }
  await redis.multi().hset(keys.user(sub), written).hdel(keys.user(sub), 'm').exec()
}

const IPHONE = { 'user-agent': 'Mozilla/5.0 (iPhone) MicroMessenger/8.0' }

async function userOfBefore(harness: Harness) {
  const { openid } = harness.wechat.issueCode()
  const user = await logIn(harness, { openid, headers: IPHONE })
  const userId = randomUUIDv7()
  await createAcknowledge(harness.redis, harness.keys)({ sub: user.sub, userId, unionid: user.unionid })
  await asBefore(harness, user.sub)
  const fields = Object.keys(await harness.redis.hgetall(harness.keys.user(user.sub)))
  const named = fields.filter((name) => !name.includes(':')).toSorted()
  expect(named).toEqual(['a', 'g', 'i', 'k', 'o', 'u', 'x'])
  return { ...user, openid, userId }
}

test('their sessions are valid, listed, prolonged and ended as any other', async () => {
  const harness = await startHarness()
  const { token, sub, userId, openid } = await userOfBefore(harness)

  expect((await harness.get('/session', token)).body).toMatchObject({
    sub,
    user_id: userId,
    provisioned: true,
    device: 'ios',
  })
  expect((await harness.get('/sessions', token)).body['sessions']).toMatchObject([
    { current: true, device: 'ios' },
  ])
  const second = await logIn(harness, { openid })
  expect(second.provisioned).toBe(true)
  expect((await harness.get('/auth', token)).status).toBe(200)
  expect((await harness.get('/session', second.token)).body).toMatchObject({ user_id: userId })
  await harness.delete('/session', token)
  expect((await harness.get('/auth', token)).status).toBe(401)
  expect((await harness.get('/auth', second.token)).status).toBe(200)
})

test('a login brings them over, and a returning one still costs the worker nothing', async () => {
  const harness = await startHarness()
  const { sub, openid, userId } = await userOfBefore(harness)
  const jobs = await harness.metric('provisioning_enqueued_total', { outcome: 'added' })
  await logIn(harness, { openid })
  expect(await harness.metric('provisioning_enqueued_total', { outcome: 'added' })).toBe(jobs)
  const fields = await harness.redis.hgetall(harness.keys.user(sub))
  expect(Object.keys(fields)).not.toContain('x')
  expect(Object.keys(fields)).not.toContain('g')
  await createAcknowledge(harness.redis, harness.keys)({ sub, userId, unionid: fields['u'] })
  expect(Object.keys(await harness.redis.hgetall(harness.keys.user(sub)))).not.toContain('i')
})

test('the session_key before the login that brings them over still opens what it encrypted', async () => {
  const harness = await startHarness()
  const { sub, openid } = await userOfBefore(harness)
  const sealedBefore = await harness.redis.hgetBuffer(harness.keys.user(sub), 'k')
  await logIn(harness, { openid })
  const [current, previous] = await harness.redis.hmgetBuffer(harness.keys.user(sub), 'k', 'p')
  expect(current).not.toEqual(sealedBefore)
  expect(previous).toEqual(sealedBefore)
})

// While the versions run side by side, the older one writes its fields beside ours.
test('what a process of the version before writes into a newer hash counts', async () => {
  const harness = await startHarness()
  const { token, sub, openid } = await logIn(harness)
  const userId = randomUUIDv7()
  const short = Buffer.from(userId.replaceAll('-', ''), 'hex').toString('base64url')
  const [seconds] = await harness.redis.time()
  const key = harness.keys.user(sub)
  await harness.redis.hset(key, { i: short, g: `a${Number(seconds).toString(16)}` })
  expect((await harness.get('/session', token)).body).toMatchObject({ user_id: userId })

  const newest = (Number(seconds) * 1_000 + 60_000).toString(36)
  await harness.redis.hset(key, { k: 'sealed by it', x: `${newest}AAAA` })
  await logIn(harness, { openid: openid ?? '', appid: APPID })
  expect(await harness.redis.hget(key, 'k')).toBe('sealed by it')
})
