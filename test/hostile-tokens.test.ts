/** Bad input where a session is asked for, and where nobody has to be anybody: health, metrics, the admin listener. */
import { describe, expect, test } from 'vitest'
import { startHarness } from './harness/gateway.ts'
import type { Reply } from './harness/client.ts'
import { expectProblem, MARK } from './harness/problem.ts'
import { rawRequest, sendRaw } from './harness/raw-http.ts'

const SESSION_ROUTES = ['GET /session', 'DELETE /session', 'GET /sessions', 'DELETE /sessions'] as const
const AUTH_METHODS = ['GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']

/** Every way to get a bearer token wrong, made of a right one. */
function badAuthorizations(token: string): string[] {
  const flipped = token.slice(0, -1) + (token.endsWith('A') ? 'B' : 'A')
  return [
    '',
    'Bearer',
    'Bearer ',
    `Bearer${token}`,
    `Bearer  ${token}`,
    `Bearer\t${token}`,
    `Bearer ${token} ${token}`,
    `Bearer ${token},`,
    `Bearer "${token}"`,
    `Bearer Bearer ${token}`,
    `Basic ${token}`,
    `Token ${token}`,
    token,
    `Bearer ${flipped}`,
    `Bearer ${token.slice(0, -1)}`,
    `Bearer ${token}x`,
    `Bearer ${token.toLowerCase()}`,
    `Bearer ${token.replace('wxs_', 'wxt_')}`,
    `Bearer ${token.replace('wxs_', '')}`,
    `Bearer wxs_${'A'.repeat(54)}`,
    'Bearer wxs_',
    `Bearer ${MARK}`,
    'Bearer null',
    'Bearer undefined',
    'Bearer __proto__',
    'Bearer ../../admin',
    'Bearer wxs_{*}',
    'Bearer *',
    'Bearer ${jndi:ldap://x}',
    `Bearer ${'x'.repeat(256)}`,
    `Bearer ${'x'.repeat(257)}`,
    `Bearer ${'x'.repeat(7_000)}`,
    'Bearer \u00e9\u00ff',
    'Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9.',
  ]
}

describe('a bearer token that is none', () => {
  test('is answered like any other: 401, the same body, whatever is wrong with it', async () => {
    const { login, send, get, wechat } = await startHarness()
    const { token } = (await login({ code: wechat.issueCode().code })).body
    const routes = [...SESSION_ROUTES, ...AUTH_METHODS.map((method) => `${method} /auth`)]
    const bodies = new Set<string>()
    const headers = new Set<string>()
    const look = (reply: Reply, what: string) => {
      expect(expectProblem(reply, what).code, what).toBe('session_invalid')
      expect(reply.headers['www-authenticate'], what).toBe('Bearer')
      bodies.add(reply.text)
      headers.add(Object.keys(reply.headers).join())
    }
    for (const route of routes) {
      const [method = '', path = ''] = route.split(' ')
      look(await send(method, path), `${route} without`)
      for (const authorization of badAuthorizations(token)) {
        look(await send(method, path, { headers: { authorization } }), `${route} with ${authorization}`)
      }
      look(
        await send(method, path, { headers: { cookie: `token=${token}; authorization=Bearer ${token}` } }),
        'a cookie',
      )
      look(await send(method, path, { headers: { 'x-authorization': `Bearer ${token}` } }), 'another header')
    }
    expect(bodies.size).toBe(1)
    expect(headers.size).toBe(1)
    // And none of it has ended the session.
    expect((await get('/session', token)).status).toBe(200)
    expect((await send('GET', '/session', { headers: { authorization: `bearer ${token}` } })).status).toBe(
      200,
    )
  })

  test('is not looked for in the address', async () => {
    const { login, send, wechat } = await startHarness()
    const { token } = (await login({ code: wechat.issueCode().code })).body
    for (const route of SESSION_ROUTES) {
      const [method = '', path = ''] = route.split(' ')
      for (const name of ['token', 'access_token', 'authorization', '__proto__', MARK]) {
        const reply = await send(method, `${path}?${name}=${token}`)
        expect(expectProblem(reply, route).code).toBe('request_invalid')
        expect(reply.text).not.toContain(token)
      }
    }
    expect(expectProblem(await send('GET', `/auth?token=${token}`), '/auth').code).toBe('session_invalid')
  })

  test('twice: only the first counts, and it is not joined with the second', async () => {
    const { login, url, wechat } = await startHarness()
    const { token } = (await login({ code: wechat.issueCode().code })).body
    const lines = [`authorization: Bearer ${MARK}`, `authorization: Bearer ${token}`]
    expect(expectProblem(await sendRaw(url, rawRequest('GET /session HTTP/1.1', lines)), 'two').code).toBe(
      'session_invalid',
    )
  })
})

