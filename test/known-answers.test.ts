/**
 * Known answers (C-7 of the catalogue): the functions of this Node that tokens are made with give what their
 * standards say. AES-GCM has its vectors in seal.test.ts, what WeChat signs and encrypts in open-data.test.ts.
 */
import { createHmac, hkdfSync, randomBytes } from 'node:crypto'
import { expect, test } from 'vitest'
import { Secret } from '../src/secret.ts'
import { subjectOf } from '../src/subject.ts'
import { createTokens } from '../src/tokens.ts'

const hex = (text: string) => Buffer.from(text, 'hex')
const long = Buffer.alloc(131, 0xaa)

test.each([
  [1, Buffer.alloc(20, 0x0b), 'Hi There', 'b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7'],
  [
    2,
    Buffer.from('Jefe'),
    'what do ya want for nothing?',
    '5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843',
  ],
  [
    3,
    Buffer.alloc(20, 0xaa),
    Buffer.alloc(50, 0xdd),
    '773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe',
  ],
  [
    4,
    hex('0102030405060708090a0b0c0d0e0f10111213141516171819'),
    Buffer.alloc(50, 0xcd),
    '82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b',
  ],
  [
    6,
    long,
    'Test Using Larger Than Block-Size Key - Hash Key First',
    '60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54',
  ],
  [
    7,
    long,
    'This is a test using a larger than block-size key and a larger than block-size data. ' +
      'The key needs to be hashed before being used by the HMAC algorithm.',
    '9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2',
  ],
])('HMAC-SHA-256 gives the answer of RFC 4231 to its test case %i', (_number, key, data, expected) => {
  expect(createHmac('sha256', key).update(data).digest('hex')).toBe(expected)
})

test('HKDF-SHA-256 gives the answers of RFC 5869 to its test cases 1 and 3', () => {
  const input = Buffer.alloc(22, 0x0b)
  const derive = (salt: string, info: string) =>
    Buffer.from(hkdfSync('sha256', input, hex(salt), hex(info), 42)).toString('hex')
  expect(derive('000102030405060708090a0b0c', 'f0f1f2f3f4f5f6f7f8f9')).toBe(
    '3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865',
  )
  expect(derive('', '')).toBe(
    '8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8',
  )
})

test('a token is made as the description of src/tokens.ts promises', () => {
  const key = { kid: 't1', bytes: new Secret(randomBytes(32)) }
  const origin = { appid: 'wx0123456789abcdef', code: '0a1b2c3d4e5f6a7b', bind: 'a-bind' }
  const sub = subjectOf(origin.appid, 'o-derived')
  const derived = hkdfSync('sha256', key.bytes.reveal(), '', 'wechat-login-gateway token secret', 32)
  const mac = createHmac('sha256', Buffer.from(derived)).update(Object.values(origin).join('\0')).digest()
  expect(createTokens([key]).make(sub, origin).token).toBe(
    `wxs_${sub}${mac.subarray(0, 24).toString('base64url')}`,
  )
})
