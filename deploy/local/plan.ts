/**
 * What the environment asks of the local run: which parts are given from outside and which are to be
 * started here. Reads and decides, starts nothing.
 */
import { readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import type { Environment } from '../../src/config.ts'
import { SettingFault } from '../../src/setting-kinds.ts'
import { SETTINGS } from '../../src/settings.ts'
import { locateDataDir } from './data-dir.ts'
import type { DataDir } from './data-dir.ts'
import { LOOPBACK } from './ports.ts'
import type { PortName, PortWish } from './ports.ts'
import { errorCode, StartRefused } from './refusal.ts'

export interface Plan {
  readonly dataDir: DataDir
  readonly ports: Record<PortName, PortWish>
  readonly redis: { readonly kind: 'own' | 'url' | 'sentinel' | 'cluster'; readonly url: string | undefined }
  readonly database: { readonly kind: 'embedded' } | { readonly kind: 'postgres'; readonly place: string }
  readonly wechat: { readonly kind: 'simulated' } | { readonly kind: 'real'; readonly apps: string }
}

// PORT has its default from src/settings.ts, and so have these two; the simulator's are beside them.
const ADMIN_PORT = SETTINGS.ADMIN_PORT.shownDefault
const WORKER_PORT = SETTINGS.WORKER_PORT.shownDefault
const SIMULATOR_PORT = '3080'
const CONTROL_PORT = '3081'

/**
 * Relative to the repository unless DATA_DIR says otherwise (then to the working directory).
 * @throws {StartRefused} when the environment is that of a production, or contradicts itself.
 */
export function planRun(env: Environment, repository: string): Plan {
  if (env['NODE_ENV'] === 'production') {
    throw new StartRefused(
      'NODE_ENV=production: this run is for development and uses development secrets. ' +
        'Use "npm run gateway" and "npm run worker" with secrets of your own, or unset NODE_ENV.',
    )
  }
  const dataDir = env['DATA_DIR'] ? resolve(env['DATA_DIR']) : join(repository, '.data')
  return {
    dataDir: locateDataDir(dataDir),
    ports: {
      gateway: wish(env, { variable: 'PORT', hostVariable: 'HOST' }),
      admin: wish(env, { variable: 'ADMIN_PORT', hostVariable: 'ADMIN_HOST', otherwise: ADMIN_PORT }),
      wechat: movable(env, { variable: 'SIMULATOR_PORT', otherwise: SIMULATOR_PORT }),
      control: movable(env, { variable: 'SIMULATOR_CONTROL_PORT', otherwise: CONTROL_PORT }),
      worker: movable(env, { variable: 'WORKER_PORT', hostVariable: 'WORKER_HOST', otherwise: WORKER_PORT }),
    },
    redis: planRedis(env),
    database: planDatabase(env),
    wechat: planWechat(env),
  }
}

/** The variable X, also when it is given as a file in X_FILE; undefined when neither is. */
export function given(env: Environment, name: string): string | undefined {
  const value = env[name]
  if (value !== undefined && value !== '') return value
  const file = env[`${name}_FILE`]
  if (file === undefined || file === '') return undefined
  try {
    return readFileSync(file, 'utf8').trim()
  } catch (error) {
    throw new StartRefused(`The file in ${name}_FILE cannot be read (${errorCode(error)}).`, { cause: error })
  }
}

interface PortVariables {
  readonly variable: string
  /** Without one it is the loopback: the simulator hands out logins to whoever asks. */
  readonly hostVariable?: string
  readonly otherwise?: string | undefined
}

function wish(env: Environment, { variable, hostVariable = '', otherwise }: PortVariables): PortWish {
  try {
    const port = SETTINGS.PORT.parse(env[variable] || otherwise)
    return { variable, port, host: env[hostVariable] || LOOPBACK, hostVariable, mayMove: false }
  } catch (error) {
    if (!(error instanceof SettingFault)) throw error
    throw new StartRefused(`${variable} ${error.message}.`, { cause: error })
  }
}

/** Nobody has to know these ports by heart, so they may be others when nobody asked for them. */
function movable(env: Environment, variables: PortVariables): PortWish {
  return { ...wish(env, variables), mayMove: !env[variables.variable] }
}

function planRedis(env: Environment): Plan['redis'] {
  if (given(env, 'REDIS_SENTINELS')) return { kind: 'sentinel', url: undefined }
  if (given(env, 'REDIS_CLUSTER')) return { kind: 'cluster', url: undefined }
  const url = given(env, 'REDIS_URL')
  return { kind: url === undefined ? 'own' : 'url', url }
}

function planDatabase(env: Environment): Plan['database'] {
  const url = given(env, 'DATABASE_URL')
  if (url === undefined) return { kind: 'embedded' }
  if (!URL.canParse(url)) throw new StartRefused('DATABASE_URL must look like postgres://user@host/database')
  const { hostname, port, pathname } = new URL(url)
  return { kind: 'postgres', place: `${hostname}:${port || 5432}${pathname}` } // without the password
}

function planWechat(env: Environment): Plan['wechat'] {
  const appid = given(env, 'WECHAT_APPID')
  const secret = given(env, 'WECHAT_SECRET')
  const file = env['WECHAT_APPS_FILE']
  if (appid !== undefined && secret !== undefined) return { kind: 'real', apps: appid }
  if (appid !== undefined || secret !== undefined) {
    const [there, missing] = appid === undefined ? ['SECRET', 'APPID'] : ['APPID', 'SECRET']
    throw new StartRefused(
      `WECHAT_${there} is given and WECHAT_${missing} is not. Give both to use the real WeChat, or none to use the simulator.`,
    )
  }
  return file ? { kind: 'real', apps: `those in ${file}` } : { kind: 'simulated' }
}
