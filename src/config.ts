/**
 * Environment → configuration. Reads the variables of settings.ts, checks them and everything that spans
 * several of them, and either returns one typed object or throws one ConfigError that names every fault
 * at once and prints no value.
 */
import { existsSync, readFileSync } from 'node:fs'
import { Secret } from './secret.ts'
import { SETTINGS, SettingFault } from './settings.ts'
import type { SettingName, SettingValues } from './settings.ts'

/** A named symmetric key. `kid` is stored beside what the key made, so that keys can rotate. */
export interface Key {
  readonly kid: string
  readonly bytes: Secret<Buffer>
}

/** A Mini Program. Two secrets may be valid while one is being rotated. */
export interface App {
  readonly appid: string
  readonly secrets: readonly Secret<string>[]
}

export type RedisTarget =
  | { readonly kind: 'standalone'; readonly url: Secret<string> }
  | { readonly kind: 'sentinel'; readonly sentinels: readonly Endpoint[]; readonly name: string }
  | { readonly kind: 'cluster'; readonly nodes: readonly Endpoint[] }

export interface Endpoint {
  readonly host: string
  readonly port: number
}

export interface RedisConfig {
  readonly target: RedisTarget
  readonly username: string | undefined
  readonly password: Secret<string> | undefined
  readonly commandTimeoutMs: number
  readonly keyPrefix: string
}

export interface GatewayConfig {
  readonly host: string
  readonly port: number
  readonly adminHost: string
  readonly adminPort: number
  readonly adminToken: Secret<string>
  readonly trustProxy: readonly string[]
  readonly apps: readonly App[]
  readonly wechatApiUrls: readonly string[]
  readonly loginDeadlineMs: number
  readonly redis: RedisConfig
  readonly sealKeys: readonly Key[]
  readonly tokenKeys: readonly Key[]
  readonly sessionTtlSeconds: number
  readonly sessionsPerUser: number
  readonly exposeOpenid: boolean
  readonly limits: {
    readonly loginPerIp: number
    readonly invalidPerIp: number
    readonly loginPerUser: number
    readonly exchangePerApp: number
  }
  readonly provisionRefreshSeconds: number
  readonly logLevel: string
  readonly drainDelayMs: number
}

