/** The simulator as a server: what it remembers of what it was asked, and how it starts, bears abuse and is reset. */
import { describe, expect, test } from 'vitest'
import { LOCALHOST_CERTIFICATE } from './certificate.ts'
import { createClient, exchangeParameters, parse, writeQuery } from './client.ts'
import { DEFAULT_APP } from './platform.ts'
import { startSimulator } from './server.ts'
import { setUp } from './setting.ts'

const errcodeOf = (text: string): unknown => parse(text)['errcode'] ?? 'ok'

describe('what is remembered', () => {
  test('a repeated parameter is seen, and the first one counts', async () => {
    const { wechat, client } = await setUp()
    const { code } = wechat.issueCode()
    const query = `${writeQuery(exchangeParameters(code))}&access_token=x&secret=injected&appid=wx-evil`
    const { text } = await client.send(`${wechat.url}/sns/jscode2session?${query}`)

    expect(errcodeOf(text)).toBe('ok')
    expect(wechat.history({ code })[0]).toMatchObject({
      appid: DEFAULT_APP.appid,
      parameters: ['appid', 'secret', 'js_code', 'grant_type', 'access_token', 'secret', 'appid'],
    })
    expect(wechat.summary().repeatedParameters).toBe(1)
  })

  test('an AppSecret is never remembered, right or wrong', async () => {
    const { wechat, client } = await setUp()
    await client.exchange(wechat.issueCode().code)
    await client.exchange(wechat.issueCode().code, { secret: 'a-wrong-secret' })
    await client.post('/cgi-bin/stable_token', { grant_type: 'client_credential', ...DEFAULT_APP })

    const asked = await Promise.all(
      ['/history', '/history/summary', '/stats', '/apps', '/faults'].map((path) =>
        client.control('GET', path),
      ),
    )
    expect(JSON.stringify(asked)).not.toContain(DEFAULT_APP.secret)
    expect(JSON.stringify(asked)).not.toContain('a-wrong-secret')
    expect(wechat.history().map(({ secretRight }) => secretRight)).toEqual([true, false, true])
  })

  test('an entry says who, what, when, how it ended and over which connection', async () => {
    const { wechat } = await setUp()
    const client = createClient(wechat, { connections: 1 })
    const { code, openid } = wechat.issueCode()
    await client.exchange(code)
    await client.exchange(code)
    const [first, second] = wechat.history()

    expect(first).toMatchObject({
      seq: 1,
      receivedAt: 0x66454a60 * 1000,
      method: 'GET',
      path: '/sns/jscode2session',
      appid: DEFAULT_APP.appid,
      code,
      openid,
      decided: 'ok',
      outcome: 'ok',
      answered: true,
    })
    expect(second).toMatchObject({ seq: 2, outcome: 40163, remotePort: first?.remotePort })
    expect(wechat.history({ outcome: 40163 })).toHaveLength(1)
    expect(wechat.history({ limit: 1 })[0]?.seq).toBe(2)
  })

  test('the history is bounded and the counts are not', async () => {
    const { wechat, client } = await setUp({ historyMax: 10 })
    const codes = wechat.issueCodes(25).map(({ code }) => code)
    for (const code of [...codes, codes[0], codes[0]]) await client.exchange(code)

    expect(wechat.history().map(({ seq }) => seq)).toEqual([18, 19, 20, 21, 22, 23, 24, 25, 26, 27])
    expect(wechat.summary()).toMatchObject({
      requests: 27,
      outcomes: { '/sns/jscode2session': { ok: 25, 40163: 2 } },
      codes: { exchanged: 25, moreThanOnce: 1, mostExchanges: 3, mostExchanged: codes[0] },
    })
    wechat.clearHistory()
    expect(wechat.history()).toEqual([])
    expect([wechat.summary().requests, wechat.summary().outcomes]).toEqual([0, {}])
  })

  test('what ends after the history was cleared is not counted into the new one', async () => {
    const { wechat, client } = await setUp()
    const { code } = wechat.issueCode()
    wechat.addFault({ kind: 'hold' })
    const held = client.exchange(code)
    await expect.poll(() => wechat.stats().held).toBe(1)
    wechat.clearHistory()
    wechat.release()
    await held
    expect([wechat.summary().requests, wechat.summary().outcomes]).toEqual([0, {}])
  })

  test('a code is recorded as the endpoint reads it, blanks and broken escapes included', async () => {
    const { wechat, client } = await setUp()
    const path = `${wechat.url}/sns/jscode2session?appid=${DEFAULT_APP.appid}&js_code=`
    for (const code of ['the+code+is+a%20mock+one', '%E4%BD%A0%26a%3Db', '100%'])
      await client.send(path + code)
    expect(wechat.history().map(({ code }) => code)).toEqual(['the code is a mock one', '你&a=b', '100%'])
  })

  test('codes and users are bounded: the oldest is forgotten and counted', async () => {
    const { wechat, client } = await setUp({ codesMax: 3, usersMax: 3 })
    const codes = wechat.issueCodes(5).map(({ code }) => code)
    expect(wechat.stats().counts).toMatchObject({
      codes: { remembered: 3, issued: 5, forgotten: 2 },
      users: 3,
    })
    expect(errcodeOf((await client.exchange(codes[1])).text)).toBe(40029)
    expect(errcodeOf((await client.exchange(codes[2])).text)).toBe('ok')
  })

  test('received() tells when a code has arrived', async () => {
    const { wechat, client } = await setUp()
    const { code } = wechat.issueCode()
    const twice = wechat.received(code, 2)
    await Promise.all([client.exchange(code), client.exchange(code), twice])
    await wechat.received(code)
    expect(wechat.history({ code })).toHaveLength(2)
  })
})

