/** A Redis that drops keys when its memory is full is not one for sessions and jobs. */
import { expect, onTestFinished, test } from 'vitest'
import { loadGatewayConfig } from '../src/config.ts'
import { createGateway } from '../src/gateway.ts'
import { createLog } from '../src/log.ts'
import { startStandalone } from './faults/redis-servers.ts'
import { createClient } from './harness/client.ts'
import { gatewayEnvironment } from './harness/environment.ts'
import { metricIn } from './harness/gateway.ts'
import { until } from './harness/until.ts'

async function startGateway(policy: string, user?: { name: string; rights: string[] }) {
  const redis = await startStandalone()
  onTestFinished(() => redis.close())
  await redis.admin.config('SET', 'maxmemory-policy', policy)
  if (user !== undefined)
    await redis.admin.call('ACL', 'SETUSER', user.name, 'on', '>only-for-tests', '~*', '&*', ...user.rights)
  const login = user === undefined ? '' : `${user.name}:only-for-tests@`
  const config = loadGatewayConfig(
    gatewayEnvironment(
      { url: 'http://127.0.0.1:1' },
      { ...redis.env, REDIS_URL: `redis://${login}127.0.0.1:${redis.node.port}` },
    ),
  )
  const gateway = createGateway(config, createLog('silent', 'gateway'))
  const client = createClient(await gateway.app.listen({ host: '127.0.0.1', port: 0 }))
  const admin = createClient(await gateway.admin.listen({ host: '127.0.0.1', port: 0 }))
  onTestFinished(async () => {
    await Promise.all([client.close(), admin.close()])
    await gateway.close()
  })
  return {
    redis: redis.admin,
    gateway,
    isReady: async () => (await client.get('/readyz')).status === 200,
    policyOk: async () => metricIn((await admin.get('/metrics')).text, 'redis_eviction_policy_ok'),
  }
}

test('a gateway does not begin to serve with it, and does so as soon as it is put right', async () => {
  const { redis, gateway, isReady, policyOk } = await startGateway('allkeys-lru')
  await expect(gateway.start()).rejects.toMatchObject({
    code: 'store_unavailable',
    cause: expect.objectContaining({ message: expect.stringContaining('allkeys-lru') }),
  })
  expect([await isReady(), await policyOk()]).toEqual([false, 0])
  await redis.config('SET', 'maxmemory-policy', 'noeviction')
  await gateway.start()
  expect([await isReady(), await policyOk()]).toEqual([true, 1])
})

test('a gateway that serves already goes on, and shouts', async () => {
  const { redis, gateway, isReady, policyOk } = await startGateway('noeviction')
  await gateway.start()
  expect(await policyOk()).toBe(1)
  await redis.config('SET', 'maxmemory-policy', 'volatile-lru')
  await redis.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes') // it looks again at every connection
  await until('the policy to be noticed', async () => (await policyOk()) === 0)
  expect(await isReady()).toBe(true)
})

test('a user who may not ask is no obstacle', async () => {
  const { gateway, isReady, policyOk } = await startGateway('allkeys-lru', {
    name: 'gateway',
    rights: ['+@all', '-info', '-config'],
  })
  await gateway.start()
  expect([await isReady(), await policyOk()]).toEqual([true, -1])
})