describe('a good bearer token', () => {
  test('is not helped by bad input beside it', async () => {
    const { login, send, get, wechat } = await startHarness()
    const { token } = (await login({ code: wechat.issueCode().code })).body
    const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' }
    for (const route of SESSION_ROUTES) {
      const [method = '', path = ''] = route.split(' ')
      expectProblem(await send(method, `${path}?${MARK}=1`, { headers }), route)
      expectProblem(await send(method, `${path}?__proto__[x]=1`, { headers }), route)
      if (method !== 'DELETE') continue
      for (const body of ['{', MARK, '{"__proto__":1}', 'x'.repeat(3_000)]) {
        expectProblem(await send(method, path, { headers, body }), `${route} ${body.slice(0, 20)}`)
      }
      expectProblem(
        await send(method, path, { headers: { ...headers, 'content-type': 'text/plain' }, body: '{}' }),
        route,
      )
    }
    expect((await get('/session', token)).status).toBe(200)
  })

  // A proxy passes on whatever its client has sent: method, query, content type, body. The answer is about the token.
  test('is all that /auth looks at', async () => {
    const { login, send, wechat } = await startHarness()
    const { token, sub } = (await login({ code: wechat.issueCode().code })).body
    const authorization = `Bearer ${token}`
    for (const method of AUTH_METHODS) {
      expect((await send(method, `/auth?${MARK}=%zz&a=1&a=2`, { headers: { authorization } })).status).toBe(
        200,
      )
      if (method === 'GET') continue
      for (const type of [
        undefined,
        'application/json',
        'text/plain',
        'multipart/form-data',
        'foo',
        ';;;',
        '"',
        'application/json\ta',
      ]) {
        for (const body of ['', '{', MARK, 'x'.repeat(100_000)]) {
          const headers = { authorization, ...(type === undefined ? {} : { 'content-type': type }) }
          const reply = await send(method, '/auth', { headers, body })
          expect(reply.status, `${method} ${type} ${body.length}`).toBe(200)
          expect(reply.headers['x-auth-subject']).toBe(sub)
        }
      }
    }
  })
})

describe('health and administration', () => {
  test('health answers whatever is hung on the question', async () => {
    const { send, admin } = await startHarness()
    for (const listener of [{ send }, admin]) {
      for (const path of ['/livez', '/readyz']) {
        for (const query of ['', '?', `?${MARK}`, '?a=1&a=2', '?__proto__=1', '?%zz']) {
          const reply = await listener.send('GET', path + query, {
            headers: { 'content-type': ';;;', authorization: MARK },
          })
          expect([reply.status, reply.text.includes(MARK)], path + query).toEqual([200, false])
        }
      }
    }
  })

  test('without the admin token nothing but health and metrics answers, not even whether there is something', async () => {
    const { admin, env } = await startHarness()
    const right = env['ADMIN_TOKEN'] ?? ''
    const wrong = [
      undefined,
      right,
      `Basic ${right}`,
      ...badAuthorizations(right).filter((text) => text !== `Bearer ${right}`),
    ]
    for (const path of [
      '/',
      '/introspect',
      '/users/a/b',
      `/${MARK}`,
      '/:a(',
      '/metrics/',
      '/__proto__',
      '/docs',
    ]) {
      for (const method of ['GET', 'POST', 'PUT', 'DELETE', 'PATCH', 'OPTIONS']) {
        for (const authorization of wrong) {
          const headers = authorization === undefined ? {} : { authorization }
          const what = `${method} ${path} ${authorization}`
          expect(expectProblem(await admin.send(method, path, { headers }), what).code, what).toBe(
            'admin_unauthorized',
          )
        }
      }
    }
    const metrics = await admin.get(`/metrics?${MARK}=1`)
    expect([metrics.status, metrics.text.includes(MARK)]).toEqual([200, false])
    expect(expectProblem(await admin.get(`/${MARK}`, right), 'nothing there').code).toBe('not_found')
  })
})
