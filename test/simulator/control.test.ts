/** The control port and the process: what tests in other processes and languages work with. */
import type { ChildProcess } from 'node:child_process'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { afterEach, describe, expect, test } from 'vitest'
import { parse } from './client.ts'
import { DEFAULT_APP } from './platform.ts'
import { setUp } from './setting.ts'
import { NODE_ENVIRONMENT } from '../harness/node-environment.ts'

describe('codes and users', () => {
  test('codes are issued by the thousand, to new users or to one', async () => {
    const { client } = await setUp()
    const many = await client.control('POST', '/codes', { count: 10_000 })
    expect(many.status).toBe(200)
    expect(new Set(openidsOf(many.content)).size).toBe(10_000)

    const same = await client.control('POST', '/codes', { count: 50, user: 'alice' })
    expect(new Set(openidsOf(same.content)).size).toBe(1)
    const several = await client.control('POST', '/codes', { count: 9, codesPerUser: 3 })
    const [one, two, three, ...rest] = openidsOf(several.content)
    expect(new Set([one, two, three]).size).toBe(3)
    expect(rest).toEqual([one, two, three, one, two, three])
    const none = await client.control('POST', '/codes')
    expect(openidsOf(none.content)).toHaveLength(1)
  })

  test('a user can be made, chosen and looked up', async () => {
    const { client } = await setUp()
    await client.control('POST', '/users', { user: 'alice', openid: 'o-alice', unionid: 'o-union' })
    await client.control('POST', '/codes', { user: 'alice' })
    const { content } = await client.control('GET', '/users?openid=o-alice')
    expect(content['users']).toMatchObject([
      { user: 'alice', unionid: 'o-union', sessionKey: expect.any(String) },
    ])

    const taken = await client.control('POST', '/users', { user: 'bob', openid: 'o-alice' })
    expect([taken.status, taken.content['error']]).toEqual([
      400,
      `the openid o-alice of ${DEFAULT_APP.appid} belongs to another user`,
    ])
  })

  test('phone codes, open data and access_tokens are at hand too', async () => {
    const { client } = await setUp()
    await client.control('POST', '/codes', { user: 'alice' })
    const phone = await client.control('POST', '/phone-codes', { user: 'alice', phoneNumber: '13800138000' })
    expect(phone.content['codes']).toMatchObject([{ phoneNumber: '13800138000' }])
    const data = await client.control('POST', '/open-data', { user: 'alice' })
    expect(Object.keys(data.content)).toEqual(['rawData', 'signature', 'encryptedData', 'iv'])
    await client.get('/cgi-bin/token', { grant_type: 'client_credential', ...DEFAULT_APP })
    const ended = await client.control('POST', '/tokens/invalidate', {})
    expect(ended.content).toEqual({ invalidated: 1 })
  })

  test('an app can be added and changed, and is shown without its secrets', async () => {
    const { client } = await setUp()
    await client.control('PUT', '/apps', { appid: 'wx-second', secret: 'second' })
    await client.control('PUT', '/apps', { appid: 'wx-second', quotas: { exchangesPerAppPerMinute: 7 } })
    const { content } = await client.control('GET', '/apps')
    expect(content['apps']).toMatchObject([
      { appid: DEFAULT_APP.appid },
      {
        appid: 'wx-second',
        secrets: 1,
        quotas: { exchangesPerAppPerMinute: 7, exchangesPerUserPerMinute: 100 },
      },
    ])
  })
})

