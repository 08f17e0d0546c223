/**
 * A Fastify instance as both listeners use it: every limit set on purpose, strict about input, silent
 * about itself.
 */
import { randomUUID } from 'node:crypto'
import type { Duplex } from 'node:stream'
import Fastify, { LogController } from 'fastify'
import type { FastifyReply, FastifyRequest, RouteOptions } from 'fastify'
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import type { Health } from '../health.ts'
import { withoutRedaction } from '../log.ts'
import type { Log } from '../log.ts'
import type { GatewayMetrics } from '../metrics/gateway.ts'
import type { Shedding } from '../shedding.ts'
import type { Tracing } from '../tracing/tracing.ts'
import { GatewayError } from '../errors.ts'
import { addDraining } from './draining.ts'
import { clientErrorResponse, rawResponse, sendProblem } from './problems.ts'
import { addRequestEnd } from './request-end.ts'
import { createRequestSpanHooks } from './request-spans.ts'
import { createSheddingHooks } from './shedding-hook.ts'
import { addTimeLimit } from './time-limit.ts'

/** The largest body we take is a login of some hundred bytes. */
const BODY_BYTES_MAX = 2_048
const HEADER_BYTES_MAX = 8_192
/** Of one part of an address: an openid has 128 at most. Fastify's default is 100. */
const PARAM_CHARS_MAX = 128
/** Closed after 2.5 s at the latest, with the time between two checks. */
const HEADERS_TIMEOUT_MS = 1_900
const REQUEST_TIMEOUT_MS = 3_000
const TIMEOUT_CHECK_MS = 500
/** Longer than a load balancer keeps idle connections (60 s), so that it is never us who closes first. */
const KEEP_ALIVE_MS = 75_000
/** How much longer than the login's deadline a handler may take before its client is told. */
const HANDLER_MARGIN_MS = 1_000
const REQUESTS_PER_CONNECTION_MAX = 10_000
const CONNECTIONS_MAX = 5_000
/** Time to read why it was turned away, before a connection is cut. */
const DISMISS_MS = 1_000

/** For those who sit before a gateway: deploy/load-balancers/ is compared with these by its test. */
export const SERVER_LIMITS = {
  bodyBytesMax: BODY_BYTES_MAX,
  headerBytesMax: HEADER_BYTES_MAX,
  requestTimeoutMs: REQUEST_TIMEOUT_MS,
  keepAliveMs: KEEP_ALIVE_MS,
  handlerMarginMs: HANDLER_MARGIN_MS,
  requestsPerConnectionMax: REQUESTS_PER_CONNECTION_MAX,
  connectionsMax: CONNECTIONS_MAX,
} as const

/** Nothing else may stand beside it: parameters and stray characters have let bodies slip past validation. */
const JSON_TYPE = /^application\/json(; ?charset=utf-8)?$/i
const REQUEST_ID = /^[A-Za-z0-9-]{8,64}$/
const BYTE_ORDER_MARK = '\uFEFF'
const METHODS = ['GET', 'POST', 'PUT', 'DELETE', 'PATCH'] as const

declare module 'fastify' {
  interface FastifyRequest {
    /** What became of the request, for the log: ok or the code of the error. */
    outcome: string
  }
}

export interface ServerDeps {
  log: Log
  health: Health
  metrics: GatewayMetrics
  shedding: Shedding
  trustProxy: readonly string[]
  loginDeadlineMs: number
  tracing: Tracing | undefined
}

/**
 * A listener with its limits, its errors and its hooks; the routes are the caller's.
 * @param reconsider what an error is to be shown as, where a listener has a say in it
 */
