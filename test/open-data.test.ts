/** Open data and signatures, as pure functions: against the official vectors, and against everything else. */
import { createCipheriv, randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { decodeEncrypted, isSignedWith, openData, signWithSessionKey } from '../src/wechat/open-data.ts'
import { signEmpty, signFor, signingFault } from '../src/wechat/signatures.ts'
import type { SignRequest } from '../src/wechat/signatures.ts'

interface Vectors {
  openDataDecrypt: {
    appid: string
    session_key: string
    iv: string
    encryptedData: string
    plaintext: string
  }
  rawDataSignature: { rawData: string; session_key: string; sha1: string }
  sessionHmac: { session_key: string; data: string; hmac_sha256: string }[]
}
const vectors = JSON.parse(readFileSync(new URL('./wechat-vectors.json', import.meta.url), 'utf8')) as Vectors

/** From the official page of virtual payment. */
const XPAY = {
  body: '{"openid": "xxx", "user_ip": "127.0.0.1", "env": 0}',
  sessionKey: '9hAb/NEYUlkaMBEsmFgzig==',
  signature: '089d9e8dc5d308977360c4b79ec600a93d736802802a807d634192328032f6c7',
}

const bytes = (base64: string) => Buffer.from(base64, 'base64')
const APPID = 'wx0123456789abcdef'
const OPENID = 'oGZUI0egBJY1zhBYw2KhdUfwVJJE'
const NOW_SECONDS = 1_800_000_000
const EXPECTED = { appid: APPID, openid: OPENID, nowSeconds: NOW_SECONDS, maxAgeSeconds: 3_600 }

/** What WeChat would send for this content under this key; text is taken as it is. */
function encrypt(content: unknown, key: Buffer) {
  const iv = randomBytes(16)
  const cipher = createCipheriv('aes-128-cbc', key, iv)
  const text = typeof content === 'string' ? content : JSON.stringify(content)
  return { ciphertext: Buffer.concat([cipher.update(text, 'utf8'), cipher.final()]), iv }
}

const watermark = (own: Record<string, unknown> = {}) => ({
  watermark: { appid: APPID, timestamp: NOW_SECONDS, ...own },
})

describe('the official vectors', () => {
  const { appid, session_key, iv, encryptedData, plaintext } = vectors.openDataDecrypt
  const official = JSON.parse(plaintext) as { openId: string; watermark: { timestamp: number } }

  test('open data is decrypted', () => {
    const encrypted = decodeEncrypted(encryptedData, iv)
    if (encrypted === undefined) throw new Error('the vector is base64')
    const expected = {
      appid,
      openid: official.openId,
      nowSeconds: official.watermark.timestamp + 60,
      maxAgeSeconds: 3_600,
    }
    expect(openData(encrypted, [bytes(session_key)], expected)).toEqual({
      outcome: 'ok',
      data: official,
      keyIndex: 0,
    })
  })

  test('rawData is verified, in either case of its hexadecimal digits', () => {
    const { rawData, session_key: key, sha1 } = vectors.rawDataSignature
    expect(isSignedWith({ rawData, signature: sha1 }, [bytes(key)])).toBe(true)
    expect(isSignedWith({ rawData, signature: sha1.toUpperCase() }, [bytes(key)])).toBe(true)
    expect(isSignedWith({ rawData: `${rawData} `, signature: sha1 }, [bytes(key)])).toBe(false)
  })

  test.each(vectors.sessionHmac)('hmac of "$data" with the text of the key', (vector) => {
    expect(signWithSessionKey(bytes(vector.session_key), vector.data)).toBe(vector.hmac_sha256)
  })

  test('hmac of the empty text, as /wxa/checksession wants it', () => {
    const empty = vectors.sessionHmac.filter(({ data }) => data === '')
    expect(empty.map((vector) => signEmpty(bytes(vector.session_key)))).toEqual(
      empty.map((vector) => vector.hmac_sha256),
    )
  })

  test('the body of a virtual payment call is signed', () => {
    const request: SignRequest = { kind: 'virtual_payment_server', body: XPAY.body }
    expect(signingFault(request, 'xxx')).toBeUndefined()
    expect(signFor(request, bytes(XPAY.sessionKey))).toBe(XPAY.signature)
  })
})

describe('open data', () => {
  const [current, previous, older] = [randomBytes(16), randomBytes(16), randomBytes(16)] as const

  test('opens under the current key, under the one before it, and under no other', () => {
    const content = { openId: OPENID, nickName: '微信用户', ...watermark() }
    expect(openData(encrypt(content, current), [current, previous], EXPECTED)).toMatchObject({ keyIndex: 0 })
    expect(openData(encrypt(content, previous), [current, previous], EXPECTED)).toMatchObject({
      keyIndex: 1,
      data: content,
    })
    expect(openData(encrypt(content, older), [current, previous], EXPECTED)).toEqual({ outcome: 'stale' })
    expect(openData(encrypt(content, current), [], EXPECTED)).toEqual({ outcome: 'stale' })
  })

  test('whatever comes back is what was encrypted', () => {
    fc.assert(
      fc.property(fc.jsonValue(), fc.uint8Array({ minLength: 16, maxLength: 16 }), (value, key) => {
        const content = { value, ...watermark() }
        expect(openData(encrypt(content, Buffer.from(key)), [Buffer.from(key)], EXPECTED)).toEqual({
          outcome: 'ok',
          data: JSON.parse(JSON.stringify(content)),
          keyIndex: 0,
        })
      }),
    )
  })

  // The first block can be altered through the iv, which is why openId is compared. All else breaks.
  test('with any bit flipped never passes as data of another user, app or time', () => {
    const content = { openId: OPENID, ...watermark() }
    const { ciphertext, iv } = encrypt(content, current)
    const passed: Record<string, unknown>[] = []
    for (let bit = 0; bit < (ciphertext.length + iv.length) * 8; bit += 1) {
      const whole = Buffer.concat([iv, ciphertext])
      whole.writeUInt8(whole.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3)
      const flipped = { iv: whole.subarray(0, 16), ciphertext: whole.subarray(16) }
      const opened = openData(flipped, [current, previous], EXPECTED)
      if (opened.outcome === 'ok') passed.push(opened.data)
    }
    // A flip in the name "openId" makes a field that nobody asks for; the rest stays this user's own.
    for (const data of passed) expect(data).toMatchObject(watermark())
    expect(passed.filter(({ openId }) => openId !== undefined && openId !== OPENID)).toEqual([])
    expect(passed.length).toBeLessThan(128)
  })

  test('of another app or user, or without a watermark, is foreign', () => {
    const foreign = [
      watermark({ appid: 'wxffffffffffffffff' }),
      { watermark: { timestamp: NOW_SECONDS } },
      { watermark: null },
      { watermark: [APPID] },
      {},
      { ...watermark(), openId: 'somebody-else' },
      { ...watermark(), openId: null },
      watermark({ timestamp: 'now' }),
      watermark({ timestamp: undefined }),
    ]
    for (const content of foreign)
      expect(openData(encrypt(content, current), [current], EXPECTED)).toEqual({ outcome: 'foreign' })
  })

  test('has an age, to the second, and a little room for clocks that differ', () => {
    const outcomes = [-3_601, -3_600, 0, 300, 301].map((seconds) => {
      const encrypted = encrypt(watermark({ timestamp: NOW_SECONDS + seconds }), current)
      return openData(encrypted, [current], EXPECTED).outcome
    })
    expect(outcomes).toEqual(['expired', 'ok', 'ok', 'ok', 'expired'])
  })

  test('that is no JSON object is as if the key were wrong', () => {
    for (const text of ['', 'null', '[]', '"text"', '7', '{', '{"a":1}}', '\uFEFF{}'])
      expect(openData(encrypt(text, current), [current], EXPECTED)).toEqual({ outcome: 'stale' })
  })

  test('random bytes never open, never throw', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 20 }), (blocks) => {
        const encrypted = { ciphertext: randomBytes(blocks * 16), iv: randomBytes(16) }
        expect(openData(encrypted, [current, previous], EXPECTED)).toEqual({ outcome: 'stale' })
      }),
      { numRuns: 2_000 },
    )
  })

  test('is read from base64 as WeChat writes it, and from nothing else', () => {
    const { ciphertext, iv } = encrypt(watermark(), current)
    const [text, ivText] = [ciphertext.toString('base64'), iv.toString('base64')]
    expect(decodeEncrypted(text, ivText)).toEqual({ ciphertext, iv })
    const cut = ciphertext.subarray(0, -1).toString('base64')
    const faulty: [string, string][] = [
      ['', ivText],
      [text, ''],
      [cut, ivText],
      [text, iv.subarray(1).toString('base64')],
      [`${text} `, ivText],
      [text.replace(/[A-Za-z0-9]/, ' '), ivText],
      [text.replace(/^./, '-'), ivText],
      [`${text}=`, ivText],
      ['Zq9mark!', ivText],
    ]
    for (const [data, vector] of faulty) expect(decodeEncrypted(data, vector), data).toBeUndefined()
  })
})