describe('faults and history', () => {
  test('a hold can be set, seen, waited for and released from outside', async () => {
    const { wechat, client } = await setUp()
    const { code } = wechat.issueCode()
    const { content } = await client.control('POST', '/faults', [{ kind: 'hold' }, { kind: 'delay', ms: 1 }])
    expect(content).toEqual({ ids: [1, 2] })

    const held = client.exchange(code)
    expect((await client.control('GET', `/received?code=${code}`)).content).toEqual({ received: true })
    await expect.poll(async () => (await client.control('GET', '/stats')).content['held']).toBe(1)
    expect((await client.control('GET', '/faults')).content['faults']).toMatchObject([
      { kind: 'hold', hits: 1 },
      {},
    ])
    await client.control('DELETE', '/faults')
    expect((await client.control('POST', '/faults/release', {})).content).toEqual({ released: 1 })
    expect(parse((await held).text)).toHaveProperty('openid')

    const { content: seen } = await client.control('GET', `/history?code=${code}&outcome=ok`)
    expect(seen['requests']).toMatchObject([{ code, fault: 'hold' }])
    const { content: summary } = await client.control('GET', '/history/summary')
    expect(summary).toMatchObject({ requests: 1, codes: { exchanged: 1, moreThanOnce: 0 } })
  })

  test('waiting for a code that does not come ends', async () => {
    const { client } = await setUp()
    expect((await client.control('GET', '/received?code=never&timeoutMs=5')).content).toEqual({
      received: false,
    })
  })

  test('of a list of rules all are added or none', async () => {
    const { wechat, client } = await setUp()
    const { status } = await client.control('POST', '/faults', [{ kind: 'empty' }, { kind: 'nonsense' }])
    expect([status, wechat.stats().faults]).toEqual([400, 0])
  })

  test('history and everything else can be forgotten', async () => {
    const { wechat, client } = await setUp()
    await client.exchange('nothing')
    await client.control('DELETE', '/history')
    expect(wechat.history()).toEqual([])
    wechat.addFault({ kind: 'empty' })
    await client.control('POST', '/reset')
    expect(wechat.stats().faults).toBe(0)
  })
})

describe('what makes no sense is a clear 400', () => {
  test.each([
    ['POST', '/codes', { cuont: 5 }, 'does not know "cuont"'],
    ['POST', '/codes', { count: 0 }, 'count must be a whole number from 1'],
    ['POST', '/codes', { count: '5' }, 'count must be a whole number'],
    ['POST', '/codes', { appid: 'wx-unknown' }, 'there is no app wx-unknown'],
    ['POST', '/codes', [1], 'takes a JSON object'],
    ['POST', '/users', { sessionKey: 'short' }, 'sessionKey must be 16 bytes in base64'],
    ['POST', '/users', { __proto__: null, constructor: 1 }, 'does not know "constructor"'],
    ['PUT', '/apps', { secret: 'x' }, 'appid is missing'],
    ['PUT', '/apps', { appid: 'wx-new' }, 'needs a secret'],
    ['PUT', '/apps', { appid: 'wx-new', secret: 's', quotas: { perUser: 1 } }, 'does not know "perUser"'],
    ['POST', '/open-data', { user: 'nobody' }, 'no session_key'],
    ['POST', '/open-data', { kind: 'steps' }, 'kind must be one of user_info, phone, plain'],
    ['POST', '/tokens/invalidate', { errcode: 1 }, 'errcode must be one of 40001, 40014, 42001'],
    ['POST', '/faults', {}, 'kind must be one of errcode, hang_before'],
    ['POST', '/faults', { kind: 'toString' }, 'kind must be one of'],
    ['POST', '/faults', { kind: 'errcode' }, 'errcode is missing'],
    ['POST', '/faults', { kind: 'hang_before', when: 'after' }, 'does not know "when"'],
    ['POST', '/faults', { kind: 'html', when: 'mid_body' }, 'when must be one of before, after'],
    ['POST', '/faults', { kind: 'html', status: 99 }, 'status must be a whole number from 200 to 599'],
    ['POST', '/faults', { kind: 'empty', probability: 2 }, 'probability must be a number from 0 to 1'],
    ['POST', '/faults', { kind: 'empty', times: 0 }, 'times must be a whole number from 1'],
    ['POST', '/faults', { kind: 'empty', path: 'sns/jscode2session' }, 'path must begin with "/"'],
    ['POST', '/faults', { kind: 'delay' }, 'takes ms, or minMs and maxMs, or medianMs and p99Ms'],
    ['POST', '/faults', { kind: 'delay', ms: 1, minMs: 1 }, 'takes ms, or minMs and maxMs'],
    ['POST', '/faults', { kind: 'delay', minMs: 2, maxMs: 1 }, 'the smaller first'],
    ['POST', '/faults', { kind: 'reset', when: 'accept', code: 'x' }, 'only ip can match'],
    ['POST', '/faults', { kind: 'body', body: '', headers: { a: 1 } }, 'headers.a must be a text'],
    ['GET', '/history?cod=x', undefined, 'does not know "cod"'],
    ['GET', '/history?limit=many', undefined, 'limit must be a whole number'],
    ['GET', '/received', undefined, 'code is missing'],
    ['DELETE', '/faults?id=7', undefined, 'there is no fault rule 7'],
  ] as const)('%s %s %j', async (method, path, body, error) => {
    const { client } = await setUp()
    const { status, content } = await client.control(method, path, body)
    expect(status).toBe(400)
    expect(content['error']).toContain(error)
  })

  test('a body that is no JSON, and a path that is no route', async () => {
    const { wechat, client } = await setUp()
    const broken = await client.send(`${wechat.controlUrl}/codes`, { method: 'POST', body: '{' })
    expect([broken.status, parse(broken.text)['error']]).toEqual([400, 'the body is not JSON'])
    expect((await client.control('GET', '/codes')).status).toBe(404)
  })
})