export function createServer(
  { log, health, metrics, shedding, trustProxy, loginDeadlineMs, tracing }: ServerDeps,
  reconsider: (error: unknown, request: FastifyRequest) => unknown = (error) => error,
) {
  const handlerMsMax = loginDeadlineMs + HANDLER_MARGIN_MS
  const requestLog = withoutRedaction(log)
  const app = Fastify({
    loggerInstance: log,
    // A child of it for each request would only carry an id, which every line names for itself.
    childLoggerFactory: (logger) => logger,
    logController: new LogController({ disableRequestLogging: true }),
    bodyLimit: BODY_BYTES_MAX,
    routerOptions: { maxParamLength: PARAM_CHARS_MAX },
    requestTimeout: REQUEST_TIMEOUT_MS,
    keepAliveTimeout: KEEP_ALIVE_MS,
    maxRequestsPerSocket: REQUESTS_PER_CONNECTION_MAX,
    http: {
      headersTimeout: HEADERS_TIMEOUT_MS,
      connectionsCheckingInterval: TIMEOUT_CHECK_MS, // Node looks for late requests every 30 s otherwise
      maxHeaderSize: HEADER_BYTES_MAX,
    },
    // Answers go on while we drain; the load balancer decides when to stop asking.
    return503OnClosing: false,
    trustProxy: trustProxy.length > 0 ? [...trustProxy] : false,
    exposeHeadRoutes: false,
    requestIdHeader: false,
    genReqId(request) {
      const given = request.headers['x-request-id']
      return typeof given === 'string' && REQUEST_ID.test(given) ? given : randomUUID()
    },
    // Fastify's own default turns 5 into "5" and drops unknown fields; a client should hear of its mistakes.
    ajv: {
      customOptions: { coerceTypes: false, removeAdditional: false, useDefaults: false, allErrors: false },
    },
    schemaErrorFormatter(errors, where) {
      const [first] = errors
      return new Error(
        `${where}${(first?.instancePath ?? '').replaceAll('/', '.')} ${first?.message ?? 'is not valid'}`,
      )
    },
    frameworkErrors(error, request, reply) {
      setCommonHeaders(request, reply, health) // no hook runs for these
      sendProblem(error, request, reply)
    },
    clientErrorHandler(error, socket) {
      if (error.code === 'ECONNRESET' || !socket.writable) return
      dismiss(socket, clientErrorResponse(error))
    },
  }).withTypeProvider<TypeBoxTypeProvider>()

  app.server.maxConnections = CONNECTIONS_MAX
  // Node hands a CONNECT to nobody else, and without a listener it hangs up without a word.
  app.server.on('connect', (_request, socket) => dismiss(socket, rawResponse('method_not_allowed')))
  // An expectation other than 100-continue is left unmet, which RFC 9110 allows; Node would answer without a body.
  app.server.on('checkExpectation', (request, response) => app.server.emit('request', request, response))
  app.removeContentTypeParser('text/plain')
  // wx.request sends `content-type: application/json` with every request, also with a DELETE without a body.
  const parseJson = app.getDefaultJsonParser('error', 'error')
  app.removeContentTypeParser('application/json')
  app.addContentTypeParser<string>('application/json', { parseAs: 'string' }, (request, body, done) => {
    if (!JSON_TYPE.test(request.headers['content-type'] ?? '') || hasSeveralTypes(request.raw.rawHeaders))
      done(new GatewayError('media_type_unsupported'))
    else if (body.startsWith(BYTE_ORDER_MARK))
      done(new GatewayError('request_invalid', { detail: 'JSON does not begin with a byte order mark.' }))
    else if (body.length === 0) done(null, undefined)
    else void parseJson(request, body, done)
  })
  app.decorateRequest('outcome', 'ok')
  app.decorateRequest('leave', undefined)
  app.setErrorHandler((error, request, reply) => sendProblem(reconsider(error, request), request, reply))
  const routes = createRouteList()
  app.addHook('onRoute', routes.add)
  app.setNotFoundHandler((request, reply) => {
    // The answer names nothing of the request: an address may hold what somebody pasted by mistake.
    const methods = routes.methodsAt(request.url.split('?')[0] ?? '')
    if (methods.length === 0) throw new GatewayError('not_found')
    reply.header('allow', methods.join(', '))
    throw new GatewayError('method_not_allowed')
  })

  const spanHooks = tracing && createRequestSpanHooks(tracing, trustProxy)
  if (spanHooks !== undefined) {
    app.decorateRequest('span', undefined)
    app.addHook('onRequest', spanHooks.onRequest)
  }
  addRequestEnd(app, (request, reply) => {
    const tell = () => tellOf(request, reply)
    if (spanHooks === undefined) tell()
    else spanHooks.onEnd(request, reply, tell)
  })
  const sheddingHooks = createSheddingHooks(shedding, handlerMsMax)
  addTimeLimit(app, handlerMsMax)
  addDraining(app, { requestTimeoutMs: REQUEST_TIMEOUT_MS, handlerTimeoutMs: handlerMsMax })
  app.addHook('onRequest', sheddingHooks.onRequest)
  app.addHook('onSend', sheddingHooks.onSend)
  app.addHook('onSend', (request, reply, _payload, done) => {
    setCommonHeaders(request, reply, health)
    done()
  })
  return app

  function tellOf(request: FastifyRequest, reply: FastifyReply): void {
    const route = request.routeOptions.url ?? 'none'
    const { method } = request
    const status = reply.statusCode
    metrics.requests.inc({
      route,
      method: METHODS.some((known) => known === method) ? method : 'other',
      status,
    })
    // Never the address itself: a code or token may stand in its query.
    const line = {
      reqId: request.id,
      method,
      route,
      status,
      ms: Math.round(reply.elapsedTime),
      outcome: request.outcome,
    }
    // A line for each request that is shed would be a load of its own.
    if (QUIET_ROUTES.has(route) || request.outcome === 'overloaded') requestLog.debug(line, 'request')
    else requestLog.info(line, 'request')
  }
}

