/**
 * Environment → configuration. Reads the variables of settings.ts, checks them and everything that spans
 * several of them, and either returns one typed object or throws one ConfigError that names every fault
 * at once and prints no value.
 */
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import type { App } from './app-entry.ts'
import { loadApps } from './configured-apps.ts'
import { checkKeysDiffer, DEVELOPMENT_MARK, parseRing } from './key-ring.ts'
import type { Key } from './key-ring.ts'
import { errorCode, readSettings } from './reading.ts'
import type { Environment, Reading } from './reading.ts'
import { redisConfig, SHARED_SETTINGS } from './redis/config.ts'
import type { Endpoint, RedisConfig, RedisTarget } from './redis/config.ts'
import { Secret } from './secret.ts'
import type { SessionLife } from './session-value.ts'
import { SETTINGS } from './settings.ts'
import type { SettingName } from './settings.ts'
import type { LocalLimitSettings } from './local-limits.ts'
import type { SheddingSettings } from './shedding.ts'
import { TRACING_SETTINGS, tracingConfig } from './tracing/config.ts'
import type { TracingConfig } from './tracing/tracing.ts'
import { readWebhooks, WEBHOOK_SETTINGS } from './webhook-endpoints.ts'
import type { WebhooksConfig } from './webhook-endpoints.ts'

export type { App, Endpoint, Environment, Key, RedisConfig, RedisTarget }

export interface GatewayConfig {
  readonly host: string
  readonly port: number
  readonly adminHost: string
  readonly adminPort: number
  readonly adminToken: Secret<string>
  readonly trustProxy: readonly string[]
  readonly apps: readonly App[]
  readonly push: { readonly revokeErases: boolean }
  readonly wechatApiUrls: readonly string[]
  readonly componentTokensFile: string | undefined
  readonly wecomApiUrls: readonly string[]
  readonly qqApiUrls: readonly string[]
  readonly douyinApiUrls: readonly string[]
  readonly loginDeadlineMs: number
  readonly redis: RedisConfig
  readonly sealKeys: readonly Key[]
  readonly tokenKeys: readonly Key[]
  readonly sessionLife: SessionLife
  /** 0: no cache. */
  readonly sessionCacheSeconds: number
  readonly sessionsPerUser: number
  readonly openData: {
    /** How old its watermark may be. */
    readonly maxAgeSeconds: number
    /** How long it is remembered, so that it is not taken twice; 0: it is not. */
    readonly replaySeconds: number
  }
  readonly exposeOpenid: boolean
  readonly jwt: {
    readonly audiences: readonly string[]
    readonly ttlSeconds: number
    readonly issuer: string
  }
  readonly limits: {
    readonly gateways: number
    readonly loginPerIp: number
    readonly invalidPerIp: number
    readonly loginPerUser: number
    readonly exchangePerApp: number
  }
  readonly localLimits: LocalLimitSettings
  readonly shedding: SheddingSettings
  readonly provisionRefreshSeconds: number
  readonly sessionEvents: boolean
  readonly provisionBacklogMax: number
  /** undefined: off. */
  readonly tracing: TracingConfig | undefined
  readonly logLevel: string
  readonly drainDelayMs: number
  readonly readyRequiresRedis: boolean
}

export interface WorkerConfig {
  readonly redis: RedisConfig
  readonly databaseUrl: Secret<string> | undefined
  readonly dataDir: string
  /** An absolute path; undefined: users are written into the database. */
  readonly provisionModule: string | undefined
  /** Without one the listener says nothing of webhooks. */
  readonly token: Secret<string> | undefined
  readonly host: string
  readonly port: number
  readonly concurrency: number
  readonly webhooks: WebhooksConfig
  readonly tracing: TracingConfig | undefined
  readonly logLevel: string
}

/** One message for the operator with every fault found. Holds names and demands, never values. */
export class ConfigError extends Error {
  readonly faults: readonly string[]

