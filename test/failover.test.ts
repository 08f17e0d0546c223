/** A Redis master dies: who was logged out, blocked or erased stays so, and who was not stays logged in. */
import { expect, onTestFinished, test } from 'vitest'
import { APPID, gatewayEnvironment, SIMULATED } from './harness/environment.ts'
import { startGatewayProcess } from './harness/processes.ts'
import { startSentinel } from './harness/sentinel.ts'
import { logIn } from './harness/session-values.ts'
import { until } from './harness/until.ts'
import { startSimulator } from './simulator/server.ts'

const USERS = 48
const CACHE_BOUND_MS = 1_000

// Replication is asynchronous: what the replica has not got when the master dies is lost, a log-out as much as
// a login. This is about all that it has.
test('after a failover no ended session is valid at any gateway, and every other is', {
  timeout: 90_000,
}, async () => {
  const wechat = await startSimulator(SIMULATED)
  onTestFinished(() => wechat.close())
  const sentinel = await startSentinel()
  const env = gatewayEnvironment(wechat, { ...sentinel.env, SESSION_CACHE_SECONDS: '1' })
  const gateways = await Promise.all([1, 2, 3].map(() => startGatewayProcess(env)))
  const [first, second, third] = gateways
  if (!first || !second || !third) throw new Error('three gateways were started')
  const authorization = `Bearer ${env['ADMIN_TOKEN'] ?? ''}`

  const users = await Promise.all(Array.from({ length: USERS }, () => logIn({ wechat, login: first.login })))
  // Every gateway has seen every session, so that something is in every cache.
  for (const gateway of gateways) {
    for (const { token } of users) expect((await gateway.get('/auth', token)).status).toBe(200)
  }
  const [loggedOut = [], everywhere = [], revoked = [], blocked = [], erased = [], living = []] = [
    0, 1, 2, 3, 4, 5,
  ].map((part) => users.filter((_, at) => at % 6 === part))
  for (const { token } of loggedOut) await second.delete('/session', token)
  for (const { token } of everywhere) await third.delete('/sessions', token)
  for (const { openid } of revoked)
    await first.admin.send('DELETE', `/users/${APPID}/${openid}/sessions`, { headers: { authorization } })
  for (const { openid } of blocked)
    await second.admin.send('PUT', `/users/${APPID}/${openid}/block`, { headers: { authorization } })
  for (const { openid } of erased)
    await third.admin.send('DELETE', `/users/${APPID}/${openid}`, { headers: { authorization } })
  const ended = [...loggedOut, ...everywhere, ...revoked, ...blocked, ...erased]
  const endedAtMs = performance.now()
  await sentinel.replicated()

  // Asked without pause while the master dies and the replica takes over.
  const faults: string[] = []
  const over = new AbortController()
  onTestFinished(() => over.abort())
  const watch = Promise.all(
    gateways.map(async (gateway, at) => {
      for (let turn = 0; !over.signal.aborted; turn += 1) {
        const { token = '' } = ended[turn % ended.length] ?? {}
        const startedMs = performance.now()
        const { status } = await gateway.get('/auth', token)
        if (status === 200 && startedMs - endedAtMs > CACHE_BOUND_MS)
          faults.push(`gateway ${at} took an ended session for valid`)
        if (status !== 200 && status !== 401 && status !== 503) faults.push(`gateway ${at} said ${status}`)
      }
    }),
  ).catch((error: unknown) => faults.push(String(error)))
  await sentinel.failOver()
  for (const gateway of gateways) {
    for (const { token } of living) {
      await until('the session to be found on the new master', async () => {
        const { status } = await gateway.get('/auth', token)
        if (status === 401) faults.push('a living session was lost')
        return status === 200
      })
    }
  }
  for (const gateway of gateways) {
    for (const { token } of ended) expect((await gateway.get('/auth', token)).status).toBe(401)
  }
  over.abort()
  await watch
  expect(faults).toEqual([])

  for (const { openid } of blocked.slice(0, 2)) {
    const refused = await until('a login to be possible', async () => {
      const reply = await third.login({ code: wechat.issueCode({ openid }).code })
      return reply.status !== 503 && reply
    })
    expect(refused.body.code).toBe('user_blocked')
  }
  // Messages flow over the new master.
  const [one] = living
  if (one === undefined) throw new Error('somebody is left')
  await first.delete('/session', one.token)
  await until('the others to hear of it', async () => (await second.get('/auth', one.token)).status === 401)
})
