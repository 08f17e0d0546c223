/** Message pushes that are not believed, or not understood: refused, with nothing queued and nothing left behind. */
import { describe, expect, test } from 'vitest'
import { APPID } from './harness/environment.ts'
import { nowSeconds, OPENID, REVOKE, sendPlain, sendSafe, validates } from './harness/forged-pushes.ts'
import { expectProblem, MARK } from './harness/problem.ts'
import { newAesKey, newPushToken, outcomes, queuedErasures, startPushHarness } from './harness/pushes.ts'
import type { PushHarness } from './harness/pushes.ts'
import { logIn } from './harness/session-values.ts'
import { signPush, writeMessage } from './simulator/push-envelope.ts'

/** The message behind a DOCTYPE. */
const doctype = (inner: string) => `<!DOCTYPE xml [${inner}]>${writeMessage(REVOKE, 'xml')}`

/** Sends each of them, which leaves nothing behind and ends no session; gives the erasures that are queued. */
async function refuse(
  harness: PushHarness,
  cases: Record<string, [code: string, send: () => ReturnType<PushHarness['send']>]>,
) {
  const { token } = await logIn(harness, { openid: OPENID })
  const keysBefore = await harness.redis.keys(`${harness.env['KEY_PREFIX']}push:*`)
  for (const [what, [code, send]] of Object.entries(cases))
    expect(expectProblem(await send(), what).code, what).toBe(code)
  expect(await validates(harness, token)).toBe(true)
  expect(await harness.redis.keys(`${harness.env['KEY_PREFIX']}push:*`)).toEqual(keysBefore)
  return queuedErasures(harness)
}