  constructor(faults: readonly string[]) {
    super(
      `The configuration has ${faults.length === 1 ? 'a fault' : `${faults.length} faults`}:\n  - ${faults.join('\n  - ')}`,
    )
    this.name = 'ConfigError'
    this.faults = faults
  }
}

/**
 * The process's environment, completed from a `.env` file in the working directory if there is one.
 * @throws {ConfigError} when that file cannot be read.
 */
export function readEnvironment(): Environment {
  try {
    if (existsSync('.env')) process.loadEnvFile('.env')
  } catch (error) {
    throw new ConfigError([`the file .env cannot be read (${errorCode(error)})`])
  }
  return process.env
}

/** Read by the worker alone, and by both. Neither asks for a file of the other's, which it may not be given. */
const WORKER_SETTINGS = [
  'DATABASE_URL',
  'DATA_DIR',
  'PROVISION_MODULE',
  'WORKER_HOST',
  'WORKER_PORT',
  'WORKER_TOKEN',
  'WORKER_CONCURRENCY',
  ...WEBHOOK_SETTINGS,
] as const satisfies readonly SettingName[]

type WorkerSetting = (typeof WORKER_SETTINGS)[number]
type GatewaySetting = Exclude<SettingName, WorkerSetting>

const isWorkerSetting = (name: string): name is WorkerSetting =>
  (WORKER_SETTINGS as readonly string[]).includes(name)
const GATEWAY_SETTINGS = (Object.keys(SETTINGS) as SettingName[]).filter(
  (name): name is GatewaySetting => !isWorkerSetting(name),
)

/** @throws {ConfigError} naming every fault. */
export function loadGatewayConfig(env: Environment): GatewayConfig {
  const reading = readSettings(env, GATEWAY_SETTINGS)
  const { values, faults } = reading
  const production = env['NODE_ENV'] === 'production'

  const apps = loadApps(reading)
  const sealKeys = parseKeys('SEAL_KEYS', production, reading)
  const tokenKeys = parseKeys('TOKEN_KEYS', production, reading)
  checkKeysDiffer(sealKeys, tokenKeys, faults)
  const redis = redisConfig(reading)
  if (reading.isMissing('ADMIN_TOKEN')) faults.push('ADMIN_TOKEN is missing')
  if (values.ADMIN_TOKEN !== undefined) checkToken('ADMIN_TOKEN', values.ADMIN_TOKEN, { production, faults })
  checkOrigins(production, reading)
  const needsComponentToken = apps.some(({ kind }) => kind === 'wechat_component')
  if (needsComponentToken && reading.isMissing('WECHAT_COMPONENT_TOKENS_FILE'))
    faults.push('WECHAT_COMPONENT_TOKENS_FILE is missing, which an app of kind wechat_component needs')

  if (values.TRACE_TRUST_PARENT && reading.isMissing('TRUST_PROXY'))
    faults.push('TRACE_TRUST_PARENT needs TRUST_PROXY: whose word is to be taken')

  const maxSeconds = sessionMaxSeconds(reading)
  if (faults.length > 0 || redis === undefined) throw new ConfigError(faults)
  return {
    host: values.HOST,
    port: values.PORT,
    adminHost: values.ADMIN_HOST,
    adminPort: values.ADMIN_PORT,
    adminToken: new Secret(values.ADMIN_TOKEN ?? ''),
    trustProxy: values.TRUST_PROXY,
    apps,
    push: { revokeErases: values.WECHAT_PUSH_REVOKE_ERASES },
    wechatApiUrls: values.WECHAT_API_URLS,
    componentTokensFile: values.WECHAT_COMPONENT_TOKENS_FILE,
    wecomApiUrls: values.WECOM_API_URLS,
    qqApiUrls: values.QQ_API_URLS,
    douyinApiUrls: values.DOUYIN_API_URLS,
    loginDeadlineMs: values.LOGIN_DEADLINE_MS,
    redis,
    sealKeys,
    tokenKeys,
    sessionLife: { idleSeconds: values.SESSION_TTL_SECONDS, maxSeconds },
    sessionCacheSeconds: values.SESSION_CACHE_SECONDS,
    sessionsPerUser: values.SESSIONS_PER_USER,
    openData: {
      maxAgeSeconds: values.OPEN_DATA_MAX_AGE_SECONDS,
      replaySeconds: values.OPEN_DATA_REPLAY_SECONDS,
    },
    exposeOpenid: values.EXPOSE_OPENID,
    jwt: {
      audiences: values.JWT_AUDIENCES,
      ttlSeconds: values.JWT_TTL_SECONDS,
      issuer: values.JWT_ISSUER,
    },
    limits: {
      gateways: values.GATEWAY_COUNT,
      loginPerIp: values.LIMIT_LOGIN_PER_IP,
      invalidPerIp: values.LIMIT_INVALID_PER_IP,
      loginPerUser: values.LIMIT_LOGIN_PER_USER,
      exchangePerApp: values.LIMIT_EXCHANGE_PER_APP,
    },
    localLimits: {
      wrongTokenPerIp: values.LIMIT_WRONG_TOKEN_PER_IP,
      tokenPerUser: values.LIMIT_TOKEN_PER_USER,
      phonePerUser: values.LIMIT_PHONE_PER_USER,
    },
    shedding: { loopDelayMsMax: values.SHED_LOOP_DELAY_MS, inFlightMax: values.SHED_IN_FLIGHT },
    provisionRefreshSeconds: values.PROVISION_REFRESH_SECONDS,
    sessionEvents: values.SESSION_EVENTS,
    provisionBacklogMax: values.PROVISION_BACKLOG_MAX,
    tracing: tracingConfig(reading, { trustsParent: values.TRACE_TRUST_PARENT }),
    logLevel: values.LOG_LEVEL,
    drainDelayMs: values.DRAIN_DELAY_MS,
    readyRequiresRedis: values.READY_REQUIRES_REDIS,
  }
}

