/** One login is one trace, from the request to the rows that the worker writes. Real processes, real stores. */
import { Redis } from 'ioredis'
import { expect, onTestFinished, test } from 'vitest'
import type { CollectedSpan } from './harness/collector.ts'
import { tableRows } from './harness/documents.ts'
import { APPID } from './harness/environment.ts'
import { readSource } from './harness/sources.ts'
import { logLines, startTracedGateway, treeOf } from './harness/tracing.ts'
import { until } from './harness/until.ts'
import { drawInto } from './harness/waterfall.ts'

const GATEWAY = 'wechat-login-gateway'
const WORKER = 'wechat-login-worker'

function named(spans: readonly CollectedSpan[], name: string): CollectedSpan {
  const found = spans.find((span) => span.name === name)
  if (found === undefined) throw new Error(`no span ${name}`)
  return found
}

test('gateway → Redis → WeChat → queue → worker → database is one trace, each hop below the one that asked', async () => {
  const { gateway, wechat, startWorker, traceLogin } = await startTracedGateway()
  await startWorker()
  const spans = await traceLogin()
  const request = named(spans, 'POST /login')
  expect(request.parentSpanId).toBeUndefined()

  const tree = treeOf(spans, request)
  expect(tree).toContainEqual(['claim code', ['EVALSHA claim-code']])
  expect(tree).toContainEqual(['exchange', ['GET /sns/jscode2session']])
  expect(tree).toContainEqual(['open session', ['EVALSHA open-session']])
  const sending = named(spans, 'send provision')
  expect(sending.parentSpanId).toBe(request.spanId)
  const processing = named(spans, 'process provision')
  expect(processing.parentSpanId).toBe(sending.spanId)
  const [, writing, acknowledging] = treeOf(spans, processing)
  expect(writing?.[0]).toBe('write user')
  expect(writing).toContainEqual(['INSERT identities'])
  expect(acknowledging).toEqual(['EVALSHA acknowledge-provisioned'])

  for (const span of spans)
    expect({ name: span.name, service: span.service }).toEqual({
      name: span.name,
      service: isBelow(spans, span, processing) ? WORKER : GATEWAY,
    })
  expect(request).toMatchObject({
    kind: 'server',
    failed: false,
    attributes: {
      'http.request.method': 'POST',
      'http.route': '/login',
      'http.response.status_code': 200,
      'gateway.outcome': 'ok',
      'gateway.claim': 'leading',
      'wechat.appid': APPID,
    },
  })
  expect(named(spans, 'GET /sns/jscode2session')).toMatchObject({
    kind: 'client',
    attributes: {
      'http.request.method': 'GET',
      'server.address': '127.0.0.1',
      'server.port': Number(new URL(wechat.url).port),
      'url.template': '/sns/jscode2session',
      'http.response.status_code': 200,
    },
  })
  expect(named(spans, 'EVALSHA open-session')).toMatchObject({
    kind: 'client',
    attributes: { 'db.system.name': 'redis', 'db.operation.name': 'EVALSHA' },
  })
  expect(sending).toMatchObject({ kind: 'producer', attributes: { 'gateway.outcome': 'added' } })
  expect(processing).toMatchObject({
    kind: 'consumer',
    attributes: { 'messaging.destination.name': 'provision', 'gateway.outcome': 'created' },
  })
  expect(named(spans, 'INSERT identities')).toMatchObject({
    kind: 'client',
    attributes: { 'db.system.name': 'postgresql', 'db.query.summary': 'INSERT identities' },
  })
  if (process.env['DRAW_TRACE']) drawInto(process.env['DRAW_TRACE'], spans)
  // What nobody asked for makes no trace: the clock, the watch on the queue, the registry of apps.
  const { text } = await gateway.admin.get('/metrics')
  expect(text).toContain('trace_spans_total{fate="exported"}')
  // Grafana leads from a slow bucket to the trace of a login in it.
  for (const metric of ['login_duration_seconds', 'wechat_exchange_duration_seconds'])
    expect(text).toMatch(new RegExp(`^${metric}_bucket.* # \\{trace_id="${request.traceId}"\\}`, 'm'))
})

function isBelow(spans: readonly CollectedSpan[], span: CollectedSpan, root: CollectedSpan): boolean {
  if (span.spanId === root.spanId) return true
  const parent = spans.find(({ spanId }) => spanId === span.parentSpanId)
  return parent !== undefined && isBelow(spans, parent, root)
}

test('users written together: the batch is in the trace of one of them and points at the others', async () => {
  const { gateway, wechat, collector, startWorker } = await startTracedGateway()
  const logins = Array.from({ length: 8 }, () => gateway.login({ code: wechat.issueCode().code }))
  expect((await Promise.all(logins)).map(({ status }) => status)).toEqual(Array(8).fill(200))
  await startWorker()

  const batch = await collector.span('a batch', ({ name }) => name === 'write batch')
  const size = Number(batch.attributes['job.batch_size'])
  expect(size).toBeGreaterThan(1)
  expect(batch.links).toHaveLength(size - 1)
  const waiting = await until('all spans of the jobs', () => {
    const found = collector.spans.filter(({ name }) => name === 'write user')
    return found.length === 8 && found
  })
  const pointedAt = waiting.filter(({ spanId }) => batch.links.some((link) => link.spanId === spanId))
  expect(pointedAt).toHaveLength(size - 1)
  expect(waiting.map(({ spanId }) => spanId)).toContain(batch.parentSpanId)
})

