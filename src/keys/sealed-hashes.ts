/** Everything in Redis that is sealed with SEAL_KEYS, or named by TOKEN_KEYS, hash by hash. */
import { placeOf } from '../apps.ts'
import { scanKeys } from '../redis/connections.ts'
import { stored } from '../redis/stored.ts'
import type { RedisClient } from '../redis/connections.ts'
import type { Keys } from '../redis/keys.ts'
import type { SealedPlace } from '../seal.ts'

/** A user, or an app that was added at run time. */
export interface SealedHash {
  kind: 'user' | 'app'
  key: string
  fields: Readonly<Record<string, Buffer>>
  /** Those of its fields that are sealed. */
  sealed: readonly SealedField[]
}

export interface SealedField {
  name: string
  envelope: Buffer
  place: SealedPlace
}

const SEALED_FIELDS = { user: ['k', 'p'], app: ['secret', 'previous', 'push'] } as const

/**
 * All of them, in batches that Redis does not notice. What is there from beginning to end comes at least
 * once, and at times twice; what comes or goes meanwhile may be missed.
 * @throws {GatewayError} store_unavailable
 */
export async function* readSealedHashes(redis: RedisClient, keys: Keys): AsyncGenerator<SealedHash[]> {
  for (const appid of await stored(redis.hkeys(keys.apps))) {
    const app = await readSealedHash(redis, 'app', keys.app(appid))
    if (app) yield [app]
  }
  for await (const batch of scanKeys(redis, keys.user('*'))) {
    const users = await Promise.all(batch.map((key) => readSealedHash(redis, 'user', key)))
    yield users.filter((user) => user !== undefined)
  }
}

/** One of them; undefined when it is there no longer. @throws {GatewayError} store_unavailable */
export async function readSealedHash(
  redis: RedisClient,
  kind: SealedHash['kind'],
  key: string,
): Promise<SealedHash | undefined> {
  const fields = await stored(redis.hgetallBuffer(key))
  if (Object.keys(fields).length === 0) return undefined
  const sealed = SEALED_FIELDS[kind].flatMap((name) => {
    const envelope = fields[name]
    if (envelope === undefined) return []
    const place = kind === 'user' ? userPlace(key, fields) : appPlace(key, name)
    return [{ name, envelope, place }]
  })
  return { kind, key, fields, sealed }
}

function appPlace(key: string, name: string): SealedPlace {
  return placeOf(key.slice(key.lastIndexOf(':') + 1), name === 'push' ? 'push' : 'AppSecret')
}

/** user:{<sub>}, and the appid in it. */
function userPlace(key: string, fields: Record<string, Buffer>): SealedPlace {
  return { appid: fields['a']?.toString() ?? '', sub: key.slice(key.lastIndexOf('{') + 1, -1) }
}
