/**
 * The one file that knows OpenTelemetry: spans go to a collector, as OTLP over HTTP.
 *
 * Nothing is registered globally, and nothing is instrumented that we do not wrap ourselves, so that a span holds what
 * attributes.ts lists and no more. Sending is beside the work: a collector that hangs or is gone fills a bounded queue,
 * and what comes then is dropped and counted.
 */
import { readFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { ROOT_CONTEXT, SpanKind, SpanStatusCode, trace, TraceFlags } from '@opentelemetry/api'
import type { Context, Link, Span as OpenTelemetrySpan, SpanContext } from '@opentelemetry/api'
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-http'
import { defaultResource, resourceFromAttributes } from '@opentelemetry/resources'
import { AlwaysOnSampler, BatchSpanProcessor, TracerProvider } from '@opentelemetry/sdk-trace'
import type { SpanExporter, SpanProcessor } from '@opentelemetry/sdk-trace'
import type { SpanAttributes } from './attributes.ts'
import type { Span, SpanOptions, SpanReference } from './span.ts'
import type { SpanFate, Tracing, TracingConfig } from './tracing.ts'

/** Spans that wait or are on their way: some 3 MB. */
const WAITING_MAX = 2_048
/** They are made into JSON at once, which takes 2 ms or so: a login waits for no more. */
const BATCH_MAX = 256
const BATCH_DELAY_MS = 1_000
/** One try to send a batch, with its retries. */
const EXPORT_MS_MAX = 5_000
/** A login has some ten; one that goes wrong again and again has more. */
const EVENTS_MAX = 32

const KINDS = {
  internal: SpanKind.INTERNAL,
  client: SpanKind.CLIENT,
  producer: SpanKind.PRODUCER,
  server: SpanKind.SERVER,
  consumer: SpanKind.CONSUMER,
} as const

/** @param name of the service */
export function createTracing(config: TracingConfig, name: string): Tracing {
  let tell: ((fate: SpanFate, spans: number) => void) | undefined
  const exporter = new OTLPTraceExporter({
    url: `${config.endpoint.replace(/\/$/, '')}/v1/traces`,
    headers: headersOf(config.headers?.reveal() ?? ''),
    timeoutMillis: EXPORT_MS_MAX,
  })
  const processor = createProcessor(exporter, (fate, spans) => tell?.(fate, spans))
  const provider = new TracerProvider({
    resource: defaultResource().merge(
      resourceFromAttributes({
        'service.name': name,
        'service.version': packageVersion(),
        'service.instance.id': `${hostname()}:${process.pid}`,
      }),
    ),
    sampler: new AlwaysOnSampler(), // begin() has decided before it is asked
    spanLimits: { eventCountLimit: EVENTS_MAX },
    spanProcessors: [processor],
  })
  const tracer = provider.getTracer('wechat-login-gateway', packageVersion())

  function start(
    spanName: string,
    context: Context,
    options: { kind?: keyof typeof KINDS; attributes?: SpanAttributes; links?: readonly SpanReference[] },
    startTime?: number,
  ): OpenTelemetrySpan {
    return tracer.startSpan(
      spanName,
      {
        kind: KINDS[options.kind ?? 'internal'],
        ...(options.attributes && { attributes: { ...options.attributes } }),
        ...(options.links && { links: options.links.map(linkTo) }),
        ...(startTime !== undefined && { startTime }),
      },
      context,
    )
  }

  function wrap(span: OpenTelemetrySpan): Span {
    const { traceId, spanId } = span.spanContext()
    const below = trace.setSpan(ROOT_CONTEXT, span)
    return {
      traceId,
      spanId,
      isSampled: true,
      set: (attributes) => void span.setAttributes({ ...attributes }),
      event: (eventName, attributes) => void span.addEvent(eventName, { ...attributes }),
      child(childName, options: SpanOptions = {}) {
        return span.isRecording() ? wrap(start(childName, below, options)) : undefined
      },
      record(childName, { durationMs, failure, ...options }) {
        if (!span.isRecording()) return
        const nowMs = performance.now()
        endWith(start(childName, below, options, nowMs - durationMs), failure, nowMs)
      },
      end: (failure) => endWith(span, failure),
    }
  }

  return {
    trustsParent: config.trustsParent,
    begin(spanName, { kind, attributes, parent, link }) {
      // Most requests end here, and should not have paid for what the others do.
      if (parent === undefined ? Math.random() >= config.share : !parent.isSampled)
        return unsampled(parent?.traceId)
      const context =
        parent === undefined ? ROOT_CONTEXT : trace.setSpanContext(ROOT_CONTEXT, contextOf(parent))
      return wrap(start(spanName, context, { kind, attributes, ...(link && { links: [link] }) }))
    },
    onSpans(listener) {
      tell = listener
    },
    flush: () => void provider.forceFlush().catch(ignore),
    close: () => provider.shutdown().catch(ignore),
  }
}

const TRACE_ID_BYTES = 16
const SPAN_ID_BYTES = 8

/** What is not recorded has its ids, for the log. */
function unsampled(traceId = randomHex(TRACE_ID_BYTES)): Span {
  return {
    traceId,
    spanId: randomHex(SPAN_ID_BYTES),
    isSampled: false,
    set: ignore,
    event: ignore,
    child: () => undefined,
    record: ignore,
    end: ignore,
  }
}

function randomHex(bytes: number): string {
  let hex = ''
  for (let at = 0; at < bytes; at += 4) hex += ((Math.random() * 2 ** 32) >>> 0).toString(16).padStart(8, '0')
  return hex
}

function endWith(span: OpenTelemetrySpan, failure: string | undefined, endTime?: number): void {
  // Without a message: what a library says of its errors may quote what it was given.
  if (failure !== undefined)
    span.setStatus({ code: SpanStatusCode.ERROR }).setAttribute('error.type', failure)
  span.end(endTime)
}

/**
 * OpenTelemetry's batches behind a bound that also counts what is on its way. (Its own counts what waits, and says
 * nowhere how many it has dropped.)
 */
function createProcessor(
  exporter: SpanExporter,
  tell: (fate: SpanFate, spans: number) => void,
): SpanProcessor {
  let waiting = 0
  const batches = new BatchSpanProcessor({
    exporter: {
      export(spans, done) {
        exporter.export(spans, (result) => {
          waiting -= spans.length
          tell(result.error === undefined ? 'exported' : 'failed', spans.length)
          done(result)
        })
      },
      shutdown: () => exporter.shutdown(),
      forceFlush: () => exporter.forceFlush?.() ?? Promise.resolve(),
    },
    maxQueueSize: WAITING_MAX,
    maxExportBatchSize: BATCH_MAX,
    scheduledDelayMillis: BATCH_DELAY_MS,
    exportTimeoutMillis: EXPORT_MS_MAX + 1_000, // the exporter's own comes first
  })
  return {
    onStart: (span, context) => batches.onStart(span, context),
    onEnd(span) {
      if (waiting >= WAITING_MAX) return tell('dropped', 1)
      waiting += 1
      batches.onEnd(span)
    },
    forceFlush: () => batches.forceFlush(),
    shutdown: () => batches.shutdown(),
  }
}

function contextOf({ traceId, spanId, isSampled }: SpanReference): SpanContext {
  const traceFlags = isSampled ? TraceFlags.SAMPLED : TraceFlags.NONE
  return { traceId, spanId, traceFlags, isRemote: true }
}

function linkTo(span: SpanReference): Link {
  return { context: contextOf(span) }
}

/** As OTEL_EXPORTER_OTLP_HEADERS has them; settings.ts has seen to their form. */
function headersOf(text: string): Record<string, string> {
  const pairs = text.split(',').filter((pair) => pair !== '')
  return Object.fromEntries(
    pairs.map((pair) => {
      const at = pair.indexOf('=')
      return [pair.slice(0, at).trim(), decodeURIComponent(pair.slice(at + 1).trim())]
    }),
  )
}

function packageVersion(): string {
  const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8')
  return (JSON.parse(text) as { version: string }).version
}

function ignore(): void {}