/** The same message, as each kind. */
const requests = (message: string): SignRequest[] => [
  { kind: 'virtual_payment', signData: message },
  { kind: 'b2b_payment', signData: message },
  { kind: 'virtual_payment_server', body: message },
  { kind: 'calendar_path', path: message },
]

describe('what may be signed', () => {
  const payment = '{"offerId":"123","buyQuantity":1,"env":0,"currencyType":"CNY","outTradeNo":"a1b2c3d4"}'
  const b2b =
    '{"mchid":"1230000109","out_trade_no":"a1b2c3d4","amount":{"order_amount":100,"currency":"CNY"}}'
  const server = `{"openid":"${OPENID}","env":0}`
  const path = 'pages/event/event?id=7'
  // Otherwise a signature asked for in the name of one use would do for another.
  test.each([
    ['virtual_payment', payment],
    ['b2b_payment', b2b],
    ['virtual_payment_server', server],
    ['calendar_path', path],
    ['calendar_path', '/pages/event/event'],
  ])('a message of %s is signed as that and as nothing else', (kind, message) => {
    const accepted = requests(message).filter((request) => signingFault(request, OPENID) === undefined)
    expect(accepted.map((request) => request.kind)).toEqual([kind])
  })

  test('no text at all is taken by two kinds', () => {
    const fields = fc.dictionary(
      fc.constantFrom('offerId', 'openid', 'mchid', 'x'),
      fc.constantFrom(OPENID, '', 1),
    )
    const messages = fc.oneof(
      fc.string(),
      fields.map((value) => JSON.stringify(value)),
    )
    fc.assert(
      fc.property(messages, (message) => {
        const accepted = requests(message).filter((request) => signingFault(request, OPENID) === undefined)
        expect(accepted.length).toBeLessThanOrEqual(1)
      }),
    )
  })

  test("a server call is signed for the user it names, and for nobody else's key", () => {
    expect(signingFault({ kind: 'virtual_payment_server', body: server }, 'another')).toBeDefined()
    expect(signingFault({ kind: 'virtual_payment_server', body: '{}' }, OPENID)).toBeDefined()
  })

  test('each is signed with the text of the key, over exactly what was given', () => {
    const key = randomBytes(16)
    const signatures = [payment, b2b, server, path].map((message) => signWithSessionKey(key, message))
    expect(new Set(signatures).size).toBe(4)
    expect(signFor({ kind: 'virtual_payment', signData: payment }, key)).toBe(signatures[0])
    expect(signFor({ kind: 'b2b_payment', signData: b2b }, key)).toBe(signatures[1])
    expect(signFor({ kind: 'virtual_payment_server', body: server }, key)).toBe(signatures[2])
    expect(signFor({ kind: 'calendar_path', path }, key)).toBe(signatures[3])
  })
})
