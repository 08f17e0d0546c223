/**
 * One attempt to deliver: what it is to the receiver, what it makes of the answer, and where it never goes
 * (failures.md S-14). Over real connections; DNS is what the test says.
 */
import { createHmac } from 'node:crypto'
import { createServer } from 'node:net'
import type { AddressInfo } from 'node:net'
import type { ServerResponse } from 'node:http'
import { Webhook } from 'standardwebhooks'
import { describe, expect, onTestFinished, test } from 'vitest'
import { createAddressGuard } from '../src/address-guard.ts'
import { createLookup } from '../src/lookup.ts'
import { Secret } from '../src/secret.ts'
import { createPoster, sign } from '../workers/webhooks/post.ts'
import type { PosterDeps } from '../workers/webhooks/post.ts'
import { ATTEMPTS_MAX, judge } from '../workers/webhooks/schedule.ts'
import { startTcpServer } from './harness/tcp-server.ts'
import { until } from './harness/until.ts'
import { newWebhookSecret } from './harness/webhook-receiver.ts'
import { INSIDE_HOSTS, startReceiver } from './harness/webhooks.ts'

const ID = '019ab4c2-0000-7000-8000-000000000000'
const PAYLOAD =
  '{"type":"user.created","timestamp":"2026-11-24T20:00:00.000Z","data":{"user_id":"u","name":"é"}}'
const secretOf = (text: string) => new Secret(Buffer.from(text.slice('whsec_'.length), 'base64'))
const permitted = createAddressGuard(['127.0.0.0/8', '::1'])
const strict = createAddressGuard([])

type AskDns = NonNullable<NonNullable<Parameters<typeof createLookup>[0]>['askDns']>

function post(
  url: string,
  { askDns, ...deps }: Partial<PosterDeps> & { askDns?: AskDns } = {},
  secrets = [newWebhookSecret()],
) {
  const endpoint = { url, secrets: secrets.map(secretOf), concurrency: 1 }
  const lookup = createLookup(askDns && { askDns })
  const poster = createPoster(endpoint, { guard: permitted, lookup, ...deps })
  onTestFinished(() => poster.close())
  return poster.post({ id: ID, payload: PAYLOAD })
}

/** DNS that says this, one answer a question; the last stays. */
function dnsOf(...answers: string[][]): AskDns {
  const rest = [...answers]
  return async () => {
    const addresses = (rest.length > 1 ? rest.shift() : rest[0]) ?? []
    return addresses.map((address) => ({ address, family: address.includes(':') ? 6 : 4 }))
  }
}

/** Where nothing answers. */
const takesFirstForPublic = (address: string) => address !== '240.0.0.1' && strict(address)

/** Whoever connects is counted: on all addresses of this machine that it can be reached by. */
async function startTrap() {
  let connections = 0
  const server = createServer((socket) => {
    connections += 1
    socket.destroy()
  })
  await new Promise<void>((resolve) => {
    server.listen(0, '::', resolve)
  })
  onTestFinished(() => void server.close())
  return { port: (server.address() as AddressInfo).port, connections: () => connections }
}

/** What a poster makes of what a receiver answers. */
const answerOf = async (respond: (response: ServerResponse) => void, deps: Partial<PosterDeps> = {}) => {
  const receiver = await startReceiver(respond)
  return { answered: await post(receiver.url, deps), receiver }
}

const heard = (status: number, retryAfterSeconds?: number) =>
  ({ kind: 'answered', status, retryAfterSeconds }) as const
const delayOf = (attempts: number, random: number) => {
  const { end } = judge({ kind: 'failed', reason: 'network' }, attempts, random)
  return end.state === 'pending' ? end.delaySeconds : end.state
}

describe('what the receiver gets', () => {
  test('is taken by the reference library, with either secret of a rotation', async () => {
    const receiver = await startReceiver()
    const other = newWebhookSecret()
    expect(await post(receiver.url, {}, [other, receiver.secret])).toMatchObject({ status: 204 })
    const [webhook] = receiver.received
    expect(webhook).toMatchObject({ id: ID, body: PAYLOAD, verified: true })
    new Webhook(other).verify(webhook?.body ?? '', webhook?.headers as Record<string, string>)
    expect(() =>
      new Webhook(newWebhookSecret()).verify(webhook?.body ?? '', webhook?.headers as Record<string, string>),
    ).toThrow('signature')
  })

  test('is signed as the example of Standard Webhooks', () => {
    const secret = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'
    const prefix = 'msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.'
    const signature = sign([secretOf(secret)], prefix, Buffer.from('{"test": 2432232314}'))
    expect(signature).toBe('v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=')
    const mac = createHmac('sha256', Buffer.from(secret.slice(6), 'base64'))
    expect(signature).toBe(`v1,${mac.update(`${prefix}{"test": 2432232314}`).digest('base64')}`)
  })
})

