/**
 * A place in a trace, as it travels: in the header `traceparent` of a request, and packed in a job.
 *
 * Source: https://www.w3.org/TR/trace-context/
 */
import type { SpanReference } from './span.ts'

const TRACE_PARENT = /^(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-|$)/
const VERSION_0_LENGTH = 55
const ALL_ZERO = /^0+$/
const SAMPLED = 1

/** undefined when it is none. */
export function parseTraceParent(header: unknown): SpanReference | undefined {
  if (typeof header !== 'string') return undefined
  const [, traceId = '0', spanId = '0', flags = '00'] = TRACE_PARENT.exec(header) ?? []
  if (ALL_ZERO.test(traceId) || ALL_ZERO.test(spanId)) return undefined
  if (header.startsWith('00-') && header.length !== VERSION_0_LENGTH) return undefined
  return { traceId, spanId, isSampled: (Number.parseInt(flags, 16) & SAMPLED) !== 0 }
}

/** 32 characters where the header takes 55: every byte of a job that waits is a byte of Redis. */
export function packSpan({ traceId, spanId }: SpanReference): string {
  return Buffer.from(traceId + spanId, 'hex').toString('base64url')
}

const PACKED = /^[A-Za-z0-9_-]{32}$/

/** Only what is sampled is packed. undefined when it is nothing that packSpan() has made. */
export function unpackSpan(packed: unknown): SpanReference | undefined {
  if (typeof packed !== 'string' || !PACKED.test(packed)) return undefined
  const hex = Buffer.from(packed, 'base64url').toString('hex')
  return parseTraceParent(`00-${hex.slice(0, 32)}-${hex.slice(32)}-01`)
}
