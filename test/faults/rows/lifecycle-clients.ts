/** N: clients that think, dawdle, pile up and hang up. */
import { once } from 'node:events'
import { connect } from 'node:net'
import type { Socket } from 'node:net'
import { setTimeout as pause } from 'node:timers/promises'
import { Agent } from 'undici'
import { SERVER_LIMITS } from '../../../src/http/server.ts'
import { until } from '../../harness/until.ts'
import { createFaultClient, newNonce } from '../client.ts'
import { checkInvariants } from '../invariants.ts'
import { absentOf, startLoadBalancer } from '../load-balancer.ts'
import type { Bench, Row } from '../row.ts'
import { startStand } from '../stand.ts'
import type { Gateway, Stand } from '../stand.ts'

/** Longer than a load balancer keeps an idle connection (60 s), shorter than a gateway does (75 s). */
const THINK_MS = 65_000
const THINK_JITTER_MS = 2_000
const THINKERS = 500

const HEADERS_CLOSED_MS_MAX = 2_500
const BODY_CLOSED_MS_MAX = 3_500
const SLOW_SOCKETS = 50
const IDLE_SOCKETS = 2_000
const NORMAL_LOGINS_PER_SECOND = 50
const NORMAL_MS = 20_000
/** The p99 may rise by this much; with a floor, for a tenth of 10 ms is what a timer costs. */
const P99_SHARE_MAX = 1.1
const P99_FLOOR_MS = 5

const HANG_UPS = 100
const WECHAT_MS = 800
const HANG_UP_AFTER_MS = 300

export const lifecycleClientRows: readonly Row[] = [
  thinkingRow('N5', 2),
  thinkingRow('N5-long', 9),
  {
    id: 'N6',
    title: `slow headers, slow bodies, ${IDLE_SOCKETS} idle sockets, and more than a gateway takes`,
    pass: 'slow ones are closed after 2.5 and 3.5 s; p99 of the others ± 10 %; 5,000 connections and no more',
    alone: true,
    async run(bench) {
      const stand = await startStand(bench, { gateways: 1 })
      await closeTimes(bench, stand.gateway())
      await idleSockets(bench, stand)
      await tooManySockets(bench, stand)
      await checkInvariants(bench, stand)
    },
  },
  {
    id: 'N7',
    title: `${HANG_UPS} clients hang up in the middle of their login and send the same code again, to another gateway`,
    pass: 'all get a session, with no new exchange, and each user has one session',
    short: true,
    async run(bench) {
      const stand = await startStand(bench)
      await stand.wechat.fault({ kind: 'delay', ms: WECHAT_MS })
      const codes = (await stand.wechat.codes(HANG_UPS)).map((issued) => ({ ...issued, nonce: newNonce() }))
      // Not in the ledger: that no answer came is the client's doing.
      const answered = await Promise.all(
        codes.map(({ code, nonce }, at) => hangUp(stand.gateway(at % 3), { code, nonce })),
      )
      bench.figure('answered before they hung up', answered.filter(Boolean).length, { is: 0 })

      // At once for some, who wait for the exchange that goes on; later for the others.
      const again = await Promise.all(
        codes.map(async (code, at) => {
          await pause((at % 4) * 500)
          return stand.client.login({ target: stand.gateway((at + 1) % 3).url, ...code })
        }),
      )
      bench.say(`  ${stand.ledger.summary()}`)
      bench.figure('sessions', again.filter(({ status }) => status === 200).length, { is: HANG_UPS })
      const { codes: exchanges } = await stand.wechat.summary()
      bench.figure('exchanges', exchanges.exchanged, { is: HANG_UPS })
      const lists = await Promise.all(
        again.map(({ token = '' }) =>
          stand.client.send('other', stand.gateway().url, {
            path: '/sessions',
            headers: { authorization: `Bearer ${token}` },
          }),
        ),
      )
      const single = lists.filter(
        ({ body }) => Array.isArray(body['sessions']) && body['sessions'].length === 1,
      )
      bench.figure('users with one session', single.length, { is: HANG_UPS })
      await checkInvariants(bench, stand)
    },
  },
]

/** The catalogue has ten minutes of it; a round of thinking is where it happens, and each further one repeats it. */
function thinkingRow(id: string, rounds: number): Row {
  return {
    id,
    title: `${THINKERS} clients behind HAProxy and as many behind nginx think 65 s between requests, ${rounds} times`,
    pass: 'no request fails, no 502',
    long: rounds > 2,
    absent: absentOf('haproxy', 'nginx'),
    async run(bench) {
      const stand = await startStand(bench)
      const balancers = await Promise.all(
        (['haproxy', 'nginx'] as const).map((name) => startLoadBalancer(bench, name, stand)),
      )
      // Keeps a connection for as long as the other side does.
      const agent = new Agent({
        connections: THINKERS,
        keepAliveTimeout: 600_000,
        keepAliveMaxTimeout: 600_000,
      })
      const client = createFaultClient(stand.ledger, agent)
      bench.defer(() => client.close())
      const codes = await stand.wechat.codes(THINKERS * balancers.length * (rounds + 1))
      await Promise.all(
        balancers.flatMap(({ url }) =>
          Array.from({ length: THINKERS }, async () => {
            await pause(Math.random() * 5_000) // they do not all think in step
            for (let round = 0; round <= rounds; round += 1) {
              if (round > 0) await think()
              await client.login({ target: url, code: '', ...codes.pop(), nonce: newNonce() })
            }
          }),
        ),
      )
      bench.say(`  ${stand.ledger.summary()}`)
      bench.figure('requests', stand.ledger.attempts.length, {
        is: THINKERS * balancers.length * (rounds + 1),
      })
      bench.figure('failed', stand.ledger.attempts.filter(({ status }) => status !== 200).length, { is: 0 })
      await checkInvariants(bench, stand)
    },
  }
}

