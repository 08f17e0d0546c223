/**
 * One code is one exchange, however many copies of it arrive at however many replicas, and whoever dies
 * meanwhile. Three real gateway processes, one Redis, one WeChat.
 */
import { createServer } from 'node:net'
import type { Socket } from 'node:net'
import { once } from 'node:events'
import { expect, onTestFinished, test } from 'vitest'
import { LEASE_MS } from '../src/codes.ts'
import { startSimulator } from './simulator/server.ts'
import { gatewayEnvironment, SIMULATED } from './harness/environment.ts'
import { startGatewayProcess } from './harness/processes.ts'
import { until } from './harness/until.ts'

const NONCE = 'the-nonce-of-this-client'
/** What a survivor may take beyond the lease: a poll, the exchange, a busy machine. */
const TAKEOVER_MARGIN_MS = 300

async function startReplicas(count: number) {
  const wechat = await startSimulator(SIMULATED)
  onTestFinished(() => wechat.close())
  const env = gatewayEnvironment(wechat)
  const gateways = await Promise.all(Array.from({ length: count }, () => startGatewayProcess(env)))
  return { wechat, env, gateways }
}

/** The element for the i-th of many requests, in turn. */
function inTurn<T>(items: readonly T[], index: number): T {
  const item = items[index % items.length]
  if (item === undefined) throw new RangeError('no items')
  return item
}

test('1,000 requests with one code over 3 gateways: one exchange, one token, all 200', async () => {
  const { wechat, gateways } = await startReplicas(3)
  const { code } = wechat.issueCode()
  wechat.addFault({ kind: 'delay', ms: 100, code })

  const replies = await Promise.all(
    Array.from({ length: 1_000 }, (_, index) => inTurn(gateways, index).login({ code, nonce: NONCE })),
  )

  expect(countBy(replies.map((reply) => reply.status))).toEqual({ 200: 1_000 })
  expect(new Set(replies.map((reply) => reply.body.token)).size).toBe(1)
  expect(wechat.summary().codes).toMatchObject({ exchanged: 1, moreThanOnce: 0 })
  expect(wechat.history({ code })).toHaveLength(1)
})

test('300 codes, 30 copies each, mixed over 3 gateways: 300 exchanges, 300 tokens, all 200', async () => {
  const { wechat, gateways } = await startReplicas(3)
  const codes = wechat.issueCodes(300).map(({ code }) => code)

  // All copies of 50 codes are under way together. All 9,000 at once would only ask whether this machine answers
  // so many within the time of a login.
  const copies = Array.from({ length: 300 * 30 }, (_, index) => {
    const [round, inRound] = [Math.floor(index / 1_500), index % 1_500]
    const [code, copy] = [round * 50 + (inRound % 50), Math.floor(inRound / 50)]
    return { code: inTurn(codes, code), gateway: inTurn(gateways, code + copy) }
  }).values()
  const replies: { code: string; reply: Awaited<ReturnType<(typeof gateways)[number]['login']>> }[] = []
  const send = async () => {
    for (const { code, gateway } of copies)
      replies.push({ code, reply: await gateway.login({ code, nonce: NONCE }) })
  }
  await Promise.all(Array.from({ length: 1_500 }, send))

  expect(countBy(replies.map(({ reply }) => reply.status))).toEqual({ 200: 9_000 })
  const tokens = new Map<string, Set<string>>()
  for (const { code, reply } of replies) {
    tokens.set(code, (tokens.get(code) ?? new Set()).add(reply.body.token))
  }
  expect([...tokens.values()].every((ofOneCode) => ofOneCode.size === 1)).toBe(true)
  expect(new Set([...tokens.values()].flatMap((ofOneCode) => [...ofOneCode])).size).toBe(300)
  expect(wechat.history()).toHaveLength(300)
  expect(wechat.summary().codes).toMatchObject({ exchanged: 300, moreThanOnce: 0 })
}, 60_000)

test('the leader is killed before WeChat has heard of the code: the others log in within the lease', async () => {
  const { wechat, env, gateways } = await startReplicas(2)
  // The leader's road to WeChat ends in a silent listener.
  const silence = await startSilence()
  const leader = await startGatewayProcess({ ...env, WECHAT_API_URLS: silence.url })
  const { code } = wechat.issueCode()
  leader.login({ code, nonce: NONCE }).catch(() => {}) // dies with it
  await silence.reached

  const survivors = gateways.flatMap((gateway) =>
    [0, 1].map(() => timed(gateway.login({ code, nonce: NONCE }))),
  )
  await until('both others to wait', async () => {
    const waits = await Promise.all(gateways.map(({ admin }) => admin.get('/metrics')))
    return waits.every(({ text }) => text.includes('code_claims_total{outcome="wait"} 1'))
  })
  const killedMs = performance.now()
  await leader.end('SIGKILL')
  const results = await Promise.all(survivors)

  expect(results.map(({ reply }) => reply.status)).toEqual([200, 200, 200, 200])
  expect(new Set(results.map(({ reply }) => reply.body.token)).size).toBe(1)
  expect(wechat.history({ code })).toHaveLength(1)
  for (const { answeredMs } of results) {
    expect(answeredMs - killedMs).toBeLessThan(LEASE_MS + TAKEOVER_MARGIN_MS)
  }
})

test('the leader is killed after WeChat has used the code up: the others are told to get a new code', async () => {
  const { wechat, env, gateways } = await startReplicas(2)
  const leader = await startGatewayProcess(env)
  const { code } = wechat.issueCode()
  wechat.addFault({ kind: 'hang_after', code, times: 1 })
  leader.login({ code, nonce: NONCE }).catch(() => {}) // dies with it
  await wechat.received(code)

  const survivors = gateways.map((gateway) => timed(gateway.login({ code, nonce: NONCE })))
  const killedMs = performance.now()
  await leader.end('SIGKILL')
  const results = await Promise.all(survivors)

  for (const { reply, answeredMs } of results) {
    expect(reply.status).toBe(409)
    expect(reply.body).toMatchObject({ code: 'code_consumed', retry: 'new_code', errcode: 40163 })
    expect(answeredMs - killedMs).toBeLessThan(LEASE_MS + TAKEOVER_MARGIN_MS)
  }
  expect(wechat.history({ code })).toHaveLength(2)

  // wx.login() again always recovers.
  const [survivor] = gateways
  expect((await survivor?.login({ code: wechat.issueCode().code }))?.status).toBe(200)
})

async function timed<T>(answer: Promise<T>): Promise<{ reply: T; answeredMs: number }> {
  const reply = await answer
  return { reply, answeredMs: performance.now() }
}

/** A server that takes connections and says nothing. */
async function startSilence() {
  const sockets = new Set<Socket>()
  const server = createServer((socket) => {
    sockets.add(socket)
    socket.on('error', () => {}) // its client is killed on purpose
  })
  const reached = once(server, 'connection')
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  const address = server.address()
  if (address === null || typeof address === 'string') throw new TypeError('a TCP server has a port')
  return { url: `http://127.0.0.1:${address.port}`, reached }
}

function countBy(values: readonly number[]): Record<number, number> {
  const counts: Record<number, number> = {}
  for (const value of values) counts[value] = (counts[value] ?? 0) + 1
  return counts
}
