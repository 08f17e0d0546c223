/**
 * The system under test, whole: a simulated WeChat, Redis, Postgres, gateways and workers, each a process of its own.
 * A row brings the parts that it is about (a Redis with sentinels, a Postgres of its own, a proxy in between); the
 * stand makes the rest.
 */
import { randomBytes } from 'node:crypto'
import { freePort } from '../../deploy/local/ports.ts'
import { startRedis } from '../../deploy/local/redis-server.ts'
import { sumOf } from './metrics-text.ts'
import { createFaultClient } from './client.ts'
import { createLedger } from './ledger.ts'
import { startLoad } from './load.ts'
import type { LoadSettings } from './load.ts'
import { createDatabase } from './postgres.ts'
import type { Database } from './postgres.ts'
import { startProgram } from './program.ts'
import type { Program } from './program.ts'
import type { Bench } from './row.ts'
import type { Webhooks } from './webhooks.ts'
import { startWechat } from './wechat.ts'
import type { Wechat, WechatOptions } from './wechat.ts'

type Environment = Record<string, string>

/** What a gateway and a worker need to know of the Redis that a row brings. */
export interface RedisPart {
  /** REDIS_URL, or REDIS_SENTINELS and REDIS_SENTINEL_NAME, or REDIS_CLUSTER, and a password. */
  env: Environment
}

export interface StandOptions {
  /** Default 3. */
  gateways?: number
  /** Default 1. 0: no database either. */
  workers?: number
  redis?: RedisPart
  database?: Database
  wechat?: Wechat
  wechatOptions?: WechatOptions
  /** Where the gateways find WeChat, for what lies in between; default: the simulator itself. */
  wechatUrls?: string
  /** Of the gateways, beside what a stand sets. */
  env?: Environment
  workerEnv?: Environment
  /** What the workers tell, and what I5 looks at; default: they tell nothing. */
  webhooks?: Webhooks
  /** What starts a gateway, for rows that put something around it; default: the program itself. */
  gatewayCommand?: readonly string[]
  /** Whether to wait until gateways and workers are ready. Default true. */
  awaitReady?: boolean
}

export interface Gateway extends Program {
  readonly url: string
  readonly adminUrl: string
  /** The text of /metrics. */
  metrics(): Promise<string>
  /** One metric, 0 when it has not been counted; summed over the labels that are not given. */
  metric(name: string, labels?: Record<string, string>): Promise<number>
  /** A request of the administrator. */
  admin(
    method: string,
    path: string,
    body?: unknown,
  ): Promise<{ status: number; body: Record<string, unknown> }>
}

export interface Worker extends Program {
  readonly url: string
  metrics(): Promise<string>
  metric(name: string, labels?: Record<string, string>): Promise<number>
}

export type Stand = Awaited<ReturnType<typeof startStand>>