/**
 * The worker needs no WeChat secret and no key, and gets none.
 * @throws {ConfigError} naming every fault.
 */
export function loadWorkerConfig(env: Environment): WorkerConfig {
  const reading = readSettings(env, [...SHARED_SETTINGS, ...TRACING_SETTINGS, ...WORKER_SETTINGS])
  const { values, faults } = reading
  const redis = redisConfig(reading)
  const production = env['NODE_ENV'] === 'production'
  const webhooks = readWebhooks(reading, production)
  if (values.PROVISION_MODULE !== undefined) {
    if (webhooks.endpoints.length > 0)
      faults.push('WEBHOOKS_FILE needs the database, which is not used with PROVISION_MODULE')
  } else if (production && reading.isMissing('DATABASE_URL')) {
    faults.push('DATABASE_URL is missing; NODE_ENV=production does not accept the embedded database')
  }
  if (values.WORKER_TOKEN !== undefined)
    checkToken('WORKER_TOKEN', values.WORKER_TOKEN, { production, faults })
  if (faults.length > 0 || redis === undefined) throw new ConfigError(faults)
  return {
    redis,
    token: values.WORKER_TOKEN === undefined ? undefined : new Secret(values.WORKER_TOKEN),
    databaseUrl: values.DATABASE_URL === undefined ? undefined : new Secret(values.DATABASE_URL),
    dataDir: values.DATA_DIR,
    provisionModule: values.PROVISION_MODULE === undefined ? undefined : resolve(values.PROVISION_MODULE),
    host: values.WORKER_HOST,
    port: values.WORKER_PORT,
    concurrency: values.WORKER_CONCURRENCY,
    webhooks,
    tracing: tracingConfig(reading, { trustsParent: false }),
    logLevel: values.LOG_LEVEL,
  }
}

/**
 * What `npm run jobs` needs.
 * @throws {ConfigError} naming every fault.
 */
