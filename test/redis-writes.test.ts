/** How commands reach Redis: together, where they are sent together. */
import { Redis } from 'ioredis'
import { expect, onTestFinished, test } from 'vitest'
import { loadGatewayConfig } from '../src/config.ts'
import { connectFailFast, disconnect, waitUntilReady } from '../src/redis/connections.ts'
import { startStandalone } from './faults/redis-servers.ts'
import { soundEnvironment } from './harness/configuration.ts'

test('commands of one turn of the event loop are one write', async () => {
  const server = await startStandalone()
  onTestFinished(() => server.close())
  const { redis: config } = loadGatewayConfig({ ...soundEnvironment, ...server.env })
  const redis = connectFailFast(config)
  onTestFinished(() => disconnect(redis, 1_000))
  await waitUntilReady(redis, 2_000)
  const observer = new Redis(server.env['REDIS_URL'] ?? '')
  onTestFinished(() => observer.disconnect())

  const before = await readsOf(observer)
  await Promise.all(Array.from({ length: 100 }, () => redis.ping()))
  // One of the pings, one of the question.
  expect((await readsOf(observer)) - before).toBeLessThanOrEqual(3)
})

/** How often the server has read from a socket. */
async function readsOf(redis: Redis): Promise<number> {
  const [, reads] = /total_reads_processed:(\d+)/.exec(await redis.info('stats')) ?? []
  return Number(reads)
}