describe('an answer', () => {
  test('that redirects is not followed', async () => {
    const trap = await startReceiver()
    const { answered } = await answerOf((response) => response.writeHead(307, { location: trap.url }).end())
    expect(answered).toMatchObject({ kind: 'answered', status: 307 })
    expect(trap.received).toEqual([])
  })

  test('that does not come in time is a timeout', async () => {
    const { answered } = await answerOf(() => {}, { timeoutMs: 200 })
    expect(answered).toEqual({ kind: 'failed', reason: 'timeout' })
  })

  test('whose body has no end is cut off, and counts by its status', async () => {
    let sentBytes = 0
    const server = await startTcpServer((socket) => {
      socket.write('HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n')
      const more = () => {
        while (!socket.destroyed && socket.write(Buffer.alloc(65_536))) sentBytes += 65_536
      }
      socket.on('drain', more)
      more()
      socket.once('close', () => (sentBytes = -sentBytes))
    })
    expect(await post(server.url)).toMatchObject({ kind: 'answered', status: 200 })
    await until('the connection to be cut off', () => sentBytes < 0)
    expect(-sentBytes).toBeLessThan(20_000_000)
  })

  test('that trickles in is not waited for', async () => {
    let closed = false
    const server = await startTcpServer((socket) => {
      socket.write('HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n')
      const timer = setInterval(() => socket.write('x'), 50)
      socket.once('close', () => {
        clearInterval(timer)
        closed = true
      })
    })
    expect(await post(server.url)).toMatchObject({ kind: 'answered', status: 200 })
    await until('the connection to be cut off', () => closed, 5_000)
  })

  test.each([
    ['120', 120],
    [new Date(Date.now() + 90_000).toUTCString(), 90],
    ['soon', 0],
    ['-5', 0],
  ])('is asked when to come back: %s', async (header, seconds) => {
    const { answered } = await answerOf((response) =>
      response.writeHead(429, { 'retry-after': header }).end(),
    )
    const { retryAfterSeconds } = answered as { retryAfterSeconds?: number }
    expect(Math.abs((retryAfterSeconds ?? 0) - seconds)).toBeLessThan(3)
  })

  test('that nobody gives is a failure with a reason', async () => {
    expect(await post('http://127.0.0.1:1/')).toEqual({ kind: 'failed', reason: 'network' })
    const plain = await startReceiver()
    expect(await post(plain.url.replace('http:', 'https:'))).toEqual({ kind: 'failed', reason: 'tls' })
    const junk = await startTcpServer((socket) => socket.end('no HTTP at all\r\n\r\n'))
    expect(await post(junk.url)).toEqual({ kind: 'failed', reason: 'network' })
  })
})

const INSIDE_ADDRESSES = [
  '127.0.0.1',
  '0.0.0.0',
  '10.1.2.3',
  '172.20.0.1',
  '192.168.0.1',
  '100.64.0.1',
  '100.100.100.200',
  '169.254.169.254',
  '::1',
  '::',
  '::ffff:127.0.0.1',
  'fc00::1',
  'fe80::1',
  'fd00:ec2::254',
  'no address',
]

