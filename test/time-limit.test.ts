/** A request is answered in its time, also when each step of its handler keeps its own. */
import { performance } from 'node:perf_hooks'
import { expect, inject, onTestFinished, test } from 'vitest'
import { startTcpProxy } from './faults/tcp-proxy.ts'
import { startHarness } from './harness/gateway.ts'
import { logIn } from './harness/session-values.ts'

/** A handler has a second more. */
const LOGIN_DEADLINE_MS = 500
const LIMIT_MS = LOGIN_DEADLINE_MS + 1_000
/** Each way, and so below what one command may take. */
const LATENCY_MS = 500

test('a handler whose Redis is slow, but not too slow for one command, is cut off and its client told', async () => {
  const { port, hostname } = new URL(inject('redisUrl'))
  const proxy = await startTcpProxy(
    { defer: (close) => onTestFinished(async () => void (await close())) },
    Number(port),
    hostname,
  )
  const harness = await startHarness({
    env: {
      REDIS_URL: `redis://127.0.0.1:${proxy.port}`,
      REDIS_COMMAND_TIMEOUT_MS: '2000',
      LOGIN_DEADLINE_MS: String(LOGIN_DEADLINE_MS),
    },
  })
  const { token } = await logIn(harness)
  proxy.set({ latencyMs: LATENCY_MS })

  const startedMs = performance.now()
  // Two commands, one after the other.
  const reply = await harness.send('DELETE', '/sessions', { headers: { authorization: `Bearer ${token}` } })
  const tookMs = performance.now() - startedMs

  expect([reply.status, reply.body.code, reply.body.retry]).toEqual([503, 'overloaded', 'same_code'])
  expect(tookMs).toBeGreaterThanOrEqual(LIMIT_MS - 50)
  expect(tookMs).toBeLessThan(4 * LATENCY_MS)
})
