/** Sealing: what was sealed opens where it belongs, and nothing else opens at all. */
import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto'
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { Key } from '../src/config.ts'
import { createSeal, SEALS_ALARM, SEALS_MAX } from '../src/seal.ts'
import type { SealedPlace } from '../src/seal.ts'
import { Secret } from '../src/secret.ts'

const SESSION_KEY = Buffer.from('tiihtNczf5v6AKRyjwEUhQ==', 'base64')
const PLACE: SealedPlace = { appid: 'wx0123456789abcdef', sub: 'AAAAAAAAAAAAAAAAAAAAAA' }
const TAG_BYTES = 16

function newKey(kid: string): Key {
  return { kid, bytes: new Secret(randomBytes(32)) }
}

const bytes = (maxLength: number) => fc.uint8Array({ maxLength }).map((array) => Buffer.from(array))
const kids = fc.stringMatching(/^[A-Za-z0-9]{1,8}$/)
/** As they occur: the alphabets of config.ts and subject.ts. */
const places = fc.record({
  appid: fc.stringMatching(/^[A-Za-z0-9_-]{4,64}$/),
  sub: fc.stringMatching(/^[A-Za-z0-9_-]{22}$/),
})

describe('an envelope', () => {
  test('opens to what was sealed, whatever that was, with any kid', () => {
    fc.assert(
      fc.property(bytes(256), kids, places, (plaintext, kid, place) => {
        const seal = createSeal([newKey(kid)])
        expect(seal.unseal(seal.seal(plaintext, place), place)).toEqual(plaintext)
      }),
    )
  })

  // Redis keeps a hash in its compact form only while no value is longer than this.
  test('of a session_key has at most 64 bytes, also with the longest kid', () => {
    const envelope = createSeal([newKey('k2345678')]).seal(SESSION_KEY, PLACE)
    expect(envelope.length).toBeLessThanOrEqual(64)
  })

  test('has the form that its description promises, read here with node:crypto alone', () => {
    const key = newKey('s1')
    const envelope = createSeal([key]).seal(SESSION_KEY, PLACE)

    expect(envelope.subarray(0, 4)).toEqual(Buffer.from('\x01\x02s1', 'latin1'))
    const decipher = createDecipheriv('aes-256-gcm', key.bytes.reveal(), envelope.subarray(4, 16), {
      authTagLength: TAG_BYTES,
    })
    decipher.setAAD(Buffer.from(`1\0s1\0${PLACE.appid}\0${PLACE.sub}`))
    decipher.setAuthTag(envelope.subarray(-TAG_BYTES))
    const plaintext = Buffer.concat([decipher.update(envelope.subarray(16, -TAG_BYTES)), decipher.final()])
    expect(plaintext).toEqual(SESSION_KEY)
  })

  // failures.md C-1; NIST SP 800-38D §8.3.
  test('raises the alarm once, at 2^31 of one process, and at 2^32 there is none any more', () => {
    const alarms: string[] = []
    const observer = { onSeal() {}, onAlarm: (kid: string) => alarms.push(kid) }
    const halfway = createSeal([newKey('s2'), newKey('s1')], observer, SEALS_ALARM - 2)
    halfway.seal(SESSION_KEY, PLACE)
    expect(alarms).toEqual([])
    for (let i = 0; i < 3; i += 1) halfway.seal(SESSION_KEY, PLACE)
    expect(alarms).toEqual(['s2'])

    const ring = [newKey('s2'), newKey('s1')]
    const last = createSeal(ring, observer, SEALS_MAX - 1)
    const envelope = last.seal(SESSION_KEY, PLACE)
    for (let i = 0; i < 2; i += 1) {
      expect(() => last.seal(SESSION_KEY, PLACE)).toThrow(
        expect.objectContaining({ code: 'seal_exhausted', status: 503 }),
      )
    }
    expect(last.unseal(envelope, PLACE)).toEqual(SESSION_KEY) // who is logged in stays so
    expect(createSeal(ring.toReversed(), observer).seal(SESSION_KEY, PLACE)).toBeDefined()
    expect([SEALS_ALARM, SEALS_MAX]).toEqual([2_147_483_648, 4_294_967_296])
  })

  test('shows nothing of the session_key, and never uses a nonce twice', () => {
    const seal = createSeal([newKey('s1')])
    const envelopes = Array.from({ length: 2_000 }, () => seal.seal(SESSION_KEY, PLACE))

    expect(envelopes.some((envelope) => envelope.includes(SESSION_KEY))).toBe(false)
    const nonces = envelopes.map((envelope) => envelope.subarray(4, 16).toString('hex'))
    expect(new Set(nonces).size).toBe(nonces.length)
  })
})

