/**
 * Webhooks over the worker's own listener, for whoever has WORKER_TOKEN: what `npm run webhooks` does, for a program.
 *
 *   GET  /webhooks         the endpoints: what waits, what is dead, which are disabled
 *   GET  /webhooks/dead    ?endpoint=NAME&limit=N: dead deliveries, the latest first
 *   POST /webhooks/replay  {ids: […]} or {all: true, endpoint?}: tried again, with their ids and all attempts
 *
 * The gateway has no database, which is why they are not on its admin listener. Errors are those of the catalogue.
 */
import { createHash, timingSafeEqual } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { GatewayError } from '../../src/errors.ts'
import type { Log } from '../../src/log.ts'
import { PROBLEM_TYPE, problemOf } from '../../src/problem.ts'
import type { Secret } from '../../src/secret.ts'
import { ENDPOINT_NAME } from '../../src/webhook-endpoints.ts'
import { describeDatabaseError } from '../database-errors.ts'
import type { Deliveries } from './deliveries.ts'
import { summarize } from './summary.ts'

const BODY_BYTES_MAX = 16_384
const IDS_MAX = 200
const LIMIT_DEFAULT = 50
const LIMIT_MAX = 500
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/

export interface WebhookAdminDeps {
  readonly deliveries: Deliveries
  /** Of WEBHOOKS_FILE. */
  readonly endpoints: readonly { readonly name: string }[]
  readonly token: Secret<string>
  readonly log: Log
}

/** Answers requests whose path begins with /webhooks. */
export type WebhookAdmin = (request: IncomingMessage, response: ServerResponse) => void

/** Builds it. */
export function createWebhookAdmin({ deliveries, endpoints, token, log }: WebhookAdminDeps): WebhookAdmin {
  const expected = digest(`Bearer ${token.reveal()}`)

  async function answer(request: IncomingMessage): Promise<object> {
    // Hashes have one length, so the comparison takes one time.
    if (!timingSafeEqual(digest(request.headers.authorization ?? ''), expected))
      throw new GatewayError('admin_unauthorized')
    const { pathname, searchParams } = new URL(request.url ?? '', 'http://worker')
    const isPost = request.method === 'POST'
    if (pathname === '/webhooks/replay' ? !isPost : request.method !== 'GET')
      throw new GatewayError('method_not_allowed')
    switch (pathname) {
      case '/webhooks':
        return { endpoints: await summarize(deliveries, endpoints) }
      case '/webhooks/dead':
        return { dead: await listDead(deliveries, searchParams) }
      case '/webhooks/replay':
        return replay(deliveries, readReplay(await readJson(request)))
      default:
        throw new GatewayError('not_found')
    }
  }

  return (request, response) => {
    answer(request).then(
      (body) => send(response, 200, 'application/json; charset=utf-8', body),
      (error: unknown) => {
        const shown = error instanceof GatewayError ? error : databaseAway()
        if (shown !== error) log.warn(describeDatabaseError(error), 'a question about webhooks failed')
        if (shown.status === 401) response.setHeader('www-authenticate', 'Bearer')
        if (shown.retryAfterSeconds !== undefined) response.setHeader('retry-after', shown.retryAfterSeconds)
        send(response, shown.status, PROBLEM_TYPE, problemOf(shown))
      },
    )
  }
}

function send(response: ServerResponse, status: number, type: string, body: object): void {
  response
    .writeHead(status, {
      'content-type': type,
      'cache-control': 'no-store',
      'x-content-type-options': 'nosniff',
    })
    .end(JSON.stringify(body))
}

function digest(text: string): Buffer {
  return createHash('sha256').update(text).digest()
}

async function listDead(deliveries: Deliveries, query: URLSearchParams) {
  const limit = query.get('limit') ?? String(LIMIT_DEFAULT)
  if (!/^[1-9]\d{0,2}$/.test(limit) || Number(limit) > LIMIT_MAX)
    throw invalid(`limit must be a number from 1 to ${LIMIT_MAX}.`)
  const endpoint = query.get('endpoint') ?? undefined
  if (endpoint !== undefined && !isName(endpoint)) throw invalid('endpoint must be a name.')
  const listed = await deliveries.dead(Number(limit), endpoint)
  return listed.map(({ eventId, endpoint, type, attempts, lastResult, createdAt, finishedAt }) => ({
    id: eventId,
    endpoint,
    type,
    attempts,
    last_result: lastResult,
    created_at: createdAt.toISOString(),
    died_at: finishedAt?.toISOString(),
  }))
}

type Replay = { readonly ids: readonly string[] } | { readonly endpoint: string | undefined }

async function replay(deliveries: Deliveries, asked: Replay) {
  if ('endpoint' in asked) return { replayed: await deliveries.replay(asked), not_dead: [] }
  const counts: [string, number][] = []
  for (const id of asked.ids) counts.push([id, await deliveries.replay({ eventIds: [id] })])
  return {
    replayed: counts.reduce((sum, [, count]) => sum + count, 0),
    not_dead: counts.filter(([, count]) => count === 0).map(([id]) => id),
  }
}

/** @throws {GatewayError} request_invalid */
function readReplay(body: unknown): Replay {
  const fields = (typeof body === 'object' && body !== null ? body : {}) as Record<string, unknown>
  const { ids, all, endpoint, ...others } = fields
  if (Object.keys(others).length > 0) throw invalid('There are ids, all and endpoint.')
  if (all === true && ids === undefined) {
    if (endpoint === undefined || isName(endpoint)) return { endpoint }
    throw invalid('endpoint must be a name.')
  }
  const areIds = Array.isArray(ids) && ids.length > 0 && ids.length <= IDS_MAX && ids.every(isId)
  if (!areIds || all !== undefined || endpoint !== undefined)
    throw invalid(`Either up to ${IDS_MAX} ids or all: true must be given.`)
  return { ids }
}

/** @throws {GatewayError} request_invalid, body_too_large, media_type_unsupported */
async function readJson(request: IncomingMessage): Promise<unknown> {
  if (!/^application\/json(;|$)/.test(request.headers['content-type'] ?? ''))
    throw new GatewayError('media_type_unsupported')
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length
    if (bytes > BODY_BYTES_MAX) throw new GatewayError('body_too_large')
    chunks.push(chunk)
  }
  try {
    return JSON.parse(Buffer.concat(chunks).toString())
  } catch {
    throw invalid('The body is no JSON.') // the parser's message would quote it
  }
}

function invalid(detail: string): GatewayError {
  return new GatewayError('request_invalid', { detail })
}

function isId(id: unknown): id is string {
  return typeof id === 'string' && UUID.test(id)
}

/** The database takes no NUL, and would be said not to answer. */
function isName(endpoint: unknown): endpoint is string {
  return typeof endpoint === 'string' && ENDPOINT_NAME.test(endpoint)
}

function databaseAway(): GatewayError {
  return new GatewayError('store_unavailable', { detail: 'The database does not answer.' })
}