export function loadRedisConfig(env: Environment): RedisConfig {
  const reading = readSettings(env, SHARED_SETTINGS)
  const redis = redisConfig(reading)
  if (reading.faults.length > 0 || redis === undefined) throw new ConfigError(reading.faults)
  return redis
}

/** What `npm run keys` needs: the rings, and the Redis in which they are used. */
export interface KeysConfig {
  readonly redis: RedisConfig
  readonly sealKeys: readonly Key[]
  readonly tokenKeys: readonly Key[]
  readonly sessionLife: SessionLife
}

/** @throws {ConfigError} naming every fault. */
export function loadKeysConfig(env: Environment): KeysConfig {
  const names = ['SEAL_KEYS', 'TOKEN_KEYS', 'SESSION_TTL_SECONDS', 'SESSION_MAX_SECONDS'] as const
  const reading = readSettings(env, [...SHARED_SETTINGS, ...names])
  const production = env['NODE_ENV'] === 'production'
  const sealKeys = parseKeys('SEAL_KEYS', production, reading)
  const tokenKeys = parseKeys('TOKEN_KEYS', production, reading)
  checkKeysDiffer(sealKeys, tokenKeys, reading.faults)
  const idleSeconds = reading.values.SESSION_TTL_SECONDS
  const sessionLife = { idleSeconds, maxSeconds: sessionMaxSeconds(reading) }
  const redis = redisConfig(reading)
  if (reading.faults.length > 0 || redis === undefined) throw new ConfigError(reading.faults)
  return { redis, sealKeys, tokenKeys, sessionLife }
}

function parseKeys(
  name: 'SEAL_KEYS' | 'TOKEN_KEYS',
  production: boolean,
  { values, faults, isMissing }: Reading<'SEAL_KEYS' | 'TOKEN_KEYS'>,
): Key[] {
  const text = values[name]
  if (isMissing(name))
    faults.push(`${name} is missing; \`openssl rand -base64 32\` makes a key, written as kid:key`)
  if (text === undefined) return []
  return parseRing(text, { name, production, faults })
}

/** A random token of 24 characters has fewer different ones about once in 10^9. */
const TOKEN_DISTINCT_MIN = 8

function checkToken(
  name: 'ADMIN_TOKEN' | 'WORKER_TOKEN',
  token: string,
  { production, faults }: { production: boolean; faults: string[] },
): void {
  if (new Set(token).size < TOKEN_DISTINCT_MIN)
    faults.push(`${name} is not random: too many characters are equal`)
  if (production && token.startsWith(DEVELOPMENT_MARK)) {
    faults.push(`${name} is a development token; NODE_ENV=production does not accept it`)
  }
}

/** The default gives way to a longer idle life; a figure that contradicts it does not. */
function sessionMaxSeconds({
  values,
  faults,
  isMissing,
}: Reading<'SESSION_TTL_SECONDS' | 'SESSION_MAX_SECONDS'>): number {
  const { SESSION_TTL_SECONDS: idleSeconds, SESSION_MAX_SECONDS: maxSeconds } = values
  if (!isMissing('SESSION_MAX_SECONDS') && maxSeconds < idleSeconds)
    faults.push('SESSION_MAX_SECONDS must not be below SESSION_TTL_SECONDS')
  return Math.max(maxSeconds, idleSeconds)
}

const ORIGIN_SETTINGS = ['WECHAT_API_URLS', 'WECOM_API_URLS', 'QQ_API_URLS', 'DOUYIN_API_URLS'] as const

function checkOrigins(production: boolean, { values, faults }: Reading<GatewaySetting>): void {
  for (const name of ORIGIN_SETTINGS) {
    if (values[name].length === 0) faults.push(`${name} is empty`)
    if (production && values[name].some((url) => url.startsWith('http://') && !isLoopback(url)))
      faults.push(`${name} must use https when NODE_ENV=production: secrets travel in the address`)
  }
}

function isLoopback(url: string): boolean {
  return /^http:\/\/(127\.\d+\.\d+\.\d+|localhost|\[::1\])(:\d+)?$/.test(url)
}
