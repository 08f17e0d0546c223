/**
 * Spans as the rest of the program knows them, and which one is active. Nothing of OpenTelemetry is imported here: that
 * is opentelemetry.ts, which is loaded when tracing is on and not otherwise.
 *
 * What is active follows the work through its promises (AsyncLocalStorage). There are spans only below one that was
 * begun for a request or a job and that is sampled; everywhere else each of these functions is a check and no more.
 */
import { AsyncLocalStorage } from 'node:async_hooks'
import { GatewayError } from '../errors.ts'
import type { SpanAttributes } from './attributes.ts'

/** Enough to continue a trace elsewhere, or to point at it. */
export interface SpanReference {
  /** 32 hexadecimal digits. */
  readonly traceId: string
  /** 16 hexadecimal digits. */
  readonly spanId: string
  readonly isSampled: boolean
}

export type SpanKind = 'internal' | 'client' | 'producer'

export interface SpanOptions {
  readonly kind?: SpanKind
  readonly attributes?: SpanAttributes
  readonly links?: readonly SpanReference[]
}

export interface Span extends SpanReference {
  set(attributes: SpanAttributes): void
  event(name: string, attributes: SpanAttributes): void
  /** A span below this one; undefined when this one is not sampled or is over: what runs on in its name is not of it. */
  child(name: string, options?: SpanOptions): Span | undefined
  /** A span below this one that has just ended. @param failure as of end() */
  record(name: string, options: SpanOptions & { durationMs: number; failure?: string | undefined }): void
  /** @param failure what went wrong, a word of a closed set; undefined: nothing */
  end(failure?: string): void
}

const storage = new AsyncLocalStorage<Span>()

/** The span in whose name this runs. */
export function activeSpan(): Span | undefined {
  return storage.getStore()
}

/** Runs it, and all that it starts, in the name of a span. */
export function runIn<T>(span: Span, work: () => T): T {
  return storage.run(span, work)
}

/**
 * Does the work in a span of its own below the active one, which ends with it; without an active one, just does it.
 * @param failureOf what the span says of an error; undefined: nothing went wrong
 */
export function inSpan<T>(
  name: string,
  options: SpanOptions,
  work: (span: Span | undefined) => Promise<T>,
  failureOf: (error: unknown) => string | undefined = failureName,
): Promise<T> {
  const span = activeSpan()?.child(name, options)
  return span === undefined ? work(undefined) : endedBy(span, () => work(span), failureOf)
}

async function endedBy<T>(
  span: Span,
  work: () => Promise<T>,
  failureOf: (error: unknown) => string | undefined,
): Promise<T> {
  try {
    const result = await runIn(span, work)
    span.end()
    return result
  } catch (error) {
    span.end(failureOf(error))
    throw error
  }
}

/** The code of one of our errors; never a message, which may quote. */
export function failureName(error: unknown): string {
  return error instanceof GatewayError ? error.code : 'fault'
}

/** Of the trace that goes on now, if it is recorded: metrics point at it. */
export function sampledTraceId(): string | undefined {
  const span = activeSpan()
  return span?.isSampled ? span.traceId : undefined
}

/** For a line of the log: in which trace it was written, in the words of OpenTelemetry. */
export function traceFields(): { trace_id?: string; span_id?: string; trace_flags?: string } {
  const span = activeSpan()
  if (span === undefined) return {}
  return { trace_id: span.traceId, span_id: span.spanId, trace_flags: span.isSampled ? '01' : '00' }
}
