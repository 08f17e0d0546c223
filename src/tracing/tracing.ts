/** Tracing as the rest of the program knows it: how it is configured, and what it does. */
import type { Secret } from '../secret.ts'
import type { SpanAttributes } from './attributes.ts'
import type { Span, SpanReference } from './span.ts'

export interface TracingConfig {
  /** Of the collector, without /v1/traces. */
  readonly endpoint: string
  /** name=value, comma list. */
  readonly headers: Secret<string> | undefined
  /** Of the requests that come without a trace that is believed. From 0 to 1. */
  readonly share: number
  /** Whether the trace that a request from TRUST_PROXY names is continued. */
  readonly trustsParent: boolean
}

/** exported, failed (the collector did not take them), or dropped (too many waited). */
export type SpanFate = 'exported' | 'failed' | 'dropped'

export interface Tracing {
  readonly trustsParent: boolean
  /**
   * Begins what stands at the top of this process: a request or a job. Whether it is sampled is its parent's to say,
   * else chance's.
   */
  begin(
    name: string,
    options: {
      kind: 'server' | 'consumer'
      attributes: SpanAttributes
      /** Continued. */
      parent?: SpanReference | undefined
      /** Pointed at, and of no influence. */
      link?: SpanReference | undefined
    },
  ): Span
  /** Told what became of spans. One listener. */
  onSpans(listener: (fate: SpanFate, spans: number) => void): void
  /** Sends what waits, without being waited for. */
  flush(): void
  /** Sends what waits. Takes as long as the collector takes, so not to be waited for without a bound. Never rejects. */
  close(): Promise<void>
}
