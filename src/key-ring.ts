/**
 * Rings of keys: SEAL_KEYS and TOKEN_KEYS as they are written, `kid:base64 of 32 bytes, …`, and what makes a
 * key too weak to start with. The first key of a ring makes what is new, all of them open what there is.
 */
import { Secret } from './secret.ts'

/** A named symmetric key. `kid` is stored beside what the key made, so that keys can rotate. */
export interface Key {
  readonly kid: string
  readonly bytes: Secret<Buffer>
}

/** Bytes of every key. */
export const KEY_BYTES = 32
/** `npm start` marks the keys it makes, so that none of them slips into production. */
export const DEVELOPMENT_MARK = 'dev'
/** A random key of 32 bytes has fewer than 16 different bytes about once in 10^18. */
const KEY_DISTINCT_BYTES_MIN = 16
/** AES-256 key of the examples in NIST SP 800-38A; the other famous samples fall to the rules below. */
const NIST_SAMPLE = Buffer.from('603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4', 'hex')

/**
 * Reads a ring. What is wrong with it is added to `faults`, by the key's place and kid, never by its value.
 * @param name the variable, for the faults
 */
export function parseRing(
  text: string,
  { name, production, faults }: { name: string; production: boolean; faults: string[] },
): Key[] {
  const keys: Key[] = []
  for (const [index, entry] of text.split(',').entries()) {
    const where = `${name}, key ${index + 1}`
    const [, kid, encoded] = /^([A-Za-z0-9]{1,8}):([A-Za-z0-9+/_-]+=*)$/.exec(entry.trim()) ?? []
    if (kid === undefined || encoded === undefined) {
      faults.push(`${where} must be kid:base64, the kid being 1 to 8 letters and digits`)
      continue
    }
    const bytes = Buffer.from(encoded, 'base64')
    const weakness = weaknessOf(bytes)
    if (bytes.length !== KEY_BYTES)
      faults.push(`${where} (${kid}) must be ${KEY_BYTES} bytes, base64; it has ${bytes.length}`)
    else if (weakness !== undefined) faults.push(`${where} (${kid}) is not random: ${weakness}`)
    if (keys.some((key) => key.kid === kid)) faults.push(`${where} uses the kid ${kid} a second time`)
    if (production && kid.startsWith(DEVELOPMENT_MARK)) {
      faults.push(`${where} (${kid}) is a development key; NODE_ENV=production does not accept it`)
    }
    keys.push({ kid, bytes: new Secret(bytes) })
  }
  return keys
}

/**
 * Why these bytes cannot have come from a random generator; undefined when nothing speaks against it. Each
 * rule hits a random key less than once in 10^13.
 */
export function weaknessOf(bytes: Buffer): string | undefined {
  if (new Set(bytes).size < KEY_DISTINCT_BYTES_MIN) return 'too many bytes are equal'
  const half = bytes.length / 2
  if (bytes.subarray(0, half).equals(bytes.subarray(half))) return 'its two halves are equal'
  if (isProgression(bytes)) return 'its bytes follow each other in equal steps'
  if (bytes.every((byte) => byte >= 0x20 && byte < 0x7f)) return 'it is text'
  return bytes.equals(NIST_SAMPLE) ? 'it is the sample of a standard' : undefined
}

/** 00 01 02 …, ff fe fd …, and their like. */
function isProgression(bytes: Buffer): boolean {
  const stepAt = (index: number) => ((bytes[index] ?? 0) - (bytes[index - 1] ?? 0) + 256) % 256
  return [...bytes.keys()].slice(1).every((index) => stepAt(index) === stepAt(1))
}

/** One key for two purposes would let a leak of the one open the other. */
export function checkKeysDiffer(sealKeys: readonly Key[], tokenKeys: readonly Key[], faults: string[]): void {
  const all = [...sealKeys, ...tokenKeys].map((key) => key.bytes.reveal().toString('base64'))
  if (new Set(all).size < all.length) faults.push('SEAL_KEYS and TOKEN_KEYS hold the same key twice')
}
