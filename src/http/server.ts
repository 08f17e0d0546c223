/**
 * A Fastify instance as both listeners use it: every limit set on purpose, strict about input, silent
 * about itself.
 */
import { randomUUID } from 'node:crypto'
import Fastify, { LogController } from 'fastify'
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import type { Health } from '../health.ts'
import type { Log } from '../log.ts'
import type { GatewayMetrics } from '../metrics.ts'
import { GatewayError } from '../errors.ts'
import { clientErrorResponse, sendProblem } from './problems.ts'

/** The largest body we take is a login of some hundred bytes. */
const BODY_BYTES_MAX = 2_048
const HEADER_BYTES_MAX = 8_192
const HEADERS_TIMEOUT_MS = 2_500
const REQUEST_TIMEOUT_MS = 3_000
const TIMEOUT_CHECK_MS = 500
/** Longer than a load balancer keeps idle connections (60 s), so that it is never us who closes first. */
const KEEP_ALIVE_MS = 75_000
/** How much longer than the login's deadline a handler may take before its client is told. */
const HANDLER_MARGIN_MS = 1_000
const REQUESTS_PER_CONNECTION_MAX = 10_000
const CONNECTIONS_MAX = 5_000
/** While draining, connections that have become idle are closed this often. */
const IDLE_CLOSE_MS = 100

/** Nothing else may stand beside it: parameters and stray characters have let bodies slip past validation. */
const JSON_TYPE = /^application\/json(; ?charset=utf-8)?$/i
const REQUEST_ID = /^[A-Za-z0-9-]{8,64}$/
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
  trustProxy: readonly string[]
  loginDeadlineMs: number
}

export function createServer({ log, health, metrics, trustProxy, loginDeadlineMs }: ServerDeps) {
  const app = Fastify({
    loggerInstance: log,
    logController: new LogController({ disableRequestLogging: true }),
    bodyLimit: BODY_BYTES_MAX,
    requestTimeout: REQUEST_TIMEOUT_MS,
    handlerTimeout: loginDeadlineMs + HANDLER_MARGIN_MS,
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
    frameworkErrors: (error, request, reply) => sendProblem(error, request, reply),
    clientErrorHandler(error, socket) {
      if (error.code === 'ECONNRESET' || !socket.writable) return
      socket.end(clientErrorResponse(error))
    },
  }).withTypeProvider<TypeBoxTypeProvider>()

  app.server.maxConnections = CONNECTIONS_MAX
  app.removeContentTypeParser('text/plain')
  // wx.request sends `content-type: application/json` with every request, also with a DELETE without a body.
  const parseJson = app.getDefaultJsonParser('error', 'error')
  app.removeContentTypeParser('application/json')
  app.addContentTypeParser<string>('application/json', { parseAs: 'string' }, (request, body, done) => {
    if (!JSON_TYPE.test(request.headers['content-type'] ?? ''))
      done(new GatewayError('media_type_unsupported'))
    else if (body.length === 0) done(null, undefined)
    else void parseJson(request, body, done)
  })
  app.decorateRequest('outcome', 'ok')
  app.setErrorHandler(sendProblem)
  app.setNotFoundHandler((request) => {
    // The answer names nothing of the request: an address may hold what somebody pasted by mistake.
    const url = request.url.split('?')[0] ?? ''
    const otherMethod = METHODS.some((method) => method !== request.method && app.hasRoute({ url, method }))
    throw new GatewayError(otherMethod ? 'method_not_allowed' : 'not_found')
  })

  app.addHook('onSend', async (request, reply) => {
    reply.header('cache-control', 'no-store')
    reply.header('x-content-type-options', 'nosniff')
    reply.header('x-request-id', request.id)
    if (health.isDraining()) reply.header('connection', 'close')
  })
  app.addHook('onResponse', async (request, reply) => {
    const route = request.routeOptions.url ?? 'none'
    const { method } = request
    const status = reply.statusCode
    metrics.requests.inc({
      route,
      method: METHODS.some((known) => known === method) ? method : 'other',
      status,
    })
    // Never the address itself: a code or token may stand in its query.
    const line = { method, route, status, ms: Math.round(reply.elapsedTime), outcome: request.outcome }
    if (QUIET_ROUTES.has(route)) request.log.debug(line, 'request')
    else request.log.info(line, 'request')
  })
  // close() waits for connections that fall idle after it began until their keep-alive ends (fastify#7044).
  app.addHook('preClose', async () => {
    const closer = setInterval(() => app.server.closeIdleConnections(), IDLE_CLOSE_MS)
    app.server.once('close', () => clearInterval(closer))
    closer.unref()
  })
  return app
}

export type Server = ReturnType<typeof createServer>

/** Asked many times a second by machines: logged only when debugging. */
const QUIET_ROUTES: ReadonlySet<string> = new Set(['/auth', '/livez', '/readyz', '/metrics'])