const think = () => pause(THINK_MS + (Math.random() - 0.5) * THINK_JITTER_MS)

/** Whether an answer came before it hung up. */
async function hangUp({ url }: Gateway, body: object): Promise<boolean> {
  try {
    await fetch(`${url}/login`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(HANG_UP_AFTER_MS),
    })
    return true
  } catch {
    return false
  }
}

async function openSocket({ url }: Gateway): Promise<Socket> {
  const { hostname, port } = new URL(url)
  const socket = connect({ host: hostname, port: Number(port) }).on('error', () => {})
  await once(socket, 'connect')
  return socket
}

/** Milliseconds until the gateway has closed it. */
async function closedAfter(gateway: Gateway, text: string): Promise<number> {
  const socket = await openSocket(gateway)
  const startedMs = performance.now()
  socket.resume().write(text)
  // A byte now and then does not help it.
  const trickle = setInterval(() => socket.write('x'), 400)
  await once(socket, 'close')
  clearInterval(trickle)
  return performance.now() - startedMs
}

async function closeTimes(bench: Bench, gateway: Gateway): Promise<void> {
  const head = 'POST /login HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n'
  const slow = (text: string) =>
    Promise.all(Array.from({ length: SLOW_SOCKETS }, () => closedAfter(gateway, text)))
  const [headers, bodies] = await Promise.all([
    slow(`${head}x-slow: `),
    slow(`${head}content-length: 1000\r\n\r\n{"code":"`),
  ])
  bench.figure('slow headers closed after', Math.max(...headers), { unit: 'ms', max: HEADERS_CLOSED_MS_MAX })
  bench.figure('slow bodies closed after', Math.max(...bodies), { unit: 'ms', max: BODY_CLOSED_MS_MAX })
}

async function idleSockets(bench: Bench, stand: Stand): Promise<void> {
  const gateway = stand.gateway()
  const warmUp = await stand.load({ loginsPerSecond: NORMAL_LOGINS_PER_SECOND })
  await pause(5_000)
  await warmUp.stop()
  const before = await normalP99(stand)
  const sockets = await Promise.all(Array.from({ length: IDLE_SOCKETS }, () => openSocket(gateway)))
  bench.defer(() => {
    for (const socket of sockets) socket.destroy()
  })
  // Idle as a client is that may ask again: its first request has been answered.
  await Promise.all(
    sockets.map(async (socket) => {
      socket.write('GET /livez HTTP/1.1\r\nhost: gateway\r\n\r\n')
      await once(socket.resume(), 'data')
    }),
  )
  const during = await normalP99(stand)
  bench.figure('p99 before', before, { unit: 'ms' })
  bench.figure(`p99 beside ${IDLE_SOCKETS} idle sockets`, during, {
    unit: 'ms',
    max: Math.max(before * P99_SHARE_MAX, before + P99_FLOOR_MS),
  })
  bench.figure(
    'idle sockets that were closed',
    sockets.filter(({ readyState }) => readyState !== 'open').length,
    { is: 0 },
  )
  for (const socket of sockets) socket.destroy()
}

async function normalP99(stand: Stand): Promise<number> {
  const fromMs = performance.now()
  const load = await stand.load({ loginsPerSecond: NORMAL_LOGINS_PER_SECOND })
  await pause(NORMAL_MS)
  await load.stop()
  return stand.ledger.quantile(0.99, { kind: 'login', fromMs })
}

async function tooManySockets(bench: Bench, stand: Stand): Promise<void> {
  const gateway = stand.gateway()
  const { connectionsMax } = SERVER_LIMITS
  const sockets: Socket[] = []
  bench.defer(() => {
    for (const socket of sockets) socket.destroy()
  })
  const before = gateway.descriptors()
  while (sockets.length < connectionsMax + 200) {
    const opened = await Promise.all(Array.from({ length: 200 }, () => openSocket(gateway)))
    sockets.push(...opened)
  }
  bench.figure('descriptors that they cost', gateway.descriptors() - before, { max: connectionsMax })
  bench.check('there were enough to tell', sockets.length > connectionsMax)
  for (const socket of sockets) socket.destroy()
  await until('the gateway to have room again', async () => {
    const answer = await fetch(`${gateway.url}/livez`).catch(() => undefined)
    return answer?.status === 200
  })
}
