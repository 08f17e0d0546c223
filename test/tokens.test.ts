/** Tokens: derived, not stored. Equal origins give equal tokens, everything else gives others. */
import { createHash, randomBytes } from 'node:crypto'
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { Key } from '../src/config.ts'
import { Secret } from '../src/secret.ts'
import { subjectOf } from '../src/subject.ts'
import { createTokens } from '../src/tokens.ts'
import type { TokenOrigin } from '../src/tokens.ts'
import { newKey as newRingEntry } from './harness/environment.ts'
import type { TestEnvironment } from './harness/environment.ts'
import { startHarness } from './harness/gateway.ts'

function newKey(kid: string): Key {
  return { kid, bytes: new Secret(randomBytes(32)) }
}

const SUB = subjectOf('wx0123456789abcdef', 'o-alice')
const ORIGIN: TokenOrigin = { appid: 'wx0123456789abcdef', code: '0a1b2c3d4e5f6a7b8c9d', bind: 'a-bind' }

/** As they occur: the alphabets of http/login-routes.ts and http/client.ts. */
const origins = fc.record({
  appid: fc.stringMatching(/^[A-Za-z0-9_-]{4,64}$/),
  code: fc.stringMatching(/^[A-Za-z0-9_-]{16,128}$/),
  bind: fc.stringMatching(/^[A-Za-z0-9_-]{43}$/),
})
const subs = fc.uint8Array({ minLength: 16, maxLength: 16 }).map((b) => Buffer.from(b).toString('base64url'))

const secretOf = (token: string) => token.slice(-32)

describe('a token', () => {
  const tokens = createTokens([newKey('t1')])

  test('is the same for the same login, in every process that has the key', () => {
    const key = newKey('t1')
    fc.assert(
      fc.property(subs, origins, (sub, origin) => {
        expect(createTokens([key]).make(sub, origin)).toEqual(createTokens([key]).make(sub, { ...origin }))
      }),
    )
  })

  test('is another for every other code, app, client or key', () => {
    const others: TokenOrigin[] = [
      { ...ORIGIN, code: `${ORIGIN.code}0` },
      { ...ORIGIN, appid: 'wxffffffffffffffff' },
      { ...ORIGIN, bind: 'another-bind' },
    ]
    const made = [ORIGIN, ...others].map((origin) => tokens.make(SUB, origin))
    made.push(createTokens([newKey('t1')]).make(SUB, ORIGIN))

    expect(new Set(made.map(({ token }) => secretOf(token))).size).toBe(made.length)
    expect(new Set(made.map(({ field }) => field)).size).toBe(made.length)
  })

  test('is another for origins that run together to the same text', () => {
    fc.assert(
      fc.property(fc.stringMatching(/^[A-Za-z0-9_-]{8,60}$/), fc.nat(), fc.nat(), (text, first, second) => {
        const cut = (at: number) => ({ appid: text.slice(0, at), code: text.slice(at), bind: 'b' })
        const cutBehind = (at: number) => ({ appid: 'a', code: text.slice(0, at), bind: text.slice(at) })
        const [one, other] = [first % text.length, second % text.length]
        fc.pre(one !== other)
        expect(tokens.make(SUB, cut(one)).token).not.toBe(tokens.make(SUB, cut(other)).token)
        expect(tokens.make(SUB, cutBehind(one)).token).not.toBe(tokens.make(SUB, cutBehind(other)).token)
      }),
    )
  })

  test('names its subject, and is read back to the field under which its session stands', () => {
    fc.assert(
      fc.property(subs, origins, (sub, origin) => {
        const { token, field } = tokens.make(sub, origin)
        expect(token).toMatch(/^wxs_[A-Za-z0-9_-]{54}$/)
        expect(tokens.read(token)).toEqual({ sub, fields: [field] })
      }),
    )
  })

  test('does not follow from its field: the field neither holds the secret nor a part of it', () => {
    fc.assert(
      fc.property(subs, origins, (sub, origin) => {
        const { token, field } = tokens.make(sub, origin)
        const hash = field.slice(field.lastIndexOf(':') + 1)
        expect(field).toMatch(/^t1:[A-Za-z0-9_-]{22}$/)
        for (let at = 0; at + 8 <= hash.length; at += 1) expect(token).not.toContain(hash.slice(at, at + 8))
      }),
    )
  })

  // Redis keeps a hash in its compact form only while no field is longer than this.
  test('has a field of at most 64 bytes, also with the longest kid', () => {
    const { field } = createTokens([newKey('t2345678')]).make(SUB, ORIGIN)
    expect(field.length).toBeLessThanOrEqual(64)
  })
})