describe('an envelope that was tampered with', () => {
  // The second key's kid is one bit away from the first's, so that a flipped kid names a key too.
  const ring = [newKey('a1'), newKey('a3')]
  const seal = createSeal(ring)
  const envelope = seal.seal(SESSION_KEY, PLACE)

  test('does not open, whichever bit was flipped', () => {
    for (let bit = 0; bit < envelope.length * 8; bit += 1) {
      const flipped = Buffer.from(envelope)
      flipped.writeUInt8(flipped.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3)
      expect(seal.unseal(flipped, PLACE), `bit ${bit}`).toBeUndefined()
    }
  })

  test.each([4, 8, 12])('does not open with a tag cut to %i bytes', (tagBytes) => {
    expect(seal.unseal(envelope.subarray(0, tagBytes - TAG_BYTES), PLACE)).toBeUndefined()
  })

  test('does not open at any shorter length, down to nothing', () => {
    for (let length = 0; length < envelope.length; length += 1) {
      expect(seal.unseal(envelope.subarray(0, length), PLACE), `${length} bytes`).toBeUndefined()
    }
  })

  test('does not open when anything was added, at either end', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 1, maxLength: 64 }), (added) => {
        expect(seal.unseal(Buffer.concat([envelope, added]), PLACE)).toBeUndefined()
        expect(seal.unseal(Buffer.concat([added, envelope]), PLACE)).toBeUndefined()
      }),
    )
  })

  test('does not open when it was made up, and never throws', () => {
    const header = Buffer.from('\x01\x02a1', 'latin1')
    fc.assert(
      fc.property(bytes(80), (madeUp) => {
        expect(seal.unseal(madeUp, PLACE)).toBeUndefined()
        expect(seal.unseal(Buffer.concat([header, madeUp]), PLACE)).toBeUndefined()
      }),
    )
  })
})

describe('an envelope in another place', () => {
  const seal = createSeal([newKey('s1')])

  test('does not open for any other user or app', () => {
    fc.assert(
      fc.property(places, places, (home, other) => {
        fc.pre(home.appid !== other.appid || home.sub !== other.sub)
        const envelope = seal.seal(SESSION_KEY, home)
        expect(seal.unseal(envelope, other)).toBeUndefined()
        expect(seal.unseal(envelope, { ...home, sub: `${other.sub}x` })).toBeUndefined()
        expect(seal.unseal(envelope, { ...home, appid: `${other.appid}x` })).toBeUndefined()
      }),
    )
  })

  test('does not open where appid and sub run together to the same text', () => {
    const text = 'wx0123456789abcdefAAAAAAAAAAAAAAAAAAAAAA'
    const cut = (at: number): SealedPlace => ({ appid: text.slice(0, at), sub: text.slice(at) })
    const envelope = seal.seal(SESSION_KEY, cut(18))
    for (let at = 0; at <= text.length; at += 1) {
      expect(seal.unseal(envelope, cut(at)) === undefined, `cut at ${at}`).toBe(at !== 18)
    }
  })
})

describe('rotation', () => {
  const [old, fresh] = [newKey('s1'), newKey('s2')]
  const sealedBefore = createSeal([old]).seal(SESSION_KEY, PLACE)

  test('a key that is no longer the first still opens what it sealed', () => {
    expect(createSeal([fresh, old]).unseal(sealedBefore, PLACE)).toEqual(SESSION_KEY)
  })

  test('the first key seals: a ring without the others opens it', () => {
    const envelope = createSeal([fresh, old]).seal(SESSION_KEY, PLACE)
    expect(createSeal([fresh]).unseal(envelope, PLACE)).toEqual(SESSION_KEY)
  })

  test('what a retired key sealed does not open, and that is no error', () => {
    expect(createSeal([fresh]).unseal(sealedBefore, PLACE)).toBeUndefined()
  })

  test('a new key under an old kid does not open what the old one sealed', () => {
    expect(createSeal([newKey('s1')]).unseal(sealedBefore, PLACE)).toBeUndefined()
  })

  test('a ring without a key is a fault of the program', () => {
    expect(() => createSeal([])).toThrow(TypeError)
  })
})

/** McGrew and Viega, "The Galois/Counter Mode of Operation (GCM)", submitted to NIST: test case 16. */
const VECTOR = {
  key: 'feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308',
  nonce: 'cafebabefacedbaddecaf888',
  additional: 'feedfacedeadbeeffeedfacedeadbeefabaddad2',
  plaintext:
    'd9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72' +
    '1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39',
  ciphertext:
    '522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa' +
    '8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662',
  tag: '76fc6ece0f4e1768cddf8853bb2d551b',
} as const

function hex(field: keyof typeof VECTOR): Buffer {
  return Buffer.from(VECTOR[field], 'hex')
}

describe('AES-256-GCM of this Node, as src/seal.ts uses it', () => {
  test('gives the published ciphertext and tag', () => {
    const cipher = createCipheriv('aes-256-gcm', hex('key'), hex('nonce'), { authTagLength: TAG_BYTES })
    cipher.setAAD(hex('additional'))
    const ciphertext = Buffer.concat([cipher.update(hex('plaintext')), cipher.final()])

    expect(ciphertext.toString('hex')).toBe(VECTOR.ciphertext)
    expect(cipher.getAuthTag().toString('hex')).toBe(VECTOR.tag)
  })

  // Without authTagLength Node takes the first 4 bytes of a tag for a tag.
  test.each([0, 4, 8, 12, 15])('takes no tag of %i bytes, because the length is demanded', (tagBytes) => {
    const decipher = createDecipheriv('aes-256-gcm', hex('key'), hex('nonce'), { authTagLength: TAG_BYTES })
    expect(() => decipher.setAuthTag(hex('tag').subarray(0, tagBytes))).toThrow(/tag/i)
  })
})