export type Server = ReturnType<typeof createServer>

/**
 * The routes, and which methods an address answers. Not app.hasRoute(): that reads its argument as a pattern,
 * and throws at addresses such as /:a( that a stranger may send.
 */
function createRouteList() {
  const routes: { pattern: RegExp; methods: string[] }[] = []
  return {
    add({ url, method }: Pick<RouteOptions, 'url' | 'method'>): void {
      const parts = url.split('/').map((part) => (part.startsWith(':') ? '[^/]+' : RegExp.escape(part)))
      routes.push({ pattern: new RegExp(`^${parts.join('/')}$`), methods: [method].flat() })
    },
    methodsAt(path: string): string[] {
      const fitting = routes.filter(({ pattern }) => pattern.test(path))
      return [...new Set(fitting.flatMap(({ methods }) => methods))]
    },
  }
}

/** Node keeps the first of several; somebody before us may have read another. */
function hasSeveralTypes(rawHeaders: readonly string[]): boolean {
  let count = 0
  for (let i = 0; i < rawHeaders.length; i += 2) {
    if (rawHeaders[i]?.toLowerCase() === 'content-type') count += 1
  }
  return count > 1
}

function setCommonHeaders(
  request: { id: string },
  reply: Pick<FastifyReply, 'header'>,
  health: Health,
): void {
  reply.header('cache-control', 'no-store')
  reply.header('x-content-type-options', 'nosniff')
  reply.header('x-request-id', request.id)
  // Clients and load balancers open their next connection elsewhere.
  if (health.isDraining()) reply.header('connection', 'close')
}

/** Says why on a socket that carries no request, and hangs up, whether or not the other side does. */
function dismiss(socket: Duplex, response: string): void {
  socket.end(response)
  const timer = setTimeout(() => socket.destroy(), DISMISS_MS)
  socket.once('close', () => clearTimeout(timer))
}

/** Asked many times a second by machines: logged only when debugging. */
const QUIET_ROUTES: ReadonlySet<string> = new Set(['/auth', '/livez', '/readyz', '/metrics'])