export interface WorkerConfig {
  readonly redis: RedisConfig
  readonly databaseUrl: Secret<string> | undefined
  readonly dataDir: string
  readonly host: string
  readonly port: number
  readonly concurrency: number
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

export type Environment = Readonly<Record<string, string | undefined>>

/** The process's environment, completed from a `.env` file in the working directory if there is one. */
export function readEnvironment(): Environment {
  if (existsSync('.env')) process.loadEnvFile('.env')
  return process.env
}

/** @throws {ConfigError} naming every fault. */
export function loadGatewayConfig(env: Environment): GatewayConfig {
  const faults: string[] = []
  const values = readSettings(env, faults)
  const production = env['NODE_ENV'] === 'production'

  const apps = loadApps(values, faults)
  const sealKeys = parseKeys('SEAL_KEYS', values.SEAL_KEYS, production, faults)
  const tokenKeys = parseKeys('TOKEN_KEYS', values.TOKEN_KEYS, production, faults)
  checkKeysDiffer(sealKeys, tokenKeys, faults)
  const redis = redisConfig(values, faults)
  if (values.ADMIN_TOKEN === undefined) faults.push('ADMIN_TOKEN is missing')
  else if (production && values.ADMIN_TOKEN.startsWith(DEVELOPMENT_MARK)) {
    faults.push('ADMIN_TOKEN is a development token; NODE_ENV=production does not accept it')
  }
  if (values.WECHAT_API_URLS.length === 0) faults.push('WECHAT_API_URLS is empty')
  if (production && values.WECHAT_API_URLS.some((url) => url.startsWith('http://') && !isLoopback(url))) {
    faults.push(
      'WECHAT_API_URLS must use https when NODE_ENV=production: the AppSecret travels in the address',
    )
  }

  if (faults.length > 0 || redis === undefined) throw new ConfigError(faults)
  return {
    host: values.HOST,
    port: values.PORT,
    adminHost: values.ADMIN_HOST,
    adminPort: values.ADMIN_PORT,
    adminToken: new Secret(values.ADMIN_TOKEN ?? ''),
    trustProxy: values.TRUST_PROXY,
    apps,
    wechatApiUrls: values.WECHAT_API_URLS,
    loginDeadlineMs: values.LOGIN_DEADLINE_MS,
    redis,
    sealKeys,
    tokenKeys,
    sessionTtlSeconds: values.SESSION_TTL_SECONDS,
    sessionsPerUser: values.SESSIONS_PER_USER,
    exposeOpenid: values.EXPOSE_OPENID,
    limits: {
      loginPerIp: values.LIMIT_LOGIN_PER_IP,
      invalidPerIp: values.LIMIT_INVALID_PER_IP,
      loginPerUser: values.LIMIT_LOGIN_PER_USER,
      exchangePerApp: values.LIMIT_EXCHANGE_PER_APP,
    },
    provisionRefreshSeconds: values.PROVISION_REFRESH_SECONDS,
    logLevel: values.LOG_LEVEL,
    drainDelayMs: values.DRAIN_DELAY_MS,
  }
}

/**
 * The worker needs no WeChat secret and no key, and gets none.
 * @throws {ConfigError} naming every fault.
 */
export function loadWorkerConfig(env: Environment): WorkerConfig {
  const faults: string[] = []
  const values = readSettings(env, faults)
  const redis = redisConfig(values, faults)
  if (env['NODE_ENV'] === 'production' && values.DATABASE_URL === undefined) {
    faults.push('DATABASE_URL is missing; NODE_ENV=production does not accept the embedded database')
  }
  if (faults.length > 0 || redis === undefined) throw new ConfigError(faults)
  return {
    redis,
    databaseUrl: values.DATABASE_URL === undefined ? undefined : new Secret(values.DATABASE_URL),
    dataDir: values.DATA_DIR,
    host: values.WORKER_HOST,
    port: values.WORKER_PORT,
    concurrency: values.WORKER_CONCURRENCY,
    logLevel: values.LOG_LEVEL,
  }
}

function readSettings(env: Environment, faults: string[]): SettingValues {
  const values: Partial<Record<SettingName, unknown>> = {}
  for (const [name, setting] of Object.entries(SETTINGS)) {
    try {
      values[name as SettingName] = setting.parse(readVariable(env, name))
    } catch (error) {
      if (!(error instanceof SettingFault)) throw error
      faults.push(`${name} ${error.message}`)
      values[name as SettingName] = setting.parse(undefined) // so that the checks after this one can go on
    }
  }
  return values as SettingValues
}

/** X from X, or from the file that X_FILE names. Both at once is a fault, for nobody could tell which counts. */
function readVariable(env: Environment, name: string): string | undefined {
  const given = env[name]
  const file = env[`${name}_FILE`]
  if (file === undefined || file === '' || `${name}_FILE` in SETTINGS) return given === '' ? undefined : given
  if (given !== undefined && given !== '') throw new SettingFault(`is given twice, also as ${name}_FILE`)
  try {
    return readFileSync(file, 'utf8').trim()
  } catch (error) {
    throw new SettingFault(`cannot be read from the file in ${name}_FILE (${errorCode(error)})`)
  }
}

function loadApps(values: SettingValues, faults: string[]): App[] {
  const apps = new Map<string, App>()
  if (values.WECHAT_APPID !== undefined || values.WECHAT_SECRET !== undefined) {
    if (values.WECHAT_APPID === undefined)
      faults.push('WECHAT_APPID is missing, while WECHAT_SECRET is given')
    else if (values.WECHAT_SECRET === undefined)
      faults.push('WECHAT_SECRET is missing, while WECHAT_APPID is given')
    else
      apps.set(values.WECHAT_APPID, {
        appid: values.WECHAT_APPID,
        secrets: [new Secret(values.WECHAT_SECRET)],
      })
  }
  if (values.WECHAT_APPS_FILE !== undefined) {
    for (const app of readAppsFile(values.WECHAT_APPS_FILE, faults)) {
      if (apps.has(app.appid)) faults.push(`WECHAT_APPS_FILE names the appid ${app.appid} a second time`)
      apps.set(app.appid, app)
    }
  } else if (apps.size === 0 && faults.every((fault) => !fault.startsWith('WECHAT_'))) {
    faults.push('no Mini Program is configured: set WECHAT_APPID and WECHAT_SECRET, or WECHAT_APPS_FILE')
  }
  return [...apps.values()]
}

function readAppsFile(path: string, faults: string[]): App[] {
  let parsed: unknown
  try {
    parsed = JSON.parse(readFileSync(path, 'utf8'))
  } catch (error) {
    // A JSON error quotes the text around it, which may be a secret; its kind is enough.
    faults.push(
      `WECHAT_APPS_FILE cannot be used (${error instanceof SyntaxError ? 'not JSON' : errorCode(error)})`,
    )
    return []
  }
  if (!Array.isArray(parsed) || parsed.length === 0) {
    faults.push('WECHAT_APPS_FILE must hold a JSON list of {"appid", "secret"}')
    return []
  }
  const apps: App[] = []
  for (const [index, entry] of parsed.entries()) {
    const { appid, secret } = (entry ?? {}) as { appid?: unknown; secret?: unknown }
    try {
      apps.push({
        appid: SETTINGS.WECHAT_APPID.parse(String(appid)) ?? '',
        secrets: [new Secret(SETTINGS.WECHAT_SECRET.parse(String(secret)) ?? '')],
      })
    } catch (error) {
      if (!(error instanceof SettingFault)) throw error
      faults.push(`WECHAT_APPS_FILE entry ${index + 1}: appid or secret ${error.message}`)
    }
  }
  return apps
}

const KEY_BYTES = 32
/** `npm start` marks the keys it makes, so that none of them slips into production. */
const DEVELOPMENT_MARK = 'dev'
/** A random key of 32 bytes has fewer than 16 different bytes about once in 10^18. */
const KEY_DISTINCT_BYTES_MIN = 16

function parseKeys(name: string, text: string | undefined, production: boolean, faults: string[]): Key[] {
  if (text === undefined) {
    faults.push(`${name} is missing; \`openssl rand -base64 32\` makes a key, written as kid:key`)
    return []
  }
  const keys: Key[] = []
  for (const [index, entry] of text.split(',').entries()) {
    const where = `${name}, key ${index + 1}`
    const [, kid, encoded] = /^([A-Za-z0-9]{1,8}):([A-Za-z0-9+/_-]+=*)$/.exec(entry.trim()) ?? []
    if (kid === undefined || encoded === undefined) {
      faults.push(`${where} must be kid:base64, the kid being 1 to 8 letters and digits`)
      continue
    }
    const bytes = Buffer.from(encoded, 'base64')
    if (bytes.length !== KEY_BYTES)
      faults.push(`${where} (${kid}) must be ${KEY_BYTES} bytes, base64; it has ${bytes.length}`)
    else if (new Set(bytes).size < KEY_DISTINCT_BYTES_MIN)
      faults.push(`${where} (${kid}) is not random: too many bytes are equal`)
    if (keys.some((key) => key.kid === kid)) faults.push(`${where} uses the kid ${kid} a second time`)
    if (production && kid.startsWith(DEVELOPMENT_MARK)) {
      faults.push(`${where} (${kid}) is a development key; NODE_ENV=production does not accept it`)
    }
    keys.push({ kid, bytes: new Secret(bytes) })
  }
  return keys
}

/** One key for two purposes would let a leak of the one open the other. */
function checkKeysDiffer(sealKeys: readonly Key[], tokenKeys: readonly Key[], faults: string[]): void {
  const all = [...sealKeys, ...tokenKeys].map((key) => key.bytes.reveal().toString('base64'))
  if (new Set(all).size < all.length) faults.push('SEAL_KEYS and TOKEN_KEYS hold the same key twice')
}

function redisConfig(values: SettingValues, faults: string[]): RedisConfig | undefined {
  const targets: RedisTarget[] = []
  if (values.REDIS_URL !== undefined) targets.push({ kind: 'standalone', url: new Secret(values.REDIS_URL) })
  if (values.REDIS_SENTINELS.length > 0) {
    targets.push({
      kind: 'sentinel',
      sentinels: values.REDIS_SENTINELS.map(endpoint),
      name: values.REDIS_SENTINEL_NAME,
    })
  }
  if (values.REDIS_CLUSTER.length > 0)
    targets.push({ kind: 'cluster', nodes: values.REDIS_CLUSTER.map(endpoint) })
  const [target] = targets
  if (targets.length > 1) faults.push('only one of REDIS_URL, REDIS_SENTINELS and REDIS_CLUSTER may be given')
  if (target === undefined) {
    if (!faults.some((fault) => fault.startsWith('REDIS_'))) {
      faults.push('REDIS_URL is missing (or REDIS_SENTINELS, or REDIS_CLUSTER)')
    }
    return undefined
  }
  return {
    target,
    username: values.REDIS_USERNAME,
    password: values.REDIS_PASSWORD === undefined ? undefined : new Secret(values.REDIS_PASSWORD),
    commandTimeoutMs: values.REDIS_COMMAND_TIMEOUT_MS,
    keyPrefix: values.KEY_PREFIX,
  }
}

function endpoint(text: string): Endpoint {
  const colon = text.lastIndexOf(':')
  return { host: text.slice(0, colon), port: Number(text.slice(colon + 1)) }
}

function isLoopback(url: string): boolean {
  return /^http:\/\/(127\.\d+\.\d+\.\d+|localhost|\[::1\])(:\d+)?$/.test(url)
}

function errorCode(error: unknown): string {
  return (error as NodeJS.ErrnoException).code ?? 'unreadable'
}
