/** What message pushes come in: WeChat's official examples, and documents that are not WeChat's. */
import { createCipheriv, randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { parseAppPush } from '../src/app-entry.ts'
import { isSigned, openEncrypted } from '../src/wechat/push-envelope.ts'
import { parsePush, pushTypeOf } from '../src/wechat/push-message.ts'
import { encryptPush, signPush } from './simulator/push-envelope.ts'

interface PushVectors {
  token: string
  encodingAESKey: string
  appid: string
  urlVerify: { timestamp: string; nonce: string; signature: string }
  plain: { timestamp: string; nonce: string; signature: string }
  safe: {
    timestamp: string
    nonce: string
    msg_signature: string
    Encrypt: string
    random16: string
    msg: string
  }
  reply: {
    random16: string
    msg: string
    TimeStamp: number
    Nonce: string
    Encrypt: string
    MsgSignature: string
  }
}
const { push: vectors } = JSON.parse(
  readFileSync(new URL('./wechat-vectors.json', import.meta.url), 'utf8'),
) as { push: PushVectors }
const { appid, token } = vectors
const push = parseAppPush({ token, aes_key: vectors.encodingAESKey })
const parse = (text: string) => parsePush(Buffer.from(text))

describe('the official examples', () => {
  test.each(['urlVerify', 'plain'] as const)('%s: the signature is right, and no other is', (name) => {
    const { timestamp, nonce, signature } = vectors[name]
    expect(isSigned(push.tokens, [timestamp, nonce], signature)).toBe(true)
    expect(isSigned(push.tokens, [nonce, timestamp], signature)).toBe(true) // they are sorted
    for (const wrong of ['', signature.slice(1), `${signature.slice(0, -1)}x`, signature.toUpperCase()])
      expect(isSigned(push.tokens, [timestamp, nonce], wrong), wrong).toBe(false)
    expect(isSigned(push.tokens, [`${timestamp}1`, nonce], signature)).toBe(false)
    expect(isSigned(parseAppPush({ token: 'BBBBB' }).tokens, [timestamp, nonce], signature)).toBe(false)
  })

  test('safe: the message is opened, whose padding is longer than a block of AES', () => {
    const { timestamp, nonce, msg_signature: signature, Encrypt: encrypt, msg } = vectors.safe
    expect(isSigned(push.tokens, [timestamp, nonce, encrypt], signature)).toBe(true)
    expect(isSigned(push.tokens, [timestamp, nonce, `${encrypt} `], signature)).toBe(false)
    expect(openEncrypted(encrypt, push.aesKeys, appid)).toEqual({ outcome: 'ok', message: Buffer.from(msg) })
    expect(openEncrypted(encrypt, push.aesKeys, 'wx0000000000000000')).toEqual({ outcome: 'foreign' })
  })

  test('the simulator encrypts and signs as WeChat does', () => {
    const seal = { appid, aesKey: vectors.encodingAESKey }
    for (const { random16, msg, Encrypt: encrypt } of [vectors.safe, vectors.reply])
      expect(encryptPush(msg, { ...seal, random16 })).toBe(encrypt)
    const { TimeStamp: timestamp, Nonce: nonce, Encrypt: encrypt, MsgSignature: signature } = vectors.reply
    expect(signPush(token, String(timestamp), nonce, encrypt)).toBe(signature)
  })
})

const ofKey = (bytes: Buffer) =>
  parseAppPush({ token, aes_key: bytes.toString('base64').slice(0, -1) }).aesKeys

const content = (length: number, padding: number, size: number) => {
  const bytes = Buffer.alloc(size, padding)
  bytes.fill('r', 0, 16)
  bytes.writeUInt32BE(length, 16)
  bytes.write('{}wx', 20)
  return bytes
}

describe('an encrypted message', () => {
  const key = randomBytes(32)
  const encrypt = (content: Buffer) => {
    const cipher = createCipheriv('aes-256-cbc', key, key.subarray(0, 16)).setAutoPadding(false)
    return Buffer.concat([cipher.update(content), cipher.final()]).toString('base64')
  }

  test('is opened by whichever key has sealed it, while it is being changed', () => {
    const sealed = encryptPush('{}', { appid, aesKey: key.toString('base64'), random16: 'r'.repeat(16) })
    const others = ofKey(randomBytes(32))
    expect(openEncrypted(sealed, [...others, ...ofKey(key)], appid).outcome).toBe('ok')
    expect(openEncrypted(sealed, [...ofKey(key), ...others], appid).outcome).toBe('ok')
    expect(openEncrypted(sealed, others, appid).outcome).not.toBe('ok')
  })

  test.each([
    ['is whole', content(2, 8, 32), 'ok'],
    ['has no padding', content(2, 0, 32), 'sealed'],
    ['is padded by more than 32', content(2, 40, 64), 'sealed'],
    [
      'has a padding of unequal bytes',
      Buffer.concat([content(2, 8, 32).subarray(0, 30), Buffer.from([7, 8])]),
      'sealed',
    ],
    ['is padded into its own head', content(0, 32, 32), 'sealed'],
    ['claims to be longer than it is', content(5, 8, 32), 'sealed'],
    ['claims to have 4 GB', content(0xffffffff, 8, 32), 'sealed'],
  ])('that %s: %s', (_what, bytes, outcome) => {
    expect(openEncrypted(encrypt(bytes), ofKey(key), 'wx').outcome).toBe(outcome)
  })

  test.each(['', '=', 'AAAA', '%%%%', `${'A'.repeat(22)}==\n`, '\u0000'.repeat(64)])('%j is none', (text) => {
    expect(openEncrypted(text, ofKey(key), appid)).toEqual({ outcome: 'sealed' })
  })
})

const sample = (elements: string) => `<xml><MsgType><![CDATA[event]]></MsgType>${elements}</xml>`

describe('a message', () => {
  test.each([
    ['XML', sample('<Event><![CDATA[user_authorization_revoke]]></Event><OpenID>o-1</OpenID>')],
    [
      'XML with blanks between',
      `\n <xml>\n <MsgType>event</MsgType>\n<Event>user_authorization_revoke</Event>\n<OpenID>o-1</OpenID></xml>\n`,
    ],
    [
      'XML with the blanks of the manual',
      sample('<Event>user_authorization_revoke</Event>< OpenID><![CDATA[ o-1]]></ OpenID>'),
    ],
    ['JSON', '{"MsgType":"event","Event":"user_authorization_revoke","OpenID":"o-1"}'],
    [
      'JSON with the blanks of the manual',
      '{"MsgType":"Event","Event":"user_authorization_revoke"," OpenID":" o-1"}',
    ],
  ])('in %s is read', (_format, text) => {
    const fields = parse(text)
    expect(fields).toMatchObject({ Event: 'user_authorization_revoke', OpenID: 'o-1' })
    expect(pushTypeOf(fields ?? {})).toBe('user_authorization_revoke')
  })

  test('is read whatever else is in it', () => {
    const list = '<List><item><OpenID>o-2</OpenID></item><item/></List><PicUrl></PicUrl><n>1</n><n>2</n>'
    expect(parse(sample(`<OpenID>o-1</OpenID>${list}`))).toMatchObject({ OpenID: 'o-1' })
    const nested = { OpenID: 'o-1', List: [{ OpenID: 'o-2' }], __proto__: null, x: { OpenID: 'o-3' } }
    expect(parse(JSON.stringify(nested))).toEqual({ OpenID: 'o-1' })
  })

  test('has the five references of XML and CDATA as they are meant', () => {
    expect(parse('<xml><OpenID>&lt;&gt;&amp;&quot;&apos;lt;</OpenID></xml>')).toEqual({ OpenID: `<>&"'lt;` })
    expect(parse('<xml><OpenID>a<![CDATA[&lt;<b>]]]]><![CDATA[>]]></OpenID></xml>')).toEqual({
      OpenID: 'a&lt;<b>]]>',
    })
  })

  const laughs = [
    '<!ENTITY a0 "ha">',
    ...Array.from({ length: 9 }, (_, n) => `<!ENTITY a${n + 1} "${`&a${n};`.repeat(10)}">`),
  ]
  test.each([
    [
      'an external entity',
      '<!DOCTYPE xml [<!ENTITY x SYSTEM "file:///etc/passwd">]><xml><OpenID>&x;</OpenID></xml>',
    ],
    ['an external DTD', '<!DOCTYPE xml SYSTEM "http://127.0.0.1/x.dtd"><xml><OpenID>o</OpenID></xml>'],
    ['a parameter entity', '<!DOCTYPE xml [<!ENTITY % x SYSTEM "http://127.0.0.1/"> %x;]><xml/>'],
    ['a billion laughs', `<!DOCTYPE xml [${laughs.join('')}]><xml><OpenID>&a9;</OpenID></xml>`],
    ['a DOCTYPE within', '<xml><!DOCTYPE xml><OpenID>o</OpenID></xml>'],
    ['an entity of its own', '<xml><OpenID>&x;</OpenID></xml>'],
    ['a reference by number', '<xml><OpenID>&#x41;&#65;</OpenID></xml>'],
    ['a bare ampersand', '<xml><OpenID>a&b</OpenID></xml>'],
    ['a declaration', '<?xml version="1.0" encoding="UTF-7"?><xml><OpenID>o</OpenID></xml>'],
    ['an instruction', '<xml><?php evil ?><OpenID>o</OpenID></xml>'],
    ['a comment', '<xml><!-- --><OpenID>o</OpenID></xml>'],
    ['an attribute', '<xml><OpenID a="b">o</OpenID></xml>'],
    ['a namespace', '<x:xml xmlns:x="y"><OpenID>o</OpenID></x:xml>'],
    ['an inclusion', '<xml><xi:include href="file:///etc/passwd"/></xml>'],
    ['another root', '<html><OpenID>o</OpenID></html>'],
    ['two roots', '<xml></xml><xml><OpenID>o</OpenID></xml>'],
    ['text behind it', '<xml></xml>x'],
    ['text beside elements', '<xml>x<OpenID>o</OpenID></xml>'],
    ['an end that is not its own', '<xml><OpenID>o</Openid></xml>'],
    ['no end', '<xml><OpenID>o</OpenID>'],
    ['CDATA without end', '<xml><OpenID><![CDATA[o</OpenID></xml>'],
    ['CDATA outside', '<![CDATA[o]]><xml></xml>'],
    ['more depth than WeChat has', `<xml>${'<a>'.repeat(20)}${'</a>'.repeat(20)}</xml>`],
    ['more elements than WeChat has', `<xml>${'<a/>'.repeat(2_000)}</xml>`],
    ['one field twice', '<xml><OpenID>o-1</OpenID><OpenID>o-2</OpenID></xml>'],
    ['one field twice, once with a blank', '{"OpenID":"o-1"," OpenID":"o-2"}'],
    ['a list', '[{"OpenID":"o"}]'],
    ['a number', '42'],
    ['nothing', ''],
    ['JSON with a mark before it', '\uFEFF{"OpenID":"o"}'],
    ['JSON cut short', '{"OpenID":"o"'],
  ])('with %s is none', (_what, text) => {
    expect(parse(text)).toBeUndefined()
  })

  test('that is no UTF-8 is none', () => {
    expect(parsePush(Buffer.from('<xml><OpenID>\u00ff</OpenID></xml>', 'latin1'))).toBeUndefined()
    expect(parsePush(Buffer.from('<xml><OpenID>o</OpenID></xml>', 'utf16le'))).toBeUndefined()
  })

  // The largest that is taken, made to be slow.
  test.each([
    ['openings', '<a>'],
    ['angles', '<'],
    ['blanks in an angle', '< '],
    ['beginnings of CDATA', '<xml><![CDATA['],
    ['references', '&lt;'],
    ['brackets', '[{"a":'],
  ])('of %s only costs no time', (_what, piece) => {
    const text = `<xml><a>${piece.repeat(32_768 / piece.length)}`
    const startedMs = performance.now()
    expect(parse(text)).toBeUndefined()
    expect(parse(piece.repeat(32_768 / piece.length))).toBeUndefined()
    expect(performance.now() - startedMs).toBeLessThan(500)
  })

  test('of chance is read or refused, and nothing else happens', () => {
    const piece = fc.constantFrom(
      '<xml>',
      '</xml>',
      '<OpenID>',
      '</OpenID>',
      '<![CDATA[',
      ']]>',
      '&lt;',
      '&',
      '<',
      '/>',
      ' ',
      'o',
      '{',
      '"OpenID":',
      '}',
    )
    fc.assert(
      fc.property(fc.array(fc.oneof(piece, fc.string({ maxLength: 8 })), { maxLength: 40 }), (pieces) => {
        expect(['undefined', 'object']).toContain(typeof parse(pieces.join('')))
      }),
      { numRuns: 2_000 },
    )
  })

  test('of a kind that is not known has a label all the same, from a closed set', () => {
    expect(pushTypeOf({ MsgType: 'event', Event: 'o-personal' })).toBe('other_event')
    expect(pushTypeOf({ MsgType: 'o-personal' })).toBe('other_message')
    expect(pushTypeOf({})).toBe('other_message')
    expect(pushTypeOf({ MsgType: 'event', Event: 'wxa_punish_event' })).toBe('wxa_punish_event')
  })
})
