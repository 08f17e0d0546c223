/** Blocked users, and what an administrator sees and ends of a user's sessions. */
import { describe, expect, test } from 'vitest'
import { APPID } from './harness/environment.ts'
import { startHarness } from './harness/gateway.ts'
import type { Harness } from './harness/gateway.ts'
import { expectProblem } from './harness/problem.ts'
import { logIn } from './harness/session-values.ts'
import { until } from './harness/until.ts'

const OPENID = 'o-under-watch'
const USER = `/users/${APPID}/${OPENID}`
/** What "at once" means on every gateway. */
const EFFECTIVE_MS = 1_000

function administer(harness: Harness) {
  const authorization = `Bearer ${harness.env['ADMIN_TOKEN'] ?? ''}`
  return (method: string, path: string, body?: unknown) =>
    harness.admin.send(method, path, {
      headers: { authorization, ...(body === undefined ? {} : { 'content-type': 'application/json' }) },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
}

const validate = async (harness: Harness, token: string) => (await harness.get('/auth', token)).status
const tryLogin = (harness: Harness, openid = OPENID) =>
  harness.login({ code: harness.wechat.issueCode({ openid }).code })

describe('a blocked user', () => {
  test('has no session any more and gets none, on every gateway, until the block is lifted', async () => {
    const one = await startHarness({ env: { SESSION_CACHE_SECONDS: '5' } })
    const other = await startHarness({ env: one.env, wechat: one.wechat })
    const send = administer(one)
    const tokens = [
      (await logIn(one, { openid: OPENID })).token,
      (await logIn(other, { openid: OPENID })).token,
    ]
    const bystander = await logIn(one)
    for (const token of tokens) {
      for (const harness of [one, other]) expect(await validate(harness, token)).toBe(200)
    }

    const blockedAtMs = performance.now()
    expect((await send('PUT', `${USER}/block`, { reason: 'sells accounts' })).status).toBe(204)
    for (const token of tokens) {
      for (const harness of [one, other]) {
        await until('the block to be known', async () => (await validate(harness, token)) === 401)
      }
    }
    expect(performance.now() - blockedAtMs).toBeLessThan(EFFECTIVE_MS)
    for (const harness of [one, other]) {
      const refused = await tryLogin(harness)
      expect([refused.status, refused.body.code, refused.body.retry]).toEqual([403, 'user_blocked', 'never'])
      expect(refused.text).not.toContain('sells')
    }
    expect(await one.redis.exists(one.keys.user((await tryLogin(one, 'o-else')).body.sub))).toBe(1)
    expect(await validate(one, bystander.token)).toBe(200)

    expect((await send('DELETE', `${USER}/block`)).status).toBe(204)
    const back = await tryLogin(other)
    expect(back.status).toBe(200)
    for (const token of tokens) expect(await validate(one, token)).toBe(401)
    expect(await validate(one, back.body.token)).toBe(200)
  })

  // The race that a check before the exchange would lose.
  test('gets no session from a login that is under way', async () => {
    const harness = await startHarness()
    const send = administer(harness)
    const { code } = harness.wechat.issueCode({ openid: OPENID })
    const hold = harness.wechat.addFault({ kind: 'hold', code })
    const login = harness.login({ code })
    await harness.wechat.received(code)
    expect((await send('PUT', `${USER}/block`)).status).toBe(204)
    hold.release()
    expect((await login).body.code).toBe('user_blocked')
  })

  test('of whom none of 40 logins that race with the block keeps a session', async () => {
    const harness = await startHarness()
    const send = administer(harness)
    await tryLogin(harness)
    const logins = Array.from({ length: 40 }, () => tryLogin(harness))
    const block = send('PUT', `${USER}/block`)
    const replies = await Promise.all(logins)
    expect((await block).status).toBe(204)
    const answers = new Set(replies.map(({ status, body }) => (status === 200 ? 'a session' : body.code)))
    expect([...answers].filter((answer) => answer !== 'a session' && answer !== 'user_blocked')).toEqual([])
    for (const { status, body } of replies.filter((reply) => reply.status === 200)) {
      expect([status, await validate(harness, body.token)]).toEqual([200, 401])
    }
  })

  test('may be blocked for a time, and before ever having logged in', async () => {
    const harness = await startHarness()
    const send = administer(harness)
    expect((await send('PUT', `${USER}/block`, { ttl_seconds: 1 })).status).toBe(204)
    expect((await tryLogin(harness)).body.code).toBe('user_blocked')
    await until('the block to end', async () => (await tryLogin(harness)).status === 200)
    expect((await send('GET', USER)).body['blocked']).toBe(false)
  })

  test('is told so again when the code is sent again, not to come with another one', async () => {
    const harness = await startHarness()
    await administer(harness)('PUT', `${USER}/block`)
    const { code } = harness.wechat.issueCode({ openid: OPENID })
    for (let i = 0; i < 2; i += 1) {
      expect((await harness.login({ code })).body).toMatchObject({ code: 'user_blocked', retry: 'never' })
    }
    expect(harness.wechat.history()).toHaveLength(1)
  })

  test('may have the longest openid that a login takes', async () => {
    const harness = await startHarness()
    const send = administer(harness)
    const openid = '/'.repeat(128)
    const { token } = await logIn(harness, { openid })
    const path = `/users/${APPID}/${encodeURIComponent(openid)}/block`
    expect((await send('PUT', path)).status).toBe(204)
    expect(await validate(harness, token)).toBe(401)
  })

  test('is shown with reason and end; to block again replaces both', async () => {
    const harness = await startHarness()
    const send = administer(harness)
    await send('PUT', `${USER}/block`, { reason: 'first', ttl_seconds: 100 })
    expect((await send('GET', USER)).body['block']).toEqual({
      since: expect.closeTo(Date.now() / 1000, -1),
      reason: 'first',
      expires_in: expect.closeTo(100, -1),
    })
    await send('PUT', `${USER}/block`)
    expect((await send('GET', USER)).body['block']).toEqual({
      since: expect.closeTo(Date.now() / 1000, -1),
    })
    expect(await harness.metric('users_blocked_total')).toBe(2)
    expect(await harness.metric('login_total', { outcome: 'user_blocked' })).toBe(0)
    await tryLogin(harness)
    expect(await harness.metric('login_total', { outcome: 'user_blocked' })).toBe(1)
  })
})

describe('an administrator', () => {
  test('sees what is known of a user, and nothing that would let them in', async () => {
    const harness = await startHarness()
    const send = administer(harness)
    const { token, sub, unionid } = await logIn(harness, { openid: OPENID })
    const { status, body, text } = await send('GET', USER)

    expect(status).toBe(200)
    expect(body).toEqual({
      sub,
      appid: APPID,
      openid: OPENID,
      unionid,
      provisioned: false,
      blocked: false,
      sessions: [
        {
          id: expect.stringMatching(/^[\w-]{22}$/),
          issued_at: expect.closeTo(Date.now() / 1000, -1),
          last_used_at: expect.closeTo(Date.now() / 1000, -1),
          expires_in: expect.closeTo(604_800, -1),
          device: 'other',
          current: false,
        },
      ],
    })
    expect(text).not.toContain(token.slice(-32))
    expect((await send('GET', `${USER}/sessions`)).body).toEqual({ sessions: body.sessions })
  })

  test('ends all sessions of one user', async () => {
    const harness = await startHarness()
    const send = administer(harness)
    const tokens = [await logIn(harness, { openid: OPENID }), await logIn(harness, { openid: OPENID })]
    const bystander = await logIn(harness)
    expect((await send('DELETE', `${USER}/sessions`)).status).toBe(204)
    for (const { token } of tokens) expect(await validate(harness, token)).toBe(401)
    expect(await validate(harness, bystander.token)).toBe(200)
    expect((await send('GET', USER)).body.sessions).toEqual([])
    expect((await send('DELETE', `${USER}/sessions`)).status).toBe(204)
    expect((await tryLogin(harness)).status).toBe(200)
  })

  test('is told what is wrong with a question', async () => {
    const harness = await startHarness()
    const send = administer(harness)
    for (const [method, path, body] of [
      ['GET', '/users/x/o-1'],
      ['GET', `/users/${APPID}/${'o'.repeat(129)}`],
      ['GET', `/users/${APPID}/%00`],
      ['GET', `/users/${APPID}/a%20b`],
      ['GET', `${USER}?x=1`],
      ['DELETE', `${USER}/sessions?x=1`],
      ['PUT', `${USER}/block`, { reason: 7 }],
      ['PUT', `${USER}/block`, { reason: 'x'.repeat(201) }],
      ['PUT', `${USER}/block`, { ttl_seconds: 0 }],
      ['PUT', `${USER}/block`, { ttl_seconds: '60' }],
      ['PUT', `${USER}/block`, { ttl_seconds: 1e12 }],
      ['PUT', `${USER}/block`, { until: 1 }],
      ['PUT', `${USER}/block`, []],
    ] as const) {
      expectProblem(await send(method, path, body), `${method} ${path} ${JSON.stringify(body)}`)
    }
    expect((await send('GET', USER)).body['blocked']).toBe(false)
    for (const method of ['GET', 'DELETE', 'PUT']) {
      for (const path of [USER, `${USER}/sessions`, `${USER}/block`]) {
        expect((await harness.send(method, path)).status, 'not on the public listener').toBe(404)
      }
    }
  })
})
