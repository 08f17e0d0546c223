/**
 * Randomness by seed, so that a run of the simulator can be repeated.
 *
 * The generator is sfc32 (Chris Doty-Humphrey, PractRand), seeded from SHA-256 of a text. Each purpose
 * draws from a stream of its own (`createRandom(seed, 'codes')`), so that adding a fault rule does not
 * change which codes are issued. Nothing here is fit for secrets; a simulator has none.
 */
import { createHash } from 'node:crypto'

/** A seeded stream of random values. */
export interface Random {
  /** A number in [0, 1). */
  fraction(): number
  /** `length` characters of `alphabet`. */
  text(alphabet: string, length: number): string
  /** `length` random bytes. */
  bytes(length: number): Buffer
}

export const ALPHANUMERIC = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'
export const BASE64URL = `${ALPHANUMERIC}-_`
export const HEX = '0123456789abcdef'
export const DIGITS = '0123456789'

/** A stream that depends on the seed and the purpose only. */
export function createRandom(seed: string, purpose: string): Random {
  const start = createHash('sha256').update(`${seed}\0${purpose}`).digest()
  let a = start.readInt32LE(0)
  let b = start.readInt32LE(4)
  let c = start.readInt32LE(8)
  let counter = start.readInt32LE(12)

  function next(): number {
    const sum = (((a + b) | 0) + counter) | 0
    counter = (counter + 1) | 0
    a = b ^ (b >>> 9)
    b = (c + (c << 3)) | 0
    c = (c << 21) | (c >>> 11)
    c = (c + sum) | 0
    return sum >>> 0
  }

  const fraction = (): number => next() / 2 ** 32

  return {
    fraction,
    text(alphabet, length) {
      // A buffer, because a string grown by one character at a time stays a chain of pieces in memory.
      const characters = Buffer.allocUnsafe(length)
      for (let index = 0; index < length; index++) {
        characters[index] = alphabet.charCodeAt(Math.floor(fraction() * alphabet.length))
      }
      return characters.toString('latin1')
    },
    bytes(length) {
      const bytes = Buffer.allocUnsafe(length)
      for (let index = 0; index < length; index++) bytes[index] = next() & 0xff
      return bytes
    },
  }
}

/** A text of 27 base64url characters that depends on the seed and the parts only; used for stable openids. */
export function derive(seed: string, ...parts: string[]): string {
  return createHash('sha256')
    .update([seed, ...parts].join('\0'))
    .digest('base64url')
    .slice(0, 27)
}