describe('refused, with nothing queued', () => {
  test('in safe mode', async () => {
    const harness = await startPushHarness()
    const other = newAesKey()
    expect(
      await refuse(harness, {
        'a foreign token': ['push_unsigned', () => sendSafe(harness, { token: newPushToken() })],
        'a signature of nothing': [
          'push_unsigned',
          () => sendSafe(harness, { query: { msg_signature: '0'.repeat(40) } }),
        ],
        'another body': [
          'push_unsigned',
          () => sendSafe(harness, { body: '<xml><Encrypt>AAAA</Encrypt></xml>' }),
        ],
        'no Encrypt': ['push_unsigned', () => sendSafe(harness, { body: writeMessage(REVOKE, 'xml') })],
        'in clear, as if there were no key': ['push_unsigned', () => sendPlain(harness)],
        'in clear, signed for the encrypted one': [
          'push_unsigned',
          () => sendPlain(harness, { query: { msg_signature: 'a'.repeat(40) } }),
        ],
        'five minutes ago': ['push_stale', () => sendSafe(harness, { timestamp: nowSeconds() - 310 })],
        'in five minutes': ['push_stale', () => sendSafe(harness, { timestamp: nowSeconds() + 310 })],
        'encrypted for another app': [
          'push_foreign',
          () => sendSafe(harness, { appid: 'wx0000000000000000' }),
        ],
        'about another app': [
          'push_foreign',
          () =>
            sendSafe(harness, { message: writeMessage({ ...REVOKE, AppID: 'wx0000000000000000' }, 'json') }),
        ],
        'under a foreign key': ['request_invalid', () => sendSafe(harness, { aesKey: other })],
        'XXE inside': [
          'request_invalid',
          () =>
            sendSafe(harness, {
              message: `<!DOCTYPE xml [<!ENTITY x SYSTEM "file:///etc/passwd">]>${writeMessage(REVOKE, 'xml').replace(OPENID, '&x;')}`,
            }),
        ],
        'a time that is none': ['request_invalid', () => sendSafe(harness, { timestamp: `1${MARK}` })],
        'a signature that is none': [
          'request_invalid',
          () => sendSafe(harness, { query: { msg_signature: MARK } }),
        ],
      }),
    ).toEqual([])
  })

  test('in plain mode', async () => {
    const harness = await startPushHarness({ mode: 'plain' })
    expect(
      await refuse(harness, {
        'a foreign token': ['push_unsigned', () => sendPlain(harness, { token: newPushToken() })],
        'no signature': [
          'push_unsigned',
          () => harness.send('POST', `/push/${APPID}?timestamp=${nowSeconds()}&nonce=1`, { body: '<xml/>' }),
        ],
        'no address': ['request_invalid', () => harness.send('POST', `/push/${APPID}`, { body: '<xml/>' })],
        'a parameter twice': [
          'request_invalid',
          () => harness.send('POST', `/push/${APPID}?timestamp=1&timestamp=2&nonce=1`, { body: '<xml/>' }),
        ],
        'long ago': ['push_stale', () => sendPlain(harness, { timestamp: 1_714_037_059 })],
        'about another app': [
          'push_foreign',
          () => sendPlain(harness, { body: writeMessage({ ...REVOKE, AppID: 'wx0000000000000000' }, 'xml') }),
        ],
        XXE: [
          'request_invalid',
          () => sendPlain(harness, { body: doctype('<!ENTITY x SYSTEM "file:///etc/passwd">') }),
        ],
        'a billion laughs': [
          'request_invalid',
          () =>
            sendPlain(harness, { body: doctype('<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">') }),
        ],
        'no message': ['request_invalid', () => sendPlain(harness, { body: '' })],
        'no text': ['request_invalid', () => sendPlain(harness, { body: MARK })],
        'encrypted, without a key here': [
          'request_invalid',
          () => sendPlain(harness, { body: '<xml><Encrypt>AAAA</Encrypt></xml>' }),
        ],
        'too much': [
          'body_too_large',
          () => sendPlain(harness, { body: `<xml>${' '.repeat(40_000)}</xml>` }),
        ],
      }),
    ).toEqual([])
    expect(await outcomes(harness, 'unread', 'push_unsigned')).toBe(2)
  })

  // In clear the signature says nothing of the body: whoever has seen one could write a message of their own to it.
  test('a signature that has come with another message', async () => {
    const harness = await startPushHarness({ mode: 'plain' })
    const { token } = await logIn(harness, { openid: OPENID })
    const seen = { timestamp: nowSeconds(), nonce: '42' }
    const text = writeMessage({ MsgType: 'text', Content: 'hello' }, 'json')
    expect((await sendPlain(harness, { ...seen, body: text })).text).toBe('success')
    expect((await sendPlain(harness, { ...seen, body: text })).text).toBe('success') // a retry
    expect(expectProblem(await sendPlain(harness, seen), 'forged').code).toBe('push_unsigned')
    expect(await queuedErasures(harness)).toEqual([])
    expect(await validates(harness, token)).toBe(true)
  })

  test('for an app that takes none, or is not there', async () => {
    const harness = await startPushHarness({}, { env: { WECHAT_PUSH_TOKEN: '', WECHAT_PUSH_AES_KEY: '' } })
    expect(expectProblem(await sendSafe(harness), 'no token').code).toBe('not_found')
    const query = `timestamp=1&nonce=1&signature=${'a'.repeat(40)}&echostr=1`
    for (const appid of [APPID, 'wxnobody', '..%2f', '__proto__'])
      expect(expectProblem(await harness.get(`/push/${appid}?${query}`), appid).code).toBe('not_found')
  })

  test('a URL check that is not signed, and then the echo is not told', async () => {
    const harness = await startPushHarness()
    const check = (token: string, timestamp: number, echostr: string) => {
      const signature = signPush(token, String(timestamp), '1')
      const query = new URLSearchParams({ signature, timestamp: String(timestamp), nonce: '1', echostr })
      return harness.get(`/push/${APPID}?${query.toString()}`)
    }
    const { token } = harness.push
    const right = await check(token, nowSeconds(), '<script>')
    expect([right.status, right.text]).toEqual([200, '<script>'])
    expect(right.headers).toMatchObject({
      'content-type': 'text/plain; charset=utf-8',
      'x-content-type-options': 'nosniff',
    })
    expect(expectProblem(await check('wrong', nowSeconds(), MARK), 'wrong').code).toBe('push_unsigned')
    expect(expectProblem(await check(token, 1, MARK), 'stale').code).toBe('push_stale')
    expect(expectProblem(await check(token, nowSeconds(), ''), 'no echo').code).toBe('request_invalid')
  })
})
