/**
 * Seals anew, under the first key of SEAL_KEYS, whatever an older key of the ring has sealed, while the
 * gateways go on working. A field is replaced only if it still holds what was read, so a login in between
 * counts; the hash's life is left alone. Broken off, it is simply run again: what is done is passed over.
 */
import type { Key } from '../key-ring.ts'
import { loadScript } from '../redis/scripts.ts'
import { stored } from '../redis/stored.ts'
import type { RedisClient } from '../redis/connections.ts'
import type { Keys } from '../redis/keys.ts'
import { createSeal, kidOf } from '../seal.ts'
import { readSealedHash, readSealedHashes } from './sealed-hashes.ts'
import type { SealedHash } from './sealed-hashes.ts'

/** A login that moves the key between reading and replacing makes one more attempt necessary. */
const ATTEMPTS_MAX = 5

const replaceScript = loadScript('replace-fields')

export interface ResealCounts {
  /** Users and apps that were looked at. */
  hashes: number
  /** Values sealed anew. */
  resealed: number
  /** Values that no key of the ring opens; left as they are. */
  unopened: number
  /** Values that changed each time they were about to be replaced; run it again for them. */
  left: number
}

/**
 * @param onProgress told after every batch
 * @throws {GatewayError} store_unavailable
 */
export async function reseal(
  redis: RedisClient,
  keys: Keys,
  sealKeys: readonly Key[],
  onProgress: (counts: ResealCounts) => void,
): Promise<ResealCounts> {
  const seal = createSeal(sealKeys)
  const firstKid = sealKeys[0]?.kid
  const counts: ResealCounts = { hashes: 0, resealed: 0, unopened: 0, left: 0 }

  for await (const batch of readSealedHashes(redis, keys)) {
    await Promise.all(batch.map(resealHash))
    counts.hashes += batch.length
    onProgress(counts)
  }
  return counts

  async function resealHash(hash: SealedHash): Promise<void> {
    let current: SealedHash | undefined = hash
    for (let attempt = 1; current !== undefined; attempt += 1) {
      const { replacements, unopened } = replacementsFor(current)
      const wanted = replacements.length / 3
      const replaced =
        wanted === 0 ? 0 : Number(await stored(replaceScript(redis, [current.key], replacements)))
      counts.resealed += replaced
      const last = replaced === wanted || attempt === ATTEMPTS_MAX
      if (last) {
        counts.unopened += unopened
        counts.left += wanted - replaced
        return
      }
      current = await readSealedHash(redis, hash.kind, hash.key)
    }
  }

  function replacementsFor({ sealed }: SealedHash) {
    let unopened = 0
    const replacements: (string | Buffer)[] = []
    for (const { name, envelope, place } of sealed) {
      if (kidOf(envelope) === firstKid) continue
      const plaintext = seal.unseal(envelope, place)
      if (plaintext === undefined) unopened += 1
      else replacements.push(name, envelope, seal.seal(plaintext, place))
    }
    return { replacements, unopened }
  }
}