test('what goes wrong is told by its code: of the answer, of the call, of WeChat', async () => {
  const { gateway, wechat, collector } = await startTracedGateway()
  const refused = wechat.issueCode()
  wechat.addFault({ kind: 'errcode', errcode: 40029, code: refused.code })
  expect((await gateway.login({ code: refused.code })).status).toBe(401)
  const exchange = await collector.span('the refusal', ({ name }) => name === 'exchange')
  expect(exchange.attributes).toMatchObject({ 'wechat.errcode': 40029, 'error.type': 'code_invalid' })
  expect(exchange.events).toMatchObject([{ name: 'errcode', attributes: { 'wechat.errcode': 40029 } }])
  // 401 is the client's fault, so its request has not failed.
  const request = await collector.span('its request', ({ spanId }) => spanId === exchange.parentSpanId)
  expect(request).toMatchObject({ failed: false, attributes: { 'gateway.outcome': 'code_invalid' } })

  const broken = wechat.issueCode()
  wechat.addFault({ kind: 'reset', code: broken.code })
  expect((await gateway.login({ code: broken.code })).body.code).toBe('wechat_failed')
  const failed = await collector.span(
    'the failed request',
    (span) => span.name === 'POST /login' && span.failed,
  )
  expect(failed.attributes).toMatchObject({
    'error.type': 'wechat_failed',
    'gateway.outcome': 'wechat_failed',
  })
  const trace = await collector.trace(failed.traceId, 'exchange', 'GET /sns/jscode2session')
  expect(named(trace, 'exchange').attributes['error.type']).toBe('wechat_failed')
  expect(named(trace, 'GET /sns/jscode2session')).toMatchObject({
    failed: true,
    attributes: { 'error.type': 'reset' },
  })
})

// Whoever adds an attribute has to say it there, and to have read there what is never said.
test('the attributes that there are, and no others, are listed in docs/tracing.md', () => {
  const inCode = [...readSource('src/tracing/attributes.ts').matchAll(/^ {2}'([^']+)'\?:/gm)].map(
    ([, name = '']) => name,
  )
  const documented = tableRows(readSource('docs/tracing.md')).flatMap(([cell = '']) =>
    [...cell.matchAll(/`([a-z0-9_]+(?:\.[a-z0-9_]+)+)`/g)].map(([, name = '']) => name),
  )
  expect(inCode.length).toBeGreaterThan(10)
  expect(documented.toSorted()).toEqual(inCode.toSorted())
})

const THEIRS = { traceId: 'c0ffee00c0ffee00c0ffee00c0ffee00', spanId: 'c0ffee00c0ffee00' }
const traceparent = `00-${THEIRS.traceId}-${THEIRS.spanId}-01`

test('a client cannot have itself traced, nor get into a trace: what it names is pointed at', async () => {
  const none = await startTracedGateway({ OTEL_TRACES_SAMPLER_ARG: '0', TRUST_PROXY: '127.0.0.1/32' })
  await none.gateway.login({ code: none.wechat.issueCode().code }, { traceparent })
  const line = await until('its line', () =>
    logLines(none.gateway.output()).find(({ msg }) => msg === 'request'),
  )
  expect(line).toMatchObject({ trace_flags: '00' })
  expect(line['trace_id']).not.toBe(THEIRS.traceId)

  const all = await startTracedGateway()
  await all.gateway.login({ code: all.wechat.issueCode().code }, { traceparent })
  const request = await all.collector.span('the request', ({ name }) => name === 'POST /login')
  expect(request.traceId).not.toBe(THEIRS.traceId)
  expect(request.links).toEqual([THEIRS])
})

test('where the operator says that a proxy can be believed, its trace is continued, sampled or not as it says', async () => {
  const trust = { TRACE_TRUST_PARENT: 'true', TRUST_PROXY: '127.0.0.1/32' }
  const { gateway, wechat, collector } = await startTracedGateway({ ...trust, OTEL_TRACES_SAMPLER_ARG: '0' })
  const login = (headers: Record<string, string>) => gateway.login({ code: wechat.issueCode().code }, headers)
  await login({ traceparent: traceparent.replace(/01$/, '00') })
  await login({ traceparent: 'nonsense' })
  await login({ traceparent })
  const request = await collector.span('the request', ({ name }) => name === 'POST /login')
  expect(request).toMatchObject({ traceId: THEIRS.traceId, parentSpanId: THEIRS.spanId })
  // Spans are sent in the order in which they end.
  expect(new Set(collector.spans.map(({ traceId }) => traceId))).toEqual(new Set([THEIRS.traceId]))
})

test('a job of a traced login takes at most 1,000 bytes of Redis, one that is not traced is as it was', async () => {
  const { gateway, wechat, env } = await startTracedGateway({ OTEL_TRACES_SAMPLER_ARG: '0' })
  const traced = await startTracedGateway()
  const redis = new Redis(env['REDIS_URL'] ?? '')
  onTestFinished(() => redis.disconnect())
  const unionid = 'o6_bmasdasdsad6_2sgVt7hMZOPfL'

  const jobOf = async (prefix = '') => {
    const [key = ''] = (await redis.keys(`${prefix}*`)).filter((name) => /:j[\w-]{12}$/.test(name))
    return {
      data: (await redis.hget(key, 'data')) ?? '',
      bytes: await redis.memory('USAGE', key, 'SAMPLES', 0),
    }
  }
  await gateway.login({ code: wechat.issueCode({ unionid }).code })
  expect(Object.keys(JSON.parse((await jobOf(env['KEY_PREFIX'])).data) as object)).not.toContain('tp')

  await traced.gateway.login({ code: traced.wechat.issueCode({ unionid }).code })
  const job = await jobOf(traced.env['KEY_PREFIX'])
  expect((JSON.parse(job.data) as { tp: string }).tp).toHaveLength(32)
  console.log(`MEMORY USAGE of a waiting job of a traced login: ${job.bytes} bytes`)
  expect(job.bytes).toBeLessThanOrEqual(1_000)
})