describe('never inside (S-14)', () => {
  test('whatever the address in the URL is written like: nobody is connected to', async () => {
    const trap = await startTrap()
    for (const host of INSIDE_HOSTS) {
      for (const scheme of ['https', 'http']) {
        const answer = await post(`${scheme}://${host}:${trap.port}/`, { guard: strict })
        expect({ host, answer }).toEqual({ host, answer: { kind: 'failed', reason: 'forbidden' } })
      }
    }
    expect(trap.connections()).toBe(0)
  })

  test('whatever DNS says, and be it beside a public address', async () => {
    const trap = await startTrap()
    for (const address of INSIDE_ADDRESSES) {
      for (const answer of [[address], ['93.184.215.14', address], [address, '93.184.215.14']]) {
        const deps = { guard: strict, askDns: dnsOf(answer) }
        expect(await post(`https://inside.example:${trap.port}/`, deps)).toEqual({
          kind: 'failed',
          reason: 'forbidden',
        })
      }
    }
    expect(trap.connections()).toBe(0)
  })

  test('with a name of this machine that the system knows', async () => {
    const trap = await startTrap()
    expect(await post(`http://localhost:${trap.port}/`, { guard: strict })).toMatchObject({
      reason: 'forbidden',
    })
    expect(trap.connections()).toBe(0)
  })

  test('when DNS changes its mind between two questions: what was judged is what is connected to', async () => {
    const trap = await startTrap()
    let questions = 0
    const rebinding = dnsOf(['240.0.0.1'], ['127.0.0.1'])
    const askDns: AskDns = (hostname) => {
      questions += 1
      return rebinding(hostname)
    }
    const guard = takesFirstForPublic
    const answer = await post(`http://rebinding.example:${trap.port}/`, { guard, askDns, timeoutMs: 500 })
    expect(answer.kind).toBe('failed')
    expect(questions).toBe(1)
    expect(trap.connections()).toBe(0)
    expect(await post(`http://rebinding.example:${trap.port}/`, { guard, askDns })).toMatchObject({
      reason: 'forbidden',
    })
    expect(trap.connections()).toBe(0)
  })

  test('and the trap works: with the network permitted it is reached', async () => {
    const trap = await startTrap()
    await post(`http://127.0.0.1:${trap.port}/`)
    await post(`http://inside.example:${trap.port}/`, { askDns: dnsOf(['127.0.0.1']) })
    expect(trap.connections()).toBe(2)
  })

  test.each(['8.8.8.8', '1.1.1.1', '172.32.0.1', '100.128.0.1', '2606:4700::1111', '2400:3200::1'])(
    'but to %s',
    (address) => expect(strict(address)).toBe(false),
  )

  test('metadata addresses also where the network around them is permitted', () => {
    const guard = createAddressGuard(['169.254.0.0/16', '100.64.0.0/10', '10.0.0.0/8', 'fd00::/8'])
    expect(['169.254.169.254', '100.100.100.200', 'fd00:ec2::254'].map(guard)).toEqual([true, true, true])
    expect(['100.64.0.1', '10.1.2.3', 'fd00::1'].map(guard)).toEqual([false, false, false])
  })
})

describe('what becomes of a delivery', () => {
  test('the schedule of Standard Webhooks, then it is dead', () => {
    const delays = Array.from({ length: ATTEMPTS_MAX }, (_, at) => delayOf(at + 1, 0))
    expect(delays).toEqual([5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400, 'dead'])
    expect(delayOf(1, 1)).toBeCloseTo(6)
    expect(delayOf(9, 1)).toBeCloseTo(103_680)
  })

  test.each([200, 202, 204, 299])('%i is success', (status) => {
    expect(judge(heard(status), 10).end).toEqual({ state: 'delivered' })
  })

  test.each([301, 302, 307, 400, 401, 404, 409, 429, 500, 502, 503, 504])('%i is not', (status) => {
    expect(judge(heard(status), 1, 0).end).toEqual({ state: 'pending', delaySeconds: 5 })
    expect(judge(heard(status), ATTEMPTS_MAX).end).toEqual({ state: 'dead' })
  })

  test('410 disables, and costs the message nothing', () => {
    expect(judge(heard(410), ATTEMPTS_MAX)).toMatchObject({
      disables: true,
      end: { state: 'pending', delaySeconds: 0 },
    })
  })

  test('Retry-After counts where the endpoint is busy, up to an hour, and never shortens the schedule', () => {
    for (const status of [429, 502, 503, 504]) {
      expect(judge(heard(status, 600), 1, 0)).toMatchObject({
        pauseSeconds: 600,
        end: { delaySeconds: 600 },
      })
    }
    expect(judge(heard(429, 1e9), 1, 0)).toMatchObject({
      pauseSeconds: 3_600,
      end: { delaySeconds: 3_600 },
    })
    expect(judge(heard(503, 1), 2, 0)).toMatchObject({ pauseSeconds: 1, end: { delaySeconds: 300 } })
    expect(judge(heard(400, 600), 1, 0)).toMatchObject({ pauseSeconds: 0, end: { delaySeconds: 5 } })
  })
})
