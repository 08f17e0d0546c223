/** What still hangs on each key: sealed values by the kid that sealed them, sessions by the kid that made them. */
import type { Key } from '../key-ring.ts'
import type { RedisClient } from '../redis/connections.ts'
import type { Keys } from '../redis/keys.ts'
import { createSeal, kidOf } from '../seal.ts'
import { parseSession } from '../session-value.ts'
import type { SessionLife } from '../session-value.ts'
import { readSealedHashes } from './sealed-hashes.ts'
import type { SealedHash } from './sealed-hashes.ts'

/** What one key of SEAL_KEYS has sealed. */
export interface SealUse {
  /** Users with a value that it sealed. */
  users: number
  /** Apps with a secret that it sealed. */
  apps: number
}

/** The living sessions that one key of TOKEN_KEYS has made. */
export interface TokenUse {
  sessions: number
  /** When the last of them ends at the latest, unix seconds; 0 when there is none. */
  lastEndSeconds: number
}

export interface KeyUses {
  hashes: number
  /** By kid, in the order of the ring. */
  seals: ReadonlyMap<string, SealUse>
  tokens: ReadonlyMap<string, TokenUse>
  /** Users and apps with a value that no key of the ring opens. */
  unopened: number
  /** Sessions made by keys that are not in the ring: their bearers get 401. */
  orphaned: number
}

export interface CountDeps {
  redis: RedisClient
  keys: Keys
  sealKeys: readonly Key[]
  tokenKeys: readonly Key[]
  sessionLife: SessionLife
}

/**
 * Counts; changes nothing. On a system at work the figures are good to what came and went meanwhile.
 * @param onProgress told after every batch
 * @throws {GatewayError} store_unavailable
 */
export async function countKeyUses(
  { redis, keys, sealKeys, tokenKeys, sessionLife }: CountDeps,
  nowSeconds: number,
  onProgress: (hashes: number) => void,
): Promise<KeyUses> {
  const seal = createSeal(sealKeys)
  const seals = new Map(sealKeys.map(({ kid }) => [kid, { users: 0, apps: 0 }]))
  const tokens = new Map(tokenKeys.map(({ kid }) => [kid, { sessions: 0, lastEndSeconds: 0 }]))
  let hashes = 0
  let unopened = 0
  let orphaned = 0

  for await (const batch of readSealedHashes(redis, keys)) {
    for (const hash of batch) {
      countSeals(hash)
      if (hash.kind === 'user') countSessions(hash)
    }
    hashes += batch.length
    onProgress(hashes)
  }
  return { hashes, seals, tokens, unopened, orphaned }

  function countSeals({ kind, sealed }: SealedHash): void {
    const kids = new Set<string | undefined>()
    for (const { envelope, place } of sealed) {
      // Opened, not only read: another key may have been given the name of one that was taken away.
      kids.add(seal.unseal(envelope, place) === undefined ? undefined : kidOf(envelope))
    }
    for (const kid of kids) {
      const use = kid === undefined ? undefined : seals.get(kid)
      if (use === undefined) unopened += 1
      else if (kind === 'user') use.users += 1
      else use.apps += 1
    }
  }

  function countSessions({ fields }: SealedHash): void {
    for (const [name, value] of Object.entries(fields)) {
      const colon = name.indexOf(':')
      if (colon === -1) continue
      const { expiresInSeconds, issuedAtSeconds } = parseSession(value.toString(), sessionLife, nowSeconds)
      if (expiresInSeconds <= 0) continue
      const use = tokens.get(name.slice(0, colon))
      if (use === undefined) orphaned += 1
      else {
        use.sessions += 1
        use.lastEndSeconds = Math.max(use.lastEndSeconds, issuedAtSeconds + sessionLife.maxSeconds)
      }
    }
  }
}
