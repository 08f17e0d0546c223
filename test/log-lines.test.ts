/** The log: one line of JSON an event, with the id of its request and, when there are traces, its place in one. */
import { expect, test } from 'vitest'
import { logLines, startTracedGateway } from './harness/tracing.ts'
import { until } from './harness/until.ts'

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/

test('an id that a request brings is kept when it is well formed, and replaced when it is not', async () => {
  const { gateway, wechat } = await startTracedGateway()
  const idOf = async (given?: string) => {
    const headers: Record<string, string> = given === undefined ? {} : { 'x-request-id': given }
    const reply = await gateway.login({ code: wechat.issueCode().code }, headers)
    const id = String(reply.headers['x-request-id'])
    const line = await until(`the line of ${id}`, () =>
      logLines(gateway.output()).find(({ msg, reqId }) => msg === 'request' && reqId === id),
    )
    expect(line).toMatchObject({ route: '/login', status: 200, outcome: 'ok' })
    return id
  }
  for (const good of ['order-2026-0001', 'a'.repeat(64)]) expect(await idOf(good)).toBe(good)
  for (const bad of [
    undefined,
    'short',
    'a'.repeat(65),
    'with space',
    'semi;colon',
    '{"json":1}',
    'wxs_token_like',
  ])
    expect(await idOf(bad)).toMatch(UUID)
})

test('every line that is written for a request names its trace, also of a request that cannot be read', async () => {
  const { gateway, wechat, collector } = await startTracedGateway({ LOG_LEVEL: 'trace' })
  const { code } = wechat.issueCode()
  wechat.addFault({ kind: 'errcode', errcode: 40029, code })
  await gateway.login({ code })
  await gateway.send('POST', '/login', {
    headers: { 'content-type': 'application/json' },
    body: '{"code": "',
  })
  await gateway.get('/no-such-route')

  const requests = await until('three requests', () => {
    const lines = logLines(gateway.output()).filter(({ msg }) => msg === 'request')
    return lines.length === 3 && lines
  })
  for (const line of requests) {
    const span = await collector.span(String(line['route']), ({ spanId }) => spanId === line['span_id'])
    expect(span).toMatchObject({ kind: 'server', traceId: line['trace_id'] })
    expect(line['trace_flags']).toBe('01')
  }
  // Not only the last line: what WeChat said stands in the same trace.
  const [login] = requests
  const errcode = logLines(gateway.output()).find(({ msg }) => msg === 'WeChat answered with an errcode')
  expect(errcode).toMatchObject({ errcode: 40029, trace_id: login?.['trace_id'] })
})
