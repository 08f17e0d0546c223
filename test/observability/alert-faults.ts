/**
 * Faults, and the one alert that each has to fire. What is not here takes longer than a minute by its nature, or a fault
 * that is caused elsewhere (test/faults); each alert has its tests under promtool in any case.
 */
import { Queue } from 'bullmq'
import { Redis } from 'ioredis'
import type { PostgresServer } from '../faults/postgres-server.ts'
import { startPostgresServer } from '../faults/postgres-server.ts'
import { startStandalone } from '../faults/redis-servers.ts'
import type { StandaloneRedis } from '../faults/redis-servers.ts'
import type { Bench } from '../faults/row.ts'
import type { Stand, StandOptions } from '../faults/stand.ts'
import type { TcpProxy } from '../faults/tcp-proxy.ts'
import { startTcpProxy } from '../faults/tcp-proxy.ts'
import { PROVISION_JOB, PROVISION_QUEUE } from '../../src/provisioning.ts'

export interface AlertFault {
  id: string
  alert: string
  fault: string
  /** The parts that the fault is about, and how it is caused on them. */
  prepare(bench: Bench): Promise<{ parts: StandOptions; cause(stand: Stand): Promise<unknown> }>
}

type Cause<Part> = (stand: Stand, part: Part) => Promise<unknown> | void

function onStand(
  id: string,
  alert: string,
  fault: string,
  cause: (stand: Stand) => Promise<unknown>,
): AlertFault {
  return { id, alert, fault, prepare: async () => ({ parts: {}, cause }) }
}

function onRedis(id: string, alert: string, fault: string, cause: Cause<StandaloneRedis>): AlertFault {
  return {
    id,
    alert,
    fault,
    async prepare(bench) {
      const redis = await startStandalone()
      bench.defer(() => redis.close())
      return { parts: { redis }, cause: async (stand) => cause(stand, redis) }
    },
  }
}

function onProxiedRedis(id: string, alert: string, fault: string, cause: Cause<TcpProxy>): AlertFault {
  return {
    id,
    alert,
    fault,
    async prepare(bench) {
      const redis = await startStandalone()
      bench.defer(() => redis.close())
      const proxy = await startTcpProxy(bench, redis.node.port)
      const env = { ...redis.env, REDIS_URL: `redis://127.0.0.1:${proxy.port}` }
      return { parts: { redis: { env } }, cause: async (stand) => cause(stand, proxy) }
    },
  }
}

function onPostgres(id: string, alert: string, fault: string, cause: Cause<PostgresServer>): AlertFault {
  return {
    id,
    alert,
    fault,
    async prepare(bench) {
      const postgres = await startPostgresServer(bench)
      return { parts: { database: postgres.database }, cause: async (stand) => cause(stand, postgres) }
    },
  }
}

export const ALERT_FAULTS: readonly AlertFault[] = [
  onStand('gateway', 'GatewayDown', 'one of two gateways is killed', (stand) =>
    stand.gateway(1).end('SIGKILL'),
  ),
  onStand('gateways', 'AllGatewaysDown', 'both gateways are killed', ({ gateways }) =>
    Promise.all(gateways.map((gateway) => gateway.end('SIGKILL'))),
  ),
  onStand('worker', 'WorkerDown', 'one of two workers is killed', (stand) => stand.worker(1).end('SIGKILL')),
  onStand('workers', 'AllWorkersDown', 'both workers are killed', ({ workers }) =>
    Promise.all(workers.map((worker) => worker.end('SIGKILL'))),
  ),
  onRedis('redis-killed', 'RedisAway', 'Redis is killed', (_stand, redis) => redis.node.kill()),
  onRedis('redis-hung', 'RedisAway', 'Redis hangs (SIGSTOP)', (_stand, redis) => redis.node.stop()),
  onRedis('redis-full', 'RedisFull', 'Redis reaches maxmemory', (_stand, { admin }) =>
    admin.config('SET', 'maxmemory', '1mb'),
  ),
  onRedis('redis-evicts', 'RedisEvicts', 'somebody sets maxmemory-policy allkeys-lru', (_stand, { admin }) =>
    admin.config('SET', 'maxmemory-policy', 'allkeys-lru'),
  ),
  onProxiedRedis(
    'redis-slow',
    'RedisSlow',
    'each answer of Redis takes 130 ms more',
    (_stand, proxy) => proxy.set({ latencyMs: 65 }), // in each direction
  ),
  onStand('wechat-hangs', 'WechatCircuitOpen', 'WeChat takes calls and never answers', ({ wechat }) =>
    wechat.fault({ kind: 'hang_before' }),
  ),
  onStand('wechat-refuses', 'WechatCircuitOpen', 'WeChat cuts every connection', ({ wechat }) =>
    wechat.fault({ kind: 'reset', when: 'accept' }),
  ),
  onStand('wechat-slow', 'WechatSlow', 'WeChat takes two seconds', ({ wechat }) =>
    wechat.fault({ kind: 'delay', ms: 2_000 }),
  ),
  onStand('wechat-busy', 'WechatBusy', 'WeChat says -1 to three calls of ten', ({ wechat }) =>
    wechat.fault({ kind: 'errcode', errcode: -1, probability: 0.3 }),
  ),
  onStand('app-secret', 'AppMisconfigured', 'somebody has reset the AppSecret (40125)', ({ wechat }) =>
    wechat.fault({ kind: 'errcode', errcode: 40125 }),
  ),
  onStand('app-quota', 'AppRateLimited', 'the quota of the app is used up (45011)', ({ wechat }) =>
    wechat.fault({ kind: 'errcode', errcode: 45011 }),
  ),
  onStand(
    'invalid-codes',
    'InvalidCodes',
    'clients send codes that WeChat never issued (40029)',
    ({ wechat }) => wechat.fault({ kind: 'errcode', errcode: 40029 }),
  ),
  onPostgres('database', 'DatabaseAway', 'Postgres is killed', (_stand, postgres) => postgres.kill()),
  onStand(
    'poison',
    'ProvisioningDead',
    'a job that can never succeed comes into the queue',
    async ({ redis }) => {
      const connection = new Redis(redis.env['REDIS_URL'] ?? '')
      const queue = new Queue(PROVISION_QUEUE, { connection, prefix: `{${PROVISION_QUEUE}}` })
      await queue.add(PROVISION_JOB, { v: 1 })
      await queue.close()
      connection.disconnect()
    },
  ),
  onStand(
    'odd-answers',
    'LoginBudgetBurnsFast',
    'WeChat answers half of the calls with an errcode that nobody knows',
    ({ wechat }) => wechat.fault({ kind: 'errcode', errcode: 99_999, probability: 0.5 }),
  ),
]
