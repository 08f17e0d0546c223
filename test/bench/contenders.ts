/**
 * Who is measured, each in processes that have a core to themselves, and how it is asked. All get the same requests and
 * ask the same simulated WeChat, over plain HTTP.
 */
import { existsSync } from 'node:fs'
import { freePort } from '../../deploy/local/ports.ts'
import { startRedis } from '../../deploy/local/redis-server.ts'
import { CONTAINER_MEMORY } from '../faults/program.ts'
import { newSecrets } from '../faults/stand.ts'
import type { Wechat } from '../faults/wechat.ts'
import type { Closing } from './closing.ts'
import { authRequestCommands, hasNginx, hasPhp, phpCommands } from './contenders/web-servers.ts'
import { canPin, launch, pin, scratchFile, treeOf } from './processes.ts'
import type { Launch } from './processes.ts'
import { asking, VALUE } from './requests.ts'
import type { Asking, RequestParts } from './requests.ts'
import { startSink } from './sink.ts'

interface Recipe {
  /** For the table. */
  is: string
  /** A file of the repository that Node runs, or the commands of something else. */
  start: string | ((env: Readonly<Record<string, string>>) => Pick<Launch, 'command'>[])
  usesRedis?: boolean
  env?: Readonly<Record<string, string>>
  /** Share of its requests that is traced. */
  traced?: string
  /** Some of a right answer to a login. */
  loginContains?: string
  /** Why it cannot be had on this machine; undefined: it can. */
  absent?: () => string | undefined
}

const OPENID = '"openid":"o'
const GATEWAY = { start: 'src/main.ts', usesRedis: true, loginContains: '"token":"wxs_' } as const

const RECIPES = {
  gateway: { is: 'this gateway', ...GATEWAY },
  'gateway-cache': {
    is: 'this gateway, SESSION_CACHE_SECONDS=1',
    ...GATEWAY,
    env: { SESSION_CACHE_SECONDS: '1' },
  },
  'gateway-512mb': {
    is: 'this gateway with the heap that Node takes in a container of 512 MB',
    ...GATEWAY,
    env: CONTAINER_MEMORY,
  },
  'gateway-traced-1': { is: 'this gateway, 1 % of its requests traced', ...GATEWAY, traced: '0.01' },
  'gateway-traced': { is: 'this gateway, all requests traced', ...GATEWAY, traced: '1' },
  bare: { is: 'bare Fastify', start: 'test/bench/contenders/bare.ts', loginContains: '"length":32' },
  'upstream-only': {
    is: 'Fastify + undici to WeChat: the floor of a login',
    start: 'test/bench/contenders/upstream-only.ts',
    loginContains: OPENID,
  },
  day: {
    is: 'what a team writes in a day',
    start: 'test/bench/contenders/day.ts',
    usesRedis: true,
    loginContains: OPENID,
  },
  php: {
    is: 'the tutorial in PHP: nginx, php-fpm, curl; no session',
    start: phpCommands,
    loginContains: OPENID,
    absent: () => (hasPhp ? undefined : 'nginx and php-fpm are not installed'),
  },
  easywechat: {
    is: 'node-easywechat on Fastify; no session',
    start: 'test/bench/peers/easywechat.mjs',
    loginContains: OPENID,
    absent: peersAbsent,
  },
  wafer: {
    is: 'wafer-node-session on Express; sessions in memory',
    start: 'test/bench/peers/wafer.mjs',
    loginContains: '"skey":"',
    absent: peersAbsent,
  },
  'nginx-auth': {
    is: 'nginx auth_request to an nginx that says yes',
    start: authRequestCommands,
    absent: () => (hasNginx ? undefined : 'nginx is not installed'),
  },
  oidc: {
    is: 'introspection of oidc-provider; tokens in memory',
    start: 'test/bench/peers/oidc.mjs',
    absent: peersAbsent,
  },
} as const satisfies Record<string, Recipe>

export type ContenderName = keyof typeof RECIPES

/** Why a contender cannot be had on this machine; undefined: it can. */
export function absenceOf(name: ContenderName): string | undefined {
  return (RECIPES[name] as Recipe).absent?.()
}

/** What it is, in a line; undefined for a name that is none of a contender. */
export function isOf(name: string): string | undefined {
  return Object.hasOwn(RECIPES, name) ? RECIPES[name as ContenderName].is : undefined
}

function peersAbsent(): string | undefined {
  const installed = existsSync(new URL('peers/node_modules/oidc-provider', import.meta.url))
  return installed ? undefined : 'npm install --no-package-lock in test/bench/peers brings it'
}

