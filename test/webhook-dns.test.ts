/** Webhooks while DNS hangs: it costs an attempt its time and nobody else anything (src/lookup.ts bounds the questions). */
import { expect, onTestFinished, test } from 'vitest'
import { createAddressGuard } from '../src/address-guard.ts'
import { createLookup } from '../src/lookup.ts'
import { Secret } from '../src/secret.ts'
import { createPoster } from '../workers/webhooks/post.ts'
import { startReceiver } from './harness/webhooks.ts'

const TIMEOUT_MS = 1_000
/** As in src/lookup.ts: half of libuv's threads. */
const QUESTIONS_MAX = 2
/** As in src/lookup.ts, and time enough for a busy machine. */
const PATIENCE_MS = 300 + 500

/** DNS that answers for `known` until it is told to hang, and for nobody else ever. */
function startHangingDns(known: string) {
  const dns = { isWell: true, open: 0, most: 0, asked: [] as string[] }
  let aheadMs = 0
  const lookup = createLookup({
    nowMs: () => performance.now() + aheadMs,
    askDns: (hostname) => {
      dns.asked.push(hostname)
      if (hostname === known && dns.isWell) return Promise.resolve([{ address: '127.0.0.1', family: 4 }])
      dns.open += 1
      dns.most = Math.max(dns.most, dns.open)
      return new Promise(() => {})
    },
  })
  return {
    dns,
    lookup,
    /** The answer known last is not fresh any more. */
    age: (ms: number) => (aheadMs += ms),
  }
}

test('an endpoint whose name has no answer waits no longer than any other, and asks once; the rest is told', async () => {
  // Every delivery connects anew, and so asks for the address.
  const receiver = await startReceiver((response) => response.writeHead(204, { connection: 'close' }).end())
  const { dns, lookup, age } = startHangingDns('sound.test')
  const guard = createAddressGuard(['127.0.0.0/8'])
  const open = (host: string) => {
    const endpoint = {
      url: `http://${host}:${receiver.port}/hooks`,
      secrets: [new Secret(Buffer.from(receiver.secret.slice('whsec_'.length), 'base64'))],
      concurrency: 8,
    }
    const poster = createPoster(endpoint, { guard, lookup, timeoutMs: TIMEOUT_MS })
    onTestFinished(() => poster.close())
    return async () => {
      const startedMs = performance.now()
      const answer = await poster.post({ id: crypto.randomUUID(), payload: '{"type":"user.created"}' })
      return { answer, tookMs: performance.now() - startedMs }
    }
  }
  const delivered = { answer: { kind: 'answered', status: 204 } }
  const sound = open('sound.test')
  expect(await sound()).toMatchObject(delivered)

  const hanging = Array.from({ length: 5 }, (_, at) => open(`hangs-${at}.test`))
  const attempts = Promise.all(hanging.flatMap((post) => Array.from({ length: 8 }, post)))
  dns.isWell = false
  age(16_000) // its addresses are to be asked for again, and nobody answers
  const meanwhile = await sound()
  expect(meanwhile).toMatchObject(delivered)
  expect(meanwhile.tookMs).toBeLessThan(PATIENCE_MS)
  for (const { answer, tookMs } of await attempts) {
    expect(answer).toEqual({ kind: 'failed', reason: 'timeout' })
    expect(tookMs).toBeLessThan(TIMEOUT_MS + 1_000)
  }
  expect(dns.most).toBe(QUESTIONS_MAX)
  expect(dns.asked).toHaveLength(1 + QUESTIONS_MAX)
  expect(receiver.received.filter(({ verified }) => verified)).toHaveLength(2)
})
