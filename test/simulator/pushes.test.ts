/** Message pushes as the simulator sends them: to whom, how often, in which envelope. */
import { createServer } from 'node:http'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { onTestFinished, describe, expect, test } from 'vitest'
import { DEFAULT_APP } from './platform.ts'
import { encryptPush, signPush } from './push-envelope.ts'
import { setUp } from './setting.ts'
import type { SimulatorOptions } from './server.ts'

const TIMEOUT_MS = 300
const TOKEN = 'AAAAA'
const AES_KEY = 'A'.repeat(43)

/** A server of an app, which answers each request by the next of these; the last of them counts on. */
async function setUpPushes(
  answers: ((response: ServerResponse, request: IncomingMessage) => void)[],
  settings: object = {},
  options: SimulatorOptions = {},
) {
  const received: { query: URLSearchParams; body: string; type: string | undefined; atMs: number }[] = []
  const server = createServer((request, response) => {
    let body = ''
    request.on('data', (chunk: Buffer) => (body += chunk.toString()))
    request.on('end', () => {
      const answer = answers[Math.min(received.length, answers.length - 1)]
      const { searchParams } = new URL(request.url ?? '', 'http://app')
      received.push({
        query: searchParams,
        body,
        type: request.headers['content-type'],
        atMs: performance.now(),
      })
      answer?.(response, request)
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  const { client, wechat } = await setUp({ pushTimeoutMs: TIMEOUT_MS, ...options })
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/push?own=kept`
  const put = await client.control('PUT', '/apps', {
    appid: DEFAULT_APP.appid,
    push: { url, token: TOKEN, ...settings },
  })
  return { received, client, wechat, put }
}

const success = (response: ServerResponse) => void response.end('success')
const busy = (response: ServerResponse) => void response.writeHead(503).end('busy')
const silent = () => {}

const echo = (response: ServerResponse, { url = '' }: IncomingMessage) =>
  void response.end(new URL(url, 'http://app').searchParams.get('echostr'))

describe('a push', () => {
  test('is told once to a server that says success, or nothing', async () => {
    for (const answer of [success, (response: ServerResponse) => void response.end()]) {
      const { client, received } = await setUpPushes([answer])
      const { content } = await client.control('POST', '/pushes', { user: 'alice' })
      expect(content).toMatchObject({ delivered: true, attempts: [{ status: 200 }] })
      expect(received).toHaveLength(1)
    }
  })

  test('is told three times, each as long after the last as an answer is waited for', async () => {
    const { client, received } = await setUpPushes([busy, silent, success])
    const { content } = await client.control('POST', '/pushes', {})
    expect(content).toMatchObject({
      delivered: true,
      attempts: [{ status: 503, body: 'busy' }, { status: null }, { status: 200 }],
    })
    const gaps = received.slice(1).map(({ atMs }, index) => atMs - (received[index]?.atMs ?? 0))
    for (const gap of gaps) expect(gap).toBeGreaterThan(TIMEOUT_MS * 0.8)
    const stamps = received.map(({ query }) => query.get('nonce'))
    expect(new Set(stamps).size).toBe(3)
  })

  test('is given up after that, or after as many times as a test says, and repeats its signature on demand', async () => {
    const { client, received } = await setUpPushes([busy])
    expect((await client.control('POST', '/pushes', {})).content).toMatchObject({ delivered: false })
    expect(received).toHaveLength(3)
    await client.control('POST', '/pushes', { attempts: 2, sameSignature: true })
    expect(received).toHaveLength(5)
    expect(received[3]?.query.toString()).toBe(received[4]?.query.toString())
  })

  test('ends with the simulator, or when it is reset', async () => {
    const { wechat } = await setUpPushes([silent], {}, { pushTimeoutMs: 60_000 })
    const report = wechat.push()
    wechat.reset()
    expect(await report).toMatchObject({ delivered: false })
  })

  test('needs an app that takes pushes, and settings that make sense', async () => {
    const { client } = await setUp()
    const refused = async (method: 'POST' | 'PUT', path: string, body: unknown) =>
      (await client.control(method, path, body)).content['error']
    expect(await refused('POST', '/pushes', {})).toContain('has no push settings')
    const app = { appid: DEFAULT_APP.appid }
    const url = 'http://127.0.0.1/'
    expect(await refused('PUT', '/apps', { ...app, push: { url, token: TOKEN, mode: 'safe' } })).toContain(
      'needs an aesKey',
    )
    expect(await refused('PUT', '/apps', { ...app, push: { url: 'nowhere', token: TOKEN } })).toContain('url')
    expect(await refused('POST', '/pushes', { mode: 'loud' })).toContain('mode')
  })
})

describe('what is sent', () => {
  test('in plain mode is the message, signed without its body; the app shows neither token nor key', async () => {
    const { client, received, put } = await setUpPushes([success], { aesKey: AES_KEY })
    expect(JSON.stringify(put.content)).not.toMatch(new RegExp(`${TOKEN}|${AES_KEY}`))
    await client.control('POST', '/pushes', {
      openid: 'o-1',
      createTime: 7,
      revokeInfo: '301',
      fields: { UnionID: 'u]]>' },
    })
    const [{ query, body, type } = { query: new URLSearchParams(), body: '', type: '' }] = received
    const [timestamp, nonce] = [query.get('timestamp') ?? '', query.get('nonce') ?? '']
    expect(query.get('signature')).toBe(signPush(TOKEN, timestamp, nonce))
    expect([query.get('msg_signature'), query.get('own'), type]).toEqual([null, 'kept', 'text/xml'])
    expect(body).toBe(
      '<xml><ToUserName><![CDATA[gh_870882ca4b1]]></ToUserName><FromUserName><![CDATA[owAqB1v0ahK_Xlc7GshIDdf2yf7E]]></FromUserName>' +
        '<CreateTime>7</CreateTime><MsgType><![CDATA[event]]></MsgType><Event><![CDATA[user_authorization_revoke]]></Event>' +
        `<OpenID><![CDATA[o-1]]></OpenID><AppID><![CDATA[${DEFAULT_APP.appid}]]></AppID>` +
        '<RevokeInfo><![CDATA[301]]></RevokeInfo><UnionID><![CDATA[u]]]]><![CDATA[>]]></UnionID></xml>',
    )
  })

  test('in safe mode is encrypted, in compatible mode it is there both ways', async () => {
    for (const mode of ['safe', 'compatible']) {
      const { client, received } = await setUpPushes([success], { aesKey: AES_KEY, mode, format: 'json' })
      await client.control('POST', '/pushes', { openid: 'o-1' })
      const [{ query, body, type } = { query: new URLSearchParams(), body: '{}', type: '' }] = received
      const message = JSON.parse(body) as Record<string, string>
      const parts = [query.get('timestamp') ?? '', query.get('nonce') ?? '', message['Encrypt'] ?? '']
      expect(query.get('msg_signature')).toBe(signPush(TOKEN, ...parts))
      expect([query.get('encrypt_type'), type]).toEqual(['aes', 'application/json'])
      expect(message['OpenID']).toBe(mode === 'safe' ? undefined : 'o-1')
      // Another beginning of chance, and nothing of two messages is alike.
      const again = encryptPush('{}', { ...DEFAULT_APP, aesKey: AES_KEY, random16: 'r'.repeat(16) })
      expect(message['Encrypt']?.slice(0, 20)).not.toBe(again.slice(0, 20))
    }
  })

  test('to check an address is the echo that the server has to send back', async () => {
    const { client, wechat } = await setUpPushes([echo, success])
    expect((await client.control('POST', '/pushes/check', {})).content).toMatchObject({ verified: true })
    expect(await wechat.checkPushUrl()).toBe(false)
  })
})
