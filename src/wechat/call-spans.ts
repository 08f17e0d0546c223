/**
 * A span for each call of WeChat. Only with tracing on.
 *
 * The address of a call is a secret: the span has its host and its path, and never the query. WeChat is not told of the
 * trace.
 */
import type { SpanAttributes } from '../tracing/attributes.ts'
import { activeSpan, inSpan } from '../tracing/span.ts'
import { CallError } from './calls.ts'
import type { Answer, Calls } from './calls.ts'

/** The same calls, told of. */
export function traceCalls(calls: Calls): Calls {
  return {
    ...calls,
    get: (origin, path, deadline) => told('GET', origin, path, () => calls.get(origin, path, deadline)),
    post: (origin, path, json, deadline) =>
      told('POST', origin, path, () => calls.post(origin, path, json, deadline)),
  }
}

function told(method: string, origin: string, pathAndQuery: string, call: () => Promise<Answer>) {
  const { hostname, port, protocol } = new URL(origin)
  const [path = ''] = pathAndQuery.split('?')
  const attributes: SpanAttributes = {
    'http.request.method': method,
    'server.address': hostname,
    'server.port': Number(port) || (protocol === 'https:' ? 443 : 80),
    'url.template': path,
  }
  return inSpan(
    `${method} ${path}`,
    { kind: 'client', attributes },
    async (span) => {
      const answer = await call()
      span?.set({ 'http.response.status_code': answer.status })
      return answer
    },
    (error) => (error instanceof CallError ? error.failure : 'fault'),
  )
}

/** Of an exchange, what WeChat said on the way. */
export function tellOfErrcode(errcode: number, meaning: string, rid: string | undefined): void {
  activeSpan()?.event('errcode', {
    'wechat.errcode': errcode,
    'wechat.errcode.meaning': meaning,
    ...(rid !== undefined && { 'wechat.rid': rid }),
  })
}
