/** A gateway in this process, over real HTTP, with the real Redis and the simulated WeChat beside it. */
import { Redis } from 'ioredis'
import { onTestFinished } from 'vitest'
import { loadGatewayConfig } from '../../src/config.ts'
import { createGateway } from '../../src/gateway.ts'
import { createLog } from '../../src/log.ts'
import { createKeys } from '../../src/redis/keys.ts'
import { startSimulator } from '../simulator/server.ts'
import type { Simulator, SimulatorOptions } from '../simulator/server.ts'
import { createClient } from './client.ts'
import { gatewayEnvironment, SIMULATED } from './environment.ts'
import type { TestEnvironment } from './environment.ts'

export interface HarnessOptions {
  env?: TestEnvironment
  simulator?: SimulatorOptions
  /** Share one, for several gateways before one WeChat. */
  wechat?: Simulator
}

/** Everything is closed when the test ends. */
export async function startHarness(options: HarnessOptions = {}) {
  const wechat = options.wechat ?? (await startSimulator({ ...SIMULATED, ...options.simulator }))
  const env = gatewayEnvironment(wechat, { LOG_LEVEL: 'error', ...options.env })
  const config = loadGatewayConfig(env)
  const gateway = createGateway(config, createLog(config.logLevel, 'gateway'))
  const url = await gateway.app.listen({ host: config.host, port: 0 })
  const adminUrl = await gateway.admin.listen({ host: config.adminHost, port: 0 })
  await gateway.start()
  const client = createClient(url)
  const admin = createClient(adminUrl)
  const redis = new Redis(env['REDIS_URL'] ?? '', { lazyConnect: true })
  if (env['REDIS_URL']) await redis.ping() // connected, before a test looks at its state

  onTestFinished(async () => {
    await Promise.all([client.close(), admin.close()])
    await gateway.close()
    redis.disconnect()
    if (!options.wechat) await wechat.close()
  })

  return {
    ...client,
    url,
    adminUrl,
    env,
    wechat,
    gateway,
    redis,
    keys: createKeys(config.redis.keyPrefix),
    admin,
    /** The value of a metric, 0 when it has not been counted yet. */
    async metric(name: string, labels: Record<string, string> = {}): Promise<number> {
      const { text } = await admin.get('/metrics')
      return metricIn(text, name, labels)
    },
  }
}

export type Harness = Awaited<ReturnType<typeof startHarness>>

export function metricIn(text: string, name: string, labels: Record<string, string> = {}): number {
  const wanted = Object.entries(labels).map(([label, value]) => `${label}="${value}"`)
  const line = text
    .split('\n')
    .find((line) => new RegExp(`^${name}(\\{| )`).test(line) && wanted.every((pair) => line.includes(pair)))
  return line === undefined ? 0 : Number(line.slice(line.lastIndexOf(' ') + 1))
}
