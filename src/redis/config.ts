/** Which Redis, as the environment says it: for every process, since all of them share it. */
import type { Reading } from '../reading.ts'
import { Secret } from '../secret.ts'
import type { SettingName } from '../settings.ts'

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

/** Read by every process. */
export const SHARED_SETTINGS = [
  'REDIS_URL',
  'REDIS_SENTINELS',
  'REDIS_SENTINEL_NAME',
  'REDIS_CLUSTER',
  'REDIS_USERNAME',
  'REDIS_PASSWORD',
  'REDIS_COMMAND_TIMEOUT_MS',
  'KEY_PREFIX',
  'LOG_LEVEL',
] as const satisfies readonly SettingName[]

type SharedSetting = (typeof SHARED_SETTINGS)[number]

/** undefined when there is none; then there is a fault that says so. */
export function redisConfig({ values, faults, isMissing }: Reading<SharedSetting>): RedisConfig | undefined {
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
  if (isMissing('REDIS_URL') && isMissing('REDIS_SENTINELS') && isMissing('REDIS_CLUSTER'))
    faults.push('REDIS_URL is missing (or REDIS_SENTINELS, or REDIS_CLUSTER)')
  if (target === undefined) return undefined
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