/** Everything ends with the row. */
export async function startStand(bench: Bench, options: StandOptions = {}) {
  const { gateways: gatewayCount = 3, workers: workerCount = 1 } = options
  const [wechat, redis, database] = await Promise.all([
    options.wechat ?? startWechat(bench, options.wechatOptions),
    options.redis ?? startPlainRedis(bench),
    workerCount === 0 ? undefined : (options.database ?? createDatabase(bench)),
  ])
  const secrets = newSecrets()
  const app = wechat.apps[0]
  if (app === undefined) throw new Error('the simulator has no app')
  const gatewayEnv: Environment = {
    HOST: '127.0.0.1',
    ...secrets,
    WECHAT_APPID: app.appid,
    WECHAT_SECRET: app.secret,
    WECHAT_API_URLS: options.wechatUrls ?? wechat.url,
    ...redis.env,
    // The bench is the load balancer: what it says of a phone's address counts.
    TRUST_PROXY: '127.0.0.0/8',
    // Limits are far away, unless a row is about them.
    LIMIT_LOGIN_PER_IP: '10000000',
    LIMIT_INVALID_PER_IP: '10000000',
    LIMIT_LOGIN_PER_USER: '1000000',
    LIMIT_WRONG_TOKEN_PER_IP: '10000000',
    LIMIT_EXCHANGE_PER_APP: '10000000',
    // All that a stand is made of shares a few cores, and its loops are late for that alone.
    SHED_LOOP_DELAY_MS: '60000',
    DRAIN_DELAY_MS: '500',
    LOG_LEVEL: 'info',
    ...options.env,
  }
  const workerEnv: Environment = {
    ...redis.env,
    ...(gatewayEnv['KEY_PREFIX'] === undefined ? {} : { KEY_PREFIX: gatewayEnv['KEY_PREFIX'] }),
    DATABASE_URL: database?.url ?? '',
    LOG_LEVEL: 'info',
    ...options.webhooks?.env,
    ...options.workerEnv,
  }
  const awaitReady = options.awaitReady ?? true

  const startGateway = async (number: number, own: Environment = {}): Promise<Gateway> => {
    const [port, adminPort] = [await freePort(), await freePort()]
    const adminUrl = `http://127.0.0.1:${adminPort}`
    const program = await startProgram({
      name: `gateway ${number}`,
      command: options.gatewayCommand ?? ['src/main.ts'],
      env: { ...gatewayEnv, PORT: String(port), ADMIN_PORT: String(adminPort), ...own },
      readyText: awaitReady ? '"msg":"gateway ready"' : undefined,
    })
    bench.defer(() => program.end('SIGKILL'))
    return extend(program, {
      url: `http://127.0.0.1:${port}`,
      adminUrl,
      ...metricsOf(adminUrl),
      async admin(method: string, path: string, body?: unknown) {
        const answer = await fetch(adminUrl + path, {
          method,
          headers: {
            authorization: `Bearer ${secrets.ADMIN_TOKEN}`,
            ...(body === undefined ? {} : { 'content-type': 'application/json' }),
          },
          ...(body === undefined ? {} : { body: JSON.stringify(body) }),
        })
        const text = await answer.text()
        return {
          status: answer.status,
          body: (text === '' ? {} : JSON.parse(text)) as Record<string, unknown>,
        }
      },
    })
  }
  const startWorker = async (number: number, own: Environment = {}): Promise<Worker> => {
    const port = await freePort()
    const program = await startProgram({
      name: `worker ${number}`,
      command: ['workers/main.ts'],
      env: { ...workerEnv, WORKER_PORT: String(port), ...own },
      readyText: awaitReady ? '"msg":"worker ready"' : undefined,
    })
    bench.defer(() => program.end('SIGKILL'))
    const url = `http://127.0.0.1:${port}`
    return extend(program, { url, ...metricsOf(url) })
  }

  const [gateways, workers] = await Promise.all([
    Promise.all(Array.from({ length: gatewayCount }, (_, at) => startGateway(at + 1))),
    Promise.all(Array.from({ length: workerCount }, (_, at) => startWorker(at + 1))),
  ])

  const ledger = createLedger()
  const client = createFaultClient(ledger)
  bench.defer(() => client.close())

  return {
    wechat,
    redis,
    database,
    webhooks: options.webhooks,
    gateways,
    workers,
    ledger,
    client,
    app,
    /** Of a gateway, but for its ports. */
    gatewayEnv: gatewayEnv as Readonly<Environment>,
    /** What nobody may ever read anywhere: see canaries.ts. */
    secrets: [...Object.values(secrets), ...wechat.apps.map(({ secret }) => secret)],
    /** One more, for rows about growing and rolling. It is not part of `gateways`. */
    startGateway,
    startWorker,
    /** Over the first gateway. */
    gateway(at = 0): Gateway {
      const gateway = gateways[at]
      if (gateway === undefined) throw new Error(`there is no gateway ${at}`)
      return gateway
    },
    worker(at = 0): Worker {
      const worker = workers[at]
      if (worker === undefined) throw new Error(`there is no worker ${at}`)
      return worker
    },
    /** Begins a load on all gateways, unless targets are given. It is stopped when the row ends. */
    async load(settings: Partial<LoadSettings> & Pick<LoadSettings, 'loginsPerSecond'>) {
      const { appid, loginsPerUser = 1 } = settings
      const load = await startLoad(
        {
          ledger,
          client,
          mintCodes: (count) =>
            wechat.codes(count, {
              codesPerUser: loginsPerUser,
              ...(appid === undefined ? {} : { appid }),
            }),
        },
        { targets: gateways.map(({ url }) => url), ...settings },
      )
      bench.defer(() => load.stop())
      return load
    },
  }
}

/** The program with more to it. Its getters stay getters. */
function extend<T extends object>(program: Program, own: T): Program & T {
  return Object.defineProperties(Object.create(program) as Program & T, Object.getOwnPropertyDescriptors(own))
}

function metricsOf(baseUrl: string) {
  const metrics = async () => (await fetch(`${baseUrl}/metrics`)).text()
  return {
    metrics,
    metric: async (name: string, labels: Record<string, string> = {}) => sumOf(await metrics(), name, labels),
  }
}

async function startPlainRedis(bench: Bench): Promise<RedisPart> {
  const server = await startRedis({ persistent: false, allowDocker: false })
  bench.defer(() => server.stop())
  return { env: { REDIS_URL: server.url } }
}

export function newSecrets() {
  return {
    ADMIN_TOKEN: randomBytes(24).toString('base64url'),
    SEAL_KEYS: newKey('s1'),
    TOKEN_KEYS: newKey('t1'),
  }
}

/** As SEAL_KEYS and TOKEN_KEYS want it. */
export function newKey(kid: string): string {
  return `${kid}:${randomBytes(32).toString('base64')}`
}
