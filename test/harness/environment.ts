/** The environment of a gateway or worker under test: its own keys, its own corner of Redis. */
import { randomBytes } from 'node:crypto'
import { inject } from 'vitest'
import type { Simulator } from '../simulator/server.ts'

export const APPID = 'wx0123456789abcdef'
export const APP_SECRET = 'c0ffee00c0ffee00c0ffee00c0ffee00'

/** Simulator settings that fit this environment. Every code brings a new session_key, for tests to tell them apart. */
export const SIMULATED = { apps: [{ appid: APPID, secret: APP_SECRET }], keyRefreshSeconds: 0 }

export type TestEnvironment = Record<string, string>

export function newKey(kid: string): string {
  return `${kid}:${randomBytes(32).toString('base64')}`
}

/** A corner of the shared Redis that no other test uses. */
export function newPrefix(): string {
  return `t${randomBytes(6).toString('hex')}:`
}

/** Limits are far away unless a test is about them. */
export function gatewayEnvironment(
  wechat: Pick<Simulator, 'url'>,
  own: TestEnvironment = {},
): TestEnvironment {
  return {
    HOST: '127.0.0.1',
    PORT: '0',
    ADMIN_PORT: '0',
    ADMIN_TOKEN: randomBytes(24).toString('base64url'),
    WECHAT_APPID: APPID,
    WECHAT_SECRET: APP_SECRET,
    WECHAT_API_URLS: wechat.url,
    REDIS_URL: inject('redisUrl'),
    // Two cores carry three gateways, the load and the stores; a slow answer is not what is tested here.
    REDIS_COMMAND_TIMEOUT_MS: '2000',
    KEY_PREFIX: newPrefix(),
    SEAL_KEYS: newKey('s1'),
    TOKEN_KEYS: newKey('t1'),
    LIMIT_LOGIN_PER_IP: '10000000',
    LIMIT_INVALID_PER_IP: '10000000',
    LIMIT_LOGIN_PER_USER: '1000000',
    LIMIT_WRONG_TOKEN_PER_IP: '10000000',
    LIMIT_TOKEN_PER_USER: '1000000',
    LIMIT_PHONE_PER_USER: '1000000',
    LIMIT_EXCHANGE_PER_APP: '10000000',
    // Tests and gateway often share a process, which is late when several of them run.
    SHED_LOOP_DELAY_MS: '60000',
    LOG_LEVEL: 'info',
    DRAIN_DELAY_MS: '0',
    ...own,
  }
}

/** A worker of the gateway with this environment. */
export function workerEnvironment(gateway: TestEnvironment, own: TestEnvironment = {}): TestEnvironment {
  const { REDIS_URL = '', KEY_PREFIX = '' } = gateway
  return { REDIS_URL, KEY_PREFIX, WORKER_PORT: '0', LOG_LEVEL: 'info', ...own }
}
