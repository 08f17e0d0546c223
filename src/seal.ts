/**
 * Seals session_key for Redis: AES-256-GCM under a ring of keys. The first key seals, all of them open, so
 * keys rotate without logging anyone out.
 *
 * Envelope, at most 64 bytes so that Redis keeps the user's hash in its compact form:
 *
 *   1 byte version | 1 byte length of kid | kid | 12 bytes nonce | ciphertext | 16 bytes tag
 *
 * The additional data binds an envelope to its place (version, kid, appid, sub): moved to another user or
 * app it does not open.
 *
 * Nonces are random, so one key must not seal more than 2^32 times in its life, by all gateways together
 * (NIST SP 800-38D §8.3). A process counts for itself: at 2^31 it raises the alarm, and at 2^32 it seals no more
 * with that key. The sum over all gateways and restarts is Prometheus' to watch: seals_total. At 100 logins a second
 * 2^31 is 248 days.
 */
import { createCipheriv, createDecipheriv, randomFillSync } from 'node:crypto'
import type { Key } from './config.ts'
import { GatewayError } from './errors.ts'

const VERSION = 1
const ALGORITHM = 'aes-256-gcm'
const NONCE_BYTES = 12
/** Given explicitly when opening: Node accepts tags cut to 4 bytes otherwise. */
const TAG_BYTES = 16
/** Times that one key may seal. */
export const SEALS_MAX = 2 ** 32
/** Half of them are left: time to rotate. */
export const SEALS_ALARM = 2 ** 31

/** Where a sealed value belongs. */
export interface SealedPlace {
  appid: string
  sub: string
}

export interface Seal {
  /** @throws {GatewayError} seal_exhausted, when the key has sealed as often as it may */
  seal(plaintext: Buffer, place: SealedPlace): Buffer
  /** `undefined`: it was not sealed here, for this place, by a key that is still in the ring. */
  unseal(envelope: Buffer, place: SealedPlace): Buffer | undefined
}

export interface SealObserver {
  onSeal(kid: string): void
  /** Half of what the key may seal has been sealed by this process: told once. */
  onAlarm(kid: string): void
}

/**
 * @param keys at least one; the first seals
 * @param sealedBefore how often the first has sealed in this process's life: of tests, which cannot wait for 2^31
 */
export function createSeal(
  keys: readonly Key[],
  observer: SealObserver = { onSeal() {}, onAlarm() {} },
  sealedBefore = 0,
): Seal {
  const ring = new Map(keys.map((key) => [key.kid, key.bytes.reveal()]))
  const [first] = keys
  if (first === undefined) throw new TypeError('a seal needs a key')
  const sealing = { kid: first.kid, key: first.bytes.reveal() }
  let seals = sealedBefore

  return {
    seal(plaintext, place) {
      // Better no login than a nonce that repeats: two equal ones give away what was sealed, and the key's secret.
      if (seals >= SEALS_MAX) throw new GatewayError('seal_exhausted')
      seals += 1
      if (seals === SEALS_ALARM) observer.onAlarm(sealing.kid)
      const nonce = nextNonce()
      const cipher = createCipheriv(ALGORITHM, sealing.key, nonce, { authTagLength: TAG_BYTES })
      cipher.setAAD(additionalData(sealing.kid, place))
      const kid = Buffer.from(sealing.kid)
      const ciphertext = Buffer.concat([cipher.update(plaintext), cipher.final()])
      observer.onSeal(sealing.kid)
      return Buffer.concat([Buffer.from([VERSION, kid.length]), kid, nonce, ciphertext, cipher.getAuthTag()])
    },

    unseal(envelope, place) {
      const kidEnd = 2 + (envelope[1] ?? 0)
      if (envelope[0] !== VERSION || envelope.length < kidEnd + NONCE_BYTES + TAG_BYTES) return undefined
      const kid = envelope.toString('latin1', 2, kidEnd)
      const key = ring.get(kid)
      if (key === undefined) return undefined
      const nonceEnd = kidEnd + NONCE_BYTES
      const tagStart = envelope.length - TAG_BYTES
      const decipher = createDecipheriv(ALGORITHM, key, envelope.subarray(kidEnd, nonceEnd), {
        authTagLength: TAG_BYTES,
      })
      decipher.setAAD(additionalData(kid, place))
      decipher.setAuthTag(envelope.subarray(tagStart))
      try {
        return Buffer.concat([decipher.update(envelope.subarray(nonceEnd, tagStart)), decipher.final()])
      } catch {
        return undefined // the tag does not match: not ours, or tampered with; the caller needs no more
      }
    },
  }
}

/** The kid that an envelope names; undefined when it is none. Says nothing of whether it opens. */
export function kidOf(envelope: Buffer): string | undefined {
  const kid = envelope.toString('latin1', 2, 2 + (envelope[1] ?? 0))
  return envelope[0] === VERSION && /^[A-Za-z0-9]{1,8}$/.test(kid) ? kid : undefined
}

/** Random bytes are drawn for many nonces at once, since the asking is dearer than the bytes. None is used twice. */
const nonces = Buffer.alloc(NONCE_BYTES * 256)
let noncesUsedBytes = nonces.length

function nextNonce(): Buffer {
  if (noncesUsedBytes === nonces.length) {
    randomFillSync(nonces)
    noncesUsedBytes = 0
  }
  noncesUsedBytes += NONCE_BYTES
  return nonces.subarray(noncesUsedBytes - NONCE_BYTES, noncesUsedBytes)
}

function additionalData(kid: string, { appid, sub }: SealedPlace): Buffer {
  return Buffer.from(`${VERSION}\0${kid}\0${appid}\0${sub}`)
}
