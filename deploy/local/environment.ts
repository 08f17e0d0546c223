/** The environments of the gateway and of the worker: what the person gave wins, the rest is filled in. */
import type { Environment } from '../../src/config.ts'
import { given } from './plan.ts'
import type { Plan } from './plan.ts'
import type { PortName } from './ports.ts'
import type { DevelopmentSecrets } from './secrets.ts'

/** What was found or started, and is the same for both. */
export interface Surroundings {
  readonly plan: Plan
  readonly ports: Record<PortName, number>
  readonly urls: Record<PortName, string>
  readonly redisUrl: string | undefined
}

/** A Mini Program that exists in the simulator only. */
export const SIMULATED_APPID = 'wxdec0de0000000001'

/** Everybody here is 127.0.0.1, so limits by address would hit whoever tries the system out. */
const NO_LIMIT = '100000'

const SECRETS = [
  'SEAL_KEYS',
  'TOKEN_KEYS',
  'ADMIN_TOKEN',
  'WECHAT_SECRET',
  'WECHAT_PUSH_TOKEN',
  'WECHAT_PUSH_AES_KEY',
  'WECHAT_APPS_FILE',
]

/** With the development secrets, the simulator and loose limits, unless others are given. */
export function gatewayEnvironment(
  env: Environment,
  { plan, ports, urls, redisUrl }: Surroundings,
  secrets: DevelopmentSecrets,
): NodeJS.ProcessEnv {
  const simulated = {
    WECHAT_APPID: SIMULATED_APPID,
    WECHAT_SECRET: secrets.SIMULATED_WECHAT_SECRET,
    WECHAT_API_URLS: urls.wechat,
  }
  return {
    ...unlessGiven(env, {
      SEAL_KEYS: secrets.SEAL_KEYS,
      TOKEN_KEYS: secrets.TOKEN_KEYS,
      ADMIN_TOKEN: secrets.ADMIN_TOKEN,
      LIMIT_LOGIN_PER_IP: NO_LIMIT,
      LIMIT_INVALID_PER_IP: NO_LIMIT,
      DRAIN_DELAY_MS: '0', // no load balancer has to notice
      NODE_COMPILE_CACHE: plan.dataDir.compileCache,
      ...(redisUrl === undefined ? {} : { REDIS_URL: redisUrl }),
    }),
    ...(plan.wechat.kind === 'simulated' ? simulated : {}),
    HOST: plan.ports.gateway.host,
    PORT: String(ports.gateway),
    ADMIN_HOST: plan.ports.admin.host,
    ADMIN_PORT: String(ports.admin),
  }
}

/** The worker gets no key and no secret of WeChat: it needs none. */
export function workerEnvironment(
  env: Environment,
  { plan, ports, redisUrl }: Surroundings,
): NodeJS.ProcessEnv {
  const withoutSecrets = { ...env }
  for (const name of SECRETS.flatMap((secret) => [secret, `${secret}_FILE`])) delete withoutSecrets[name]
  return {
    ...unlessGiven(withoutSecrets, {
      NODE_COMPILE_CACHE: plan.dataDir.compileCache,
      ...(redisUrl === undefined ? {} : { REDIS_URL: redisUrl }),
    }),
    DATA_DIR: plan.dataDir.path,
    WORKER_HOST: plan.ports.worker.host,
    WORKER_PORT: String(ports.worker),
  }
}

function unlessGiven(env: Environment, values: Record<string, string>): Environment {
  const missing = Object.entries(values).filter(([name]) => given(env, name) === undefined)
  return { ...env, ...Object.fromEntries(missing) }
}
