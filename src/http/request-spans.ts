/**
 * A span for each request, in whose name all runs that is done for it. Only with tracing on.
 *
 * The trace that a request names (`traceparent`) is the client's word, unless a proxy of ours writes the header itself:
 * who believed it would let clients decide what is sampled, and put their spans into any trace. So the trace is our own
 * and points at it; it is continued with TRACE_TRUST_PARENT alone, and only when it comes from TRUST_PROXY.
 */
import { isIPv4 } from 'node:net'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { addressList } from '../addresses.ts'
import { runIn } from '../tracing/span.ts'
import type { Span } from '../tracing/span.ts'
import { parseTraceParent } from '../tracing/trace-parent.ts'
import type { Tracing } from '../tracing/tracing.ts'

declare module 'fastify' {
  interface FastifyRequest {
    span: Span | undefined
  }
}

/** Asked by machines, all the time. */
const UNTRACED_ROUTES: ReadonlySet<string> = new Set(['/livez', '/readyz', '/metrics'])

/** To come before all other hooks. @param trustProxy CIDR ranges */
export function createRequestSpanHooks(tracing: Tracing, trustProxy: readonly string[]) {
  const proxies = addressList(trustProxy)

  /** What the request names is continued, or pointed at. */
  function placeOf({ headers, socket }: FastifyRequest) {
    const named = parseTraceParent(headers['traceparent'])
    if (named === undefined) return {}
    const { remoteAddress = '' } = socket
    const isBelieved =
      tracing.trustsParent && proxies.check(remoteAddress, isIPv4(remoteAddress) ? 'ipv4' : 'ipv6')
    return isBelieved ? { parent: named } : { link: named }
  }

  return {
    onRequest(request: FastifyRequest, _reply: FastifyReply, done: () => void): void {
      const { method } = request
      const route = request.routeOptions.url
      if (UNTRACED_ROUTES.has(route ?? '')) return done()
      request.span = tracing.begin(route === undefined ? method : `${method} ${route}`, {
        kind: 'server',
        attributes: { 'http.request.method': method, ...(route !== undefined && { 'http.route': route }) },
        ...placeOf(request),
      })
      runIn(request.span, done)
    },
    /** @param tell run in the name of the span: writes the line of the log */
    onEnd(request: FastifyRequest, { statusCode }: FastifyReply, tell: () => void): void {
      const { span, outcome } = request
      if (span === undefined) return tell()
      span.set({ 'http.response.status_code': statusCode, 'gateway.outcome': outcome })
      span.end(statusCode >= 500 ? outcome : undefined)
      runIn(span, tell)
    },
  }
}