describe('what is no token', () => {
  const tokens = createTokens([newKey('t1')])
  const { token } = tokens.make(SUB, ORIGIN)
  const foreign = fc.string({ minLength: 1, maxLength: 1, unit: 'binary' }).filter((c) => !/[\w-]/.test(c))

  test('is not read, whatever it is', () => {
    fc.assert(
      fc.property(fc.string({ maxLength: 300, unit: 'binary' }), (text) => {
        expect(tokens.read(text)).toBeUndefined()
      }),
    )
  })

  test('is not read when a token was cut, lengthened, or had a character replaced by a foreign one', () => {
    fc.assert(
      fc.property(fc.nat(token.length - 1), foreign, (at, character) => {
        expect(tokens.read(token.slice(0, at))).toBeUndefined()
        expect(tokens.read(token.slice(at + 1))).toBeUndefined()
        expect(tokens.read(token + token.slice(at))).toBeUndefined()
        expect(tokens.read(token + character)).toBeUndefined()
        expect(tokens.read(character + token)).toBeUndefined()
        expect(tokens.read(token.slice(0, at) + character + token.slice(at + 1))).toBeUndefined()
      }),
    )
  })

  test.each(['\n', ' ', '\0', '='])('is not read with %j behind it', (added) => {
    expect(tokens.read(token + added)).toBeUndefined()
  })

  test('may look like one and then leads to a field that nobody made', () => {
    const [last = ''] = token.slice(-1)
    const guess = token.slice(0, -1) + (last === 'A' ? 'B' : 'A')
    expect(tokens.read(guess)?.fields).not.toEqual(tokens.read(token)?.fields)
  })
})

describe('rotation', () => {
  const [old, fresh] = [newKey('t1'), newKey('t2')]
  const made = createTokens([old]).make(SUB, ORIGIN)
  const rotated = createTokens([fresh, old])

  test('the first key makes, and every key is looked for, the newest first', () => {
    expect(rotated.makingKid).toBe('t2')
    const { token, field } = rotated.make(SUB, ORIGIN)
    expect(token).not.toBe(made.token)
    expect(rotated.read(token)?.fields[0]).toBe(field)
    expect(rotated.read(made.token)?.fields[1]).toBe(made.field)
  })

  test('a retry of a login from before finds its token again by the kid', () => {
    expect(rotated.remake(SUB, ORIGIN, 't1')).toEqual(made)
  })

  test('a retired key makes and finds nothing, and that is no error', () => {
    const retired = createTokens([fresh])
    expect(retired.remake(SUB, ORIGIN, 't1')).toBeUndefined()
    expect(retired.read(made.token)?.fields).not.toContain(made.field)
  })

  test('of both rings logs nobody out while the old keys are there, and is a clean 401 afterwards', async () => {
    const [s1, s2, t1, t2] = ['s1', 's2', 't1', 't2'].map(newRingEntry)
    const one = await startHarness({ env: { SEAL_KEYS: `${s1}`, TOKEN_KEYS: `${t1}` } })
    const { body } = await one.login({ code: one.wechat.issueCode().code })
    const next = (rings: TestEnvironment) =>
      startHarness({ wechat: one.wechat, env: { ...one.env, ...rings } })

    const both = await next({ SEAL_KEYS: `${s2},${s1}`, TOKEN_KEYS: `${t2},${t1}` })
    expect((await both.get('/session', body.token)).status).toBe(200)
    const retired = await next({ SEAL_KEYS: `${s2}`, TOKEN_KEYS: `${t2}` })
    const refused = await retired.get('/session', body.token)
    expect(refused.status).toBe(401)
    expect(refused.body).toMatchObject({ code: 'session_invalid', retry: 'new_code' })
  })

  test('a ring without a key is a fault of the program', () => {
    expect(() => createTokens([])).toThrow(TypeError)
  })
})

/** A fingerprint has three bytes only, so that of keys drawn anew each run two would be equal now and then. */
const fixed = (seed: string) => createHash('sha256').update(seed).digest()
const tokensOf = (seed: string) => createTokens([{ kid: 't1', bytes: new Secret(fixed(seed)) }])

describe('the fingerprint of a session_key', () => {
  test('is equal for equal keys, another for others, and depends on the token key', () => {
    const sessionKeys = Array.from({ length: 100 }, (_, index) => fixed(`key ${index}`).subarray(0, 16))
    const fingerprints = sessionKeys.map((key) => tokensOf('one').fingerprint(key))

    expect(sessionKeys.map((key) => tokensOf('one').fingerprint(Buffer.from(key)))).toEqual(fingerprints)
    expect(new Set(fingerprints).size).toBe(sessionKeys.length)
    expect(sessionKeys.map((key) => tokensOf('two').fingerprint(key))).not.toEqual(fingerprints)
  })
})

describe('the subject of a user', () => {
  // Sessions, queues and the operator's own tables hang on it: it must never change between versions.
  test('stays what it has always been', () => {
    expect(subjectOf('wx0123456789abcdef', 'oAbCdEfGhIjKlMnOpQrStUvWxYz0')).toBe('y2BJIaTaulwEU5Viw01i6A')
  })

  test('is 22 characters that fit a Redis hash tag, a header and an address', () => {
    fc.assert(
      fc.property(fc.string(), fc.string(), (appid, openid) => {
        expect(subjectOf(appid, openid)).toMatch(/^[A-Za-z0-9_-]{22}$/)
      }),
    )
  })

  test('is another for every other user or app, also where appid and openid run together to the same text', () => {
    fc.assert(
      fc.property(fc.stringMatching(/^[\x21-\x7e]{2,80}$/), (text) => {
        const subjects = Array.from({ length: text.length + 1 }, (_, at) =>
          subjectOf(text.slice(0, at), text.slice(at)),
        )
        expect(new Set(subjects).size).toBe(subjects.length)
      }),
    )
  })
})
