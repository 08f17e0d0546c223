/**
 * WeChat's names when DNS is lost, slow or says something new. The DNS server is a real one on loopback, asked over
 * UDP by Node's resolver, because the system's cannot be pointed at it; the rest is what a gateway uses.
 */
import { Resolver } from 'node:dns/promises'
import { readFile } from 'node:fs/promises'
import { setTimeout as pause } from 'node:timers/promises'
import { describe, expect, onTestFinished, test } from 'vitest'
import { createCalls } from '../src/wechat/calls.ts'
import { createLookup } from '../src/lookup.ts'
import { startDnsServer } from './harness/dns-server.ts'
import { httpAnswer, startTcpServer } from './harness/tcp-server.ts'
import { startWechat } from './harness/wechat.ts'

const NAME = 'wechat.test'
/** As in src/lookup.ts. */
const FRESH_MS = 15_000
const RETRY_MS = 1_000
const STALE_MS_MAX = 300_000
const PATIENCE_MS = 300
const QUESTIONS_MAX = 2
/** How long the resolver waits for an answer; then it asks again, and gives up. */
const RESOLVER_MS = 1_000

/** A lookup with a clock to move, its DNS server, and how many questions are open. */
async function start() {
  const dns = await startDnsServer()
  onTestFinished(dns.close)
  const resolver = new Resolver({ timeout: RESOLVER_MS, tries: 1 })
  resolver.setServers([`127.0.0.1:${dns.port}`])
  onTestFinished(() => resolver.cancel())
  const clock = { aheadMs: 0 }
  const open = { now: 0, most: 0 }
  const lookup = createLookup({
    async askDns(hostname) {
      open.now += 1
      open.most = Math.max(open.most, open.now)
      try {
        return (await resolver.resolve4(hostname)).map((address) => ({ address, family: 4 }))
      } finally {
        open.now -= 1
      }
    },
    nowMs: () => performance.now() + clock.aheadMs,
  })
  const find = (hostname = NAME) =>
    new Promise<string>((resolve) => {
      lookup.find(hostname, { all: true }, (error, addresses) => {
        resolve(error?.code ?? (addresses as { address: string }[]).map(({ address }) => address).join())
      })
    })
  const pass = (ms: number) => (clock.aheadMs += ms)
  return { dns, lookup, find, pass, open }
}

async function timed<T>(work: Promise<T>): Promise<{ result: T; tookMs: number }> {
  const startedMs = performance.now()
  const result = await work
  return { result, tookMs: performance.now() - startedMs }
}

describe('an address', () => {
  test('is asked for once in 15 s, however many want it', async () => {
    const { dns, find, pass } = await start()
    const found = await Promise.all(Array.from({ length: 50 }, () => find()))
    expect(new Set(found)).toEqual(new Set(['127.0.0.1']))
    expect(dns.questions()).toBe(1)
    await find()
    expect(dns.questions()).toBe(1)
    pass(FRESH_MS + 1)
    await find()
    expect(dns.questions()).toBe(2)
  })

  test('that is new is used after 15 s', async () => {
    const { dns, find, pass } = await start()
    await find()
    dns.answerWith('127.0.0.2')
    expect(await find()).toBe('127.0.0.1')
    pass(FRESH_MS + 1)
    expect(await find()).toBe('127.0.0.2')
  })

  test('that does not work is asked for again at once', async () => {
    const { dns, find, lookup, pass } = await start()
    await find()
    dns.answerWith('127.0.0.2')
    lookup.doubt(NAME)
    expect(await find()).toBe('127.0.0.1') // asked a moment ago
    pass(RETRY_MS)
    expect(await find()).toBe('127.0.0.2')
  })

  test.each(['SERVFAIL', 'NXDOMAIN'] as const)(
    'outlives DNS that says %s for five minutes',
    async (fault) => {
      const { dns, find, pass } = await start()
      await find()
      dns.answerWith(fault)
      for (let passedMs = 0; passedMs < STALE_MS_MAX - 30_000; passedMs += 30_000) {
        pass(30_000)
        expect(await find(), `after ${passedMs} ms`).toBe('127.0.0.1')
      }
      pass(60_000)
      expect(await find()).toMatch(/^E/)
      // And is learnt again when DNS is back.
      dns.answerWith('127.0.0.3')
      pass(RETRY_MS)
      expect(await find()).toBe('127.0.0.3')
    },
  )

  test('is there at once while DNS is silent, but for the one that asks', async () => {
    const { dns, find, pass, open } = await start()
    await find()
    dns.answerWith('silence')
    pass(FRESH_MS + 1)
    const first = await timed(find())
    expect(first.result).toBe('127.0.0.1')
    expect(first.tookMs).toBeGreaterThan(PATIENCE_MS - 50)
    for (let i = 0; i < 20; i += 1) expect(await find()).toBe('127.0.0.1')
    const { tookMs } = await timed(Promise.all(Array.from({ length: 100 }, () => find())))
    expect(tookMs).toBeLessThan(PATIENCE_MS - 100)
    expect(open.most).toBe(1)
  })

  test('that nobody knows yet is waited for, and not asked for in each login', async () => {
    const { dns, find } = await start()
    dns.answerWith('silence')
    const errors = await Promise.all(Array.from({ length: 50 }, () => find()))
    expect(new Set(errors)).toEqual(new Set(['ETIMEOUT']))
    expect(await find()).toBe('ETIMEOUT')
    expect(dns.questions()).toBe(1)
  })
})

// getaddrinfo holds one of libuv's four threads until it has its answer.
test('of many names two are asked for at a time', async () => {
  const { dns, find, open } = await start()
  dns.answerWith('silence')
  const names = Array.from({ length: 5 }, (_, index) => `${index}.${NAME}`)
  const all = Promise.all(names.map((name) => find(name)))
  await pause(RESOLVER_MS / 2)
  expect(open.now).toBe(QUESTIONS_MAX)
  dns.answerWith('127.0.0.1')
  await all
  expect(open.most).toBe(QUESTIONS_MAX)
})

test('the hosts file counts, as everywhere on the machine', async () => {
  expect(await readFile('/etc/hosts', 'utf8')).toContain('localhost')
  const { url } = await startTcpServer((socket) => socket.write(httpAnswer('{}')))
  const calls = createCalls()
  onTestFinished(() => calls.close())
  const { port } = new URL(url)
  const answer = await calls.get(`http://localhost:${port}`, '/', AbortSignal.timeout(5_000))
  expect(answer.status).toBe(200)
})

test('calls go on while DNS is silent, also on new connections', async () => {
  const { dns, lookup, pass } = await start()
  const wechat = await startWechat({ keepAliveTimeoutMs: 1 })
  const calls = createCalls({ lookup })
  onTestFinished(() => calls.close())
  const url = wechat.url.replace('127.0.0.1', NAME)
  const ask = () => calls.get(url, '/sns/jscode2session', AbortSignal.timeout(5_000))
  expect((await ask()).status).toBe(200)
  dns.answerWith('silence')
  pass(FRESH_MS + 1)
  for (let i = 0; i < 5; i += 1) expect((await ask()).status).toBe(200)
  expect(wechat.stats().connections.total).toBeGreaterThan(1)
})