describe('who may control', () => {
  test('a name that is not this machine is refused, unless remote control is on', async () => {
    const statuses: number[] = []
    for (const controlRemote of [false, true]) {
      const { wechat, client } = await setUp({ controlRemote })
      const { status } = await client.send(`${wechat.controlUrl}/stats`, {
        headers: { host: 'evil.example' },
      })
      statuses.push(status)
    }
    expect(statuses).toEqual([403, 200])
  })

  test('the first page lists every call', async () => {
    const { wechat, client } = await setUp()
    const { contentType, text } = await client.send(wechat.controlUrl)
    expect(contentType).toMatch(/^text\/plain/)
    expect(text.match(/^(GET|POST|PUT|DELETE) \//gm)).toHaveLength(20)
  })
})

describe('as a process', () => {
  const started: ChildProcess[] = []
  afterEach(() => {
    for (const child of started.splice(0)) child.kill('SIGKILL')
  })

  /** Starts main.ts on free ports; `output` grows with what it prints. */
  function start(env: Record<string, string>): { child: ChildProcess; output: () => string } {
    const main = fileURLToPath(new URL('main.ts', import.meta.url))
    const ports = { PORT: '0', CONTROL_PORT: '0' }
    const child = spawn(process.execPath, [main], { env: { ...NODE_ENVIRONMENT, ...ports, ...env } })
    started.push(child)
    let output = ''
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (output += String(chunk)))
    return { child, output: () => output }
  }

  test.each(['SIGINT', 'SIGTERM'] as const)('it prints where it is and ends on %s', async (signal) => {
    const { child, output } = start({ WECHAT_APPID: 'wx-mine', WECHAT_SECRET: 'mine' })
    await expect.poll(output, { timeout: 10_000 }).toContain('curl -s -X POST http://127.0.0.1:')
    expect(output()).toContain('wx-mine')
    // The configured secret is the user's own business; only the built-in one is shown.
    expect(output()).not.toContain('secret')

    const [, url] = /curl -s -X POST (\S+)/.exec(output()) ?? []
    const codes = await (await fetch(String(url), { method: 'POST' })).text()
    expect(codes).toContain('"appid":"wx-mine"')
    child.kill(signal)
    expect(await once(child, 'close')).toEqual([0, null])
  })

  test('a taken port is one line that names it', async () => {
    const { wechat } = await setUp()
    const { port } = new URL(wechat.url)
    const { child, output } = start({ PORT: port })
    expect(await once(child, 'close')).toEqual([1, null])
    expect(output()).toBe(
      `simulator: port ${port} of 127.0.0.1 is taken; choose another with PORT or CONTROL_PORT.\n`,
    )
  })

  test('a wrong value is one line that names the variable', async () => {
    const { child, output } = start({ PORT: 'eighty' })
    expect(await once(child, 'close')).toEqual([2, null])
    expect(output()).toBe('simulator: PORT must be a whole number from 0 to 65535\n')
  })
})

function openidsOf(content: Record<string, unknown>): unknown[] {
  const { codes } = content
  return Array.isArray(codes) ? codes.map((code: { openid: string }) => code.openid) : []
}
