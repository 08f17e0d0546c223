/**
 * Errors on the wire: the one place that turns an error into an answer (RFC 9457, application/problem+json).
 *
 * A GatewayError is shown as the catalogue has it. What Fastify rejects is translated. Everything else is a
 * fault of ours: the client sees `internal` and nothing of it, the log gets it whole.
 */
import { STATUS_CODES } from 'node:http'
import type { FastifyError, FastifyReply, FastifyRequest } from 'fastify'
import { GatewayError } from '../errors.ts'
import type { ErrorCode } from '../errors.ts'
import { createThrottle } from '../log.ts'
import { PROBLEM_TYPE, problemOf } from '../problem.ts'

/** Clients that were turned away together should not return together. */
const RETRY_AFTER_JITTER_SECONDS = 2

/** By code: while Redis or WeChat is away, every request is refused for the same reason. */
const throttleRefusals = createThrottle(2_000)

/** Answers a request with an error, and tells the log what the client is not shown. */
export function sendProblem(error: unknown, request: FastifyRequest, reply: FastifyReply): void {
  const shown = toGatewayError(error)
  request.outcome = shown.code
  if (shown.code === 'internal')
    request.log.error({ reqId: request.id, err: error, route: request.routeOptions.url }, 'request failed')
  else if (shown.status >= 500) {
    const { code, errcode, rid, cause } = shown
    const isShed = code === 'overloaded' && cause === undefined // counted, and logged once for all
    const reason = cause instanceof Error ? cause.message : undefined
    throttleRefusals(code, (held) =>
      request.log[isShed ? 'debug' : 'warn'](
        {
          reqId: request.id,
          outcome: code,
          errcode,
          rid,
          cause: reason,
          ...(held > 0 ? { heldBack: held } : {}),
        },
        'request refused',
      ),
    )
  }
  if (shown.status === 401 && !reply.hasHeader('www-authenticate')) reply.header('www-authenticate', 'Bearer')
  const { retryAfterSeconds } = shown
  if (retryAfterSeconds !== undefined) {
    reply.header(
      'retry-after',
      retryAfterSeconds + Math.floor(Math.random() * (RETRY_AFTER_JITTER_SECONDS + 1)),
    )
  }
  reply
    .code(shown.status)
    .header('content-type', PROBLEM_TYPE)
    .send(JSON.stringify(problemOf(shown)))
}

/** What an error of any origin is to the client; `internal` when it means nothing to it. */
function toGatewayError(error: unknown): GatewayError {
  if (error instanceof GatewayError) return error
  const { code, statusCode, validation, message } = (error ?? {}) as Partial<FastifyError>
  // A validator's message names the field and the rule, never the value.
  if (validation !== undefined) return new GatewayError('request_invalid', { detail: message })
  switch (code ?? '') {
    case 'FST_ERR_CTP_INVALID_MEDIA_TYPE':
      return new GatewayError('media_type_unsupported')
    case 'FST_ERR_CTP_BODY_TOO_LARGE':
      return new GatewayError('body_too_large')
    case 'FST_ERR_BAD_URL':
      return new GatewayError('request_invalid', { detail: 'The address is not correctly encoded.' })
  }
  if (statusCode === 414) return new GatewayError('uri_too_long')
  if (statusCode !== undefined && statusCode >= 400 && statusCode < 500) {
    return new GatewayError('request_invalid', { detail: 'The request could not be read.' })
  }
  return new GatewayError('internal', { cause: error })
}

/** The answer to what Node's HTTP parser rejects, before there is a request. */
export function clientErrorResponse(error: NodeJS.ErrnoException): string {
  return rawResponse(CLIENT_ERRORS[error.code ?? ''] ?? 'request_invalid')
}

/** A whole HTTP response, written by hand, for a socket that no request object stands for. */
export function rawResponse(code: ErrorCode): string {
  const problem = problemOf(new GatewayError(code))
  const body = JSON.stringify(problem)
  return [
    `HTTP/1.1 ${problem.status} ${STATUS_CODES[problem.status]}`,
    `content-type: ${PROBLEM_TYPE}`,
    `content-length: ${Buffer.byteLength(body)}`,
    'cache-control: no-store',
    'x-content-type-options: nosniff',
    'connection: close',
    '',
    body,
  ].join('\r\n')
}

const CLIENT_ERRORS: Partial<Record<string, ErrorCode>> = {
  ERR_HTTP_REQUEST_TIMEOUT: 'request_timeout',
  HPE_HEADER_OVERFLOW: 'headers_too_large',
}