export interface Contender {
  readonly name: ContenderName
  readonly url: string
  /** Of the gateways. */
  readonly adminUrl: string
  /** What is measured as this contender. */
  pids(): number[]
  /** Its probe (probe.ts), if it is a Node process. */
  readonly probe: string | undefined
  readonly redisUrl: string | undefined
  readonly env: Readonly<Record<string, string>>
  request(parts: RequestParts): Asking
  login(headers?: Record<string, string>, valueLength?: number): Asking
  validation(): Asking
}

/** A load from one address, users who log in often, and a machine that is busy with the load too. */
const FAR_LIMITS = {
  LIMIT_LOGIN_PER_IP: '10000000',
  LIMIT_INVALID_PER_IP: '10000000',
  LIMIT_LOGIN_PER_USER: '1000000',
  LIMIT_WRONG_TOKEN_PER_IP: '10000000',
  LIMIT_EXCHANGE_PER_APP: '10000000',
  SHED_LOOP_DELAY_MS: '10000',
  REDIS_COMMAND_TIMEOUT_MS: '2000',
  LOGIN_DEADLINE_MS: '4500',
} as const

const CODE_LENGTH = 32

export interface ContenderOptions {
  wechat: Wechat
  closing: Closing
  env?: Readonly<Record<string, string>>
  /** One that is shared with others; default: one of its own. */
  redisUrl?: string | undefined
}

/** Starts one; it ends with `closing`. */
export async function startContender(
  name: ContenderName,
  { wechat, closing, env = {}, redisUrl: sharedRedisUrl }: ContenderOptions,
): Promise<Contender> {
  const recipe: Recipe = RECIPES[name]
  const redisUrl = recipe.usesRedis ? (sharedRedisUrl ?? (await startPinnedRedis(closing))) : undefined
  const [port, adminPort] = [await freePort(), await freePort()]
  const app = wechat.apps[0]
  if (app === undefined) throw new Error('the simulator has no app')
  const probe = typeof recipe.start === 'string' ? scratchFile('probe.sock') : undefined
  const whole = {
    HOST: '127.0.0.1',
    PORT: String(port),
    ADMIN_PORT: String(adminPort),
    ...(probe === undefined ? {} : { BENCH_PROBE: probe }),
    WECHAT_APPID: app.appid,
    WECHAT_SECRET: app.secret,
    WECHAT_URL: wechat.url,
    WECHAT_API_URLS: wechat.url,
    ...newSecrets(),
    ...(redisUrl === undefined ? {} : { REDIS_URL: redisUrl }),
    ...FAR_LIMITS,
    ...recipe.env,
    ...(recipe.traced !== undefined && {
      OTEL_EXPORTER_OTLP_ENDPOINT: await startSink(closing),
      OTEL_TRACES_SAMPLER_ARG: recipe.traced,
    }),
    ...env,
  }
  const url = `http://127.0.0.1:${port}`
  const commands = typeof recipe.start === 'string' ? [{ command: [recipe.start] }] : recipe.start(whole)
  const roots: number[] = []
  for (const [at, { command }] of commands.entries()) {
    const isLast = at === commands.length - 1
    const program = await launch({
      name,
      command,
      core: 'measured',
      env: whole,
      nodeArgs: ['--import', new URL('probe.ts', import.meta.url).pathname],
      readyUrl: isLast ? url + readyPath(name) : undefined,
    })
    closing.defer(() => program.end())
    roots.push(program.pid)
  }
  const request = (parts: RequestParts) => asking({ host: '127.0.0.1', port }, parts)
  return {
    name,
    url,
    adminUrl: `http://127.0.0.1:${adminPort}`,
    pids: () => roots.flatMap(treeOf),
    probe,
    redisUrl,
    env: whole,
    request,
    login: (headers = {}, valueLength = CODE_LENGTH) =>
      request({
        method: 'POST',
        path: '/login',
        headers: { 'Content-Type': 'application/json', ...headers },
        body: `{"code":"${VALUE}"}`,
        valueLength,
        status: 200,
        contains: recipe.loginContains,
      }),
    validation: () =>
      request({ method: 'GET', path: '/auth', headers: { Authorization: `Bearer ${VALUE}` }, status: 200 }),
  }
}

function readyPath(name: ContenderName): string {
  if (name === 'oidc') return '/.well-known/openid-configuration'
  return name.startsWith('gateway') ? '/readyz' : '/livez'
}

/** A Redis that keeps nothing, beside the load. */
export async function startPinnedRedis(closing: Closing): Promise<string> {
  const redis = await startRedis({ persistent: false, allowDocker: false })
  closing.defer(() => redis.stop())
  if (redis.pid !== undefined && canPin) pin(redis.pid, 'others')
  return redis.url
}
