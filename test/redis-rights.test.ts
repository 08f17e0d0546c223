/** A Redis user that may do everything but use channels, as Redis 7 makes new users. */
import { Redis } from 'ioredis'
import { expect, onTestFinished, test } from 'vitest'
import { startRedis } from '../deploy/local/redis-server.ts'
import { startHarness } from './harness/gateway.ts'
import { until } from './harness/until.ts'

async function startWithoutChannels(env: Record<string, string> = {}) {
  const server = await startRedis({ persistent: false, allowDocker: false })
  onTestFinished(() => server.stop())
  const operator = new Redis(server.url)
  onTestFinished(() => operator.disconnect())
  await operator.call('ACL', 'SETUSER', 'gateway', 'on', '>only-for-tests', '~*', '+@all', 'resetchannels')
  return startHarness({
    env: { ...env, REDIS_URL: `redis://gateway:only-for-tests@127.0.0.1:${server.port}`, KEY_PREFIX: '' },
  })
}

test('log-outs, blocks and logins that replace a session succeed, and say so, without the right to publish', async () => {
  const { login, get, delete: remove, admin, env, wechat } = await startWithoutChannels()
  const { code, openid } = wechat.issueCode()
  const first = await login({ code })
  const again = { authorization: `Bearer ${first.body.token}` }
  const second = await login({ code: wechat.issueCode({ openid }).code }, again)
  expect(second.status).toBe(200)
  expect((await get('/session', first.body.token)).status).toBe(401)

  expect((await remove('/session', second.body.token)).status).toBe(204)
  expect((await get('/session', second.body.token)).status).toBe(401)

  const third = await login({ code: wechat.issueCode({ openid }).code })
  const blocked = await admin.send('PUT', `/users/${String(env['WECHAT_APPID'])}/${openid}/block`, {
    headers: { authorization: `Bearer ${String(env['ADMIN_TOKEN'])}`, 'content-type': 'application/json' },
    body: '{}',
  })
  expect(blocked.status).toBe(204)
  expect((await get('/session', third.body.token)).status).toBe(401)
})

test('a cache that nobody tells of ended sessions keeps its bound', async () => {
  const {
    login,
    get,
    delete: remove,
    wechat,
  } = await startWithoutChannels({ SESSION_CACHE_SECONDS: '1', LOG_LEVEL: 'silent' })
  const { body } = await login({ code: wechat.issueCode().code })
  expect((await get('/auth', body.token)).status).toBe(200)
  expect((await remove('/session', body.token)).status).toBe(204)
  const endedMs = performance.now()
  await until('the cached session to be gone', async () => (await get('/auth', body.token)).status === 401)
  expect(performance.now() - endedMs).toBeLessThan(2_000)
})
