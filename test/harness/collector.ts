/** An OpenTelemetry collector, reduced to what tests ask: it takes spans as OTLP JSON, remembers them, and may hang. */
import { createServer } from 'node:http'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { once } from 'node:events'
import { onTestFinished } from 'vitest'
import { until } from './until.ts'

export interface CollectedSpan {
  service: string
  traceId: string
  spanId: string
  parentSpanId: string | undefined
  name: string
  kind: string
  startNs: bigint
  endNs: bigint
  failed: boolean
  attributes: Record<string, string | number>
  events: { name: string; attributes: Record<string, string | number> }[]
  links: { traceId: string; spanId: string }[]
}

interface OtlpValue {
  stringValue?: string
  intValue?: string | number
  doubleValue?: number
}
type OtlpAttributes = { key: string; value: OtlpValue }[]
interface OtlpSpan {
  traceId: string
  spanId: string
  parentSpanId?: string
  name: string
  kind: number
  startTimeUnixNano: string
  endTimeUnixNano: string
  attributes?: OtlpAttributes
  events?: { name: string; attributes?: OtlpAttributes }[]
  links?: { traceId: string; spanId: string }[]
  status?: { code?: number }
}
interface OtlpRequest {
  resourceSpans: { resource: { attributes: OtlpAttributes }; scopeSpans: { spans: OtlpSpan[] }[] }[]
}

const KINDS = ['', 'internal', 'server', 'client', 'producer', 'consumer']

/** Closed when the test ends. */
export async function startCollector() {
  const spans: CollectedSpan[] = []
  const bodies: string[] = []
  const headers: IncomingMessage['headers'][] = []
  let mode: 'takes' | 'hangs' | 'refuses' = 'takes'

  const server = createServer((request, response) => void take(request, response))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  if (address === null || typeof address === 'string') throw new TypeError('a TCP server has a port')
  onTestFinished(() => {
    server.close()
    server.closeAllConnections()
  })

  async function take(request: IncomingMessage, response: ServerResponse): Promise<void> {
    let body = ''
    for await (const text of request.setEncoding('utf8')) body += text
    headers.push(request.headers)
    if (mode === 'hangs') return
    if (mode === 'refuses') return void response.writeHead(400).end()
    bodies.push(body)
    spans.push(...spansIn(JSON.parse(body) as OtlpRequest))
    response
      .writeHead(request.url === '/v1/traces' ? 200 : 404, { 'content-type': 'application/json' })
      .end('{}')
  }

  return {
    url: `http://127.0.0.1:${address.port}`,
    spans,
    /** All that has arrived, as it came. */
    text: () => bodies.join('\n'),
    /** Of each request, also of those that were not answered. */
    headers,
    become(other: typeof mode): void {
      mode = other
    },
    /** The spans of a trace, when one of each name is there. */
    trace: (traceId: string, ...names: string[]) =>
      until(`spans ${names.join(', ')}`, () => {
        const found = spans.filter((span) => span.traceId === traceId)
        return names.every((name) => found.some((span) => span.name === name)) && found
      }),
    /** The first span that fits. */
    span: (what: string, fits: (span: CollectedSpan) => boolean) =>
      until(`a span: ${what}`, () => spans.find(fits)),
  }
}

function spansIn({ resourceSpans }: OtlpRequest): CollectedSpan[] {
  return resourceSpans.flatMap(({ resource, scopeSpans }) =>
    scopeSpans.flatMap(({ spans }) =>
      spans.map((span) => ({
        service: String(readAttributes(resource.attributes)['service.name']),
        traceId: span.traceId,
        spanId: span.spanId,
        parentSpanId: span.parentSpanId,
        name: span.name,
        kind: KINDS[span.kind] ?? '',
        startNs: BigInt(span.startTimeUnixNano),
        endNs: BigInt(span.endTimeUnixNano),
        failed: span.status?.code === 2,
        attributes: readAttributes(span.attributes),
        events: (span.events ?? []).map(({ name, attributes }) => ({
          name,
          attributes: readAttributes(attributes),
        })),
        links: (span.links ?? []).map(({ traceId, spanId }) => ({ traceId, spanId })),
      })),
    ),
  )
}

function readAttributes(attributes: OtlpAttributes = []): Record<string, string | number> {
  return Object.fromEntries(
    attributes.map(({ key, value }) => [
      key,
      value.stringValue ?? Number(value.intValue ?? value.doubleValue),
    ]),
  )
}
