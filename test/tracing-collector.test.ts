/** The collector hangs, refuses or is gone: no login waits for it, no memory is spent on it, no end is put off by it. */
import { expect, test } from 'vitest'
import { metricIn } from './harness/gateway.ts'
import { logLines, startTracedGateway } from './harness/tracing.ts'
import { until } from './harness/until.ts'

/** Above what may wait, at two spans a validation. */
const VALIDATIONS = 1_200
const END_MS_MAX = 10_000

test('it hangs: logins are answered, spans beyond a bound are dropped and counted, and the gateway ends', async () => {
  const { gateway, wechat, collector } = await startTracedGateway()
  collector.become('hangs')
  const { status, body } = await gateway.login({ code: wechat.issueCode().code })
  expect(status).toBe(200)
  await until('the collector to have been asked', () => collector.headers.length > 0)

  for (let sent = 0; sent < VALIDATIONS; sent += 100) {
    const replies = await Promise.all(Array.from({ length: 100 }, () => gateway.get('/auth', body.token)))
    expect(replies.map((reply) => reply.status)).toEqual(Array(100).fill(200))
  }
  const lost = async (fate: string) =>
    metricIn((await gateway.admin.get('/metrics')).text, 'trace_spans_total', { fate })
  expect(await until('spans to be dropped', async () => (await lost('dropped')) || false)).toBeGreaterThan(0)
  expect((await gateway.login({ code: wechat.issueCode().code })).status).toBe(200)
  expect(collector.spans).toEqual([])

  const startedMs = performance.now()
  expect(await gateway.end('SIGTERM')).toBe(0)
  expect(performance.now() - startedMs).toBeLessThan(END_MS_MAX)
}, 60_000)

test('it refuses, and takes again: what it refused is lost and counted, and the log says so', async () => {
  const { gateway, wechat, collector } = await startTracedGateway()
  collector.become('refuses')
  expect((await gateway.login({ code: wechat.issueCode().code })).status).toBe(200)
  const warning = await until('the log to say so', () =>
    logLines(gateway.output()).find(({ msg }) => msg === 'spans of traces are lost'),
  )
  expect(warning).toMatchObject({ level: 'warn', fate: 'failed' })
  collector.become('takes')
  const { headers } = await gateway.login({ code: wechat.issueCode().code })
  expect(headers['x-request-id']).toBeDefined()
  await collector.span('the login', ({ name }) => name === 'POST /login')
})

test('there is none: logins are answered and the end is not put off', async () => {
  const { gateway, wechat } = await startTracedGateway({ OTEL_EXPORTER_OTLP_ENDPOINT: 'http://127.0.0.1:1' })
  expect((await gateway.login({ code: wechat.issueCode().code })).status).toBe(200)
  const startedMs = performance.now()
  expect(await gateway.end('SIGTERM')).toBe(0)
  expect(performance.now() - startedMs).toBeLessThan(END_MS_MAX)
})

test('spans that wait are sent when the gateway ends', async () => {
  const { gateway, wechat, collector } = await startTracedGateway()
  await gateway.login({ code: wechat.issueCode().code })
  expect(await gateway.end('SIGTERM')).toBe(0)
  expect(collector.spans.map(({ name }) => name)).toContain('POST /login')
})