describe('as a server', () => {
  test('the same seed gives the same codes, and without one no two runs are alike', async () => {
    const runs = await Promise.all([{ seed: 'seven' }, { seed: 'seven' }, {}, {}].map(setUp))
    const [one, two, three, four] = runs.map(({ wechat }) => wechat.issueCodes(3).map(({ code }) => code))
    expect(one).toEqual(two)
    expect(three).not.toEqual(four)
  })

  test('an unknown path is an errcode, a chunked POST is 412 without a body', async () => {
    const { wechat, client } = await setUp()
    expect(parse((await client.get('/sns/nothing', {})).text)['errcode']).toBe(40066)

    const chunked = await fetch(`${wechat.url}/cgi-bin/stable_token`, {
      method: 'POST',
      body: new Blob(['{}']).stream(),
      duplex: 'half',
    })
    expect([chunked.status, await chunked.text()]).toEqual([412, ''])
    expect(wechat.history({ outcome: 'http_412' })).toHaveLength(1)
  })

  test('a body larger than any login needs is turned away unread', async () => {
    const { wechat, client } = await setUp()
    const { status, text } = await client.post('/cgi-bin/stable_token', { padding: 'x'.repeat(70_000) })
    expect([status, text]).toEqual([413, ''])
    expect(wechat.history({ outcome: 'http_413' })).toHaveLength(1)
  })

  test('it serves https with the certificate it is given', async () => {
    const { wechat, client } = await setUp({ tls: LOCALHOST_CERTIFICATE })
    expect(wechat.url).toMatch(/^https:/)
    expect(errcodeOf((await client.exchange(wechat.issueCode().code)).text)).toBe('ok')
  })

  test('a taken port is an error, and the other port is given back', async () => {
    const { wechat } = await setUp()
    const free = await startSimulator()
    const port = Number(new URL(free.url).port)
    await free.close()
    const taken = Number(new URL(wechat.controlUrl).port)
    await expect(startSimulator({ port, controlPort: taken })).rejects.toMatchObject({
      code: 'EADDRINUSE',
      port: taken,
    })
    expect((await setUp({ port })).wechat.url).toBe(free.url)
  })

  test('reset() forgets users, codes, faults and history and keeps the starting apps', async () => {
    const { wechat, client } = await setUp()
    const { code } = wechat.issueCode({ user: 'alice' })
    wechat.putApp({ appid: DEFAULT_APP.appid, secretFrozen: true })
    wechat.addFault({ kind: 'empty' })
    const waiting = wechat.received('never-comes')
    await client.exchange(code)
    wechat.reset()

    await expect(waiting).rejects.toThrow('reset')
    expect(wechat.stats()).toMatchObject({ faults: 0, historyEntries: 0, counts: { users: 0 } })
    expect(errcodeOf((await createClient(wechat).exchange(code)).text)).toBe(40029)
    expect(errcodeOf((await client.exchange(wechat.issueCode().code)).text)).toBe('ok')
  })
})
