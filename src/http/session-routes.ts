/** The bearer's own sessions, and forward auth for the backends behind a proxy. */
import { Type } from './schema.ts'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { GatewayError } from '../errors.ts'
import type { ListedSession, Session, Sessions } from '../sessions.ts'
import { bearerOf } from './client.ts'
import type { Server } from './server.ts'

const NoFields = Type.Object({}, { additionalProperties: false })

const SessionAnswer = Type.Object({
  sub: Type.String(),
  appid: Type.String(),
  openid: Type.Optional(Type.String()),
  unionid: Type.Optional(Type.String()),
  issued_at: Type.Integer({ description: 'unix seconds' }),
  expires_in: Type.Integer({ description: 'seconds' }),
  device: Type.String(),
  provisioned: Type.Boolean(),
  user_id: Type.Optional(Type.String()),
})

/** One session in a list. */
export const ListedSessionAnswer = Type.Object({
  id: Type.String(),
  issued_at: Type.Integer({ description: 'unix seconds' }),
  last_used_at: Type.Integer({
    description: 'unix seconds, noted at most once in a tenth of SESSION_TTL_SECONDS',
  }),
  expires_in: Type.Integer({ description: 'seconds' }),
  device: Type.String(),
  current: Type.Boolean(),
})
const SessionsAnswer = Type.Object({ sessions: Type.Array(ListedSessionAnswer) })

/** An id as it stands in the list: 16 bytes. */
const SessionPath = Type.Object({ id: Type.String({ pattern: '^[A-Za-z0-9_-]{22}$' }) })
const KeepField = Type.Object(
  { keep: Type.Optional(Type.Literal('current')) },
  { additionalProperties: false },
)

/** Set by the proxy of a backend that serves one app. A client that sends it can only lock itself out. */
const REQUIRED_APPID_HEADER = 'x-auth-require-appid'

export interface SessionRoutesDeps {
  sessions: Sessions
  exposeOpenid: boolean
}

/** The routes of this page. */
export function addSessionRoutes(app: Server, { sessions, exposeOpenid }: SessionRoutesDeps): void {
  async function findSession(request: FastifyRequest, requiredAppid?: string | string[]): Promise<Session> {
    // Given twice it names no app.
    const session = await sessions.find(bearerOf(request), requiredAppid?.toString())
    if (session === undefined) throw new GatewayError('session_invalid')
    return session
  }

  app.get(
    '/session',
    { schema: { querystring: NoFields, response: { 200: SessionAnswer } } },
    async (request) => wireSession(await findSession(request), exposeOpenid),
  )

  app.delete('/session', { schema: { querystring: NoFields } }, async (request, reply) => {
    if (!(await sessions.revoke(bearerOf(request)))) throw new GatewayError('session_invalid')
    return reply.code(204).send()
  })

  app.get(
    '/sessions',
    { schema: { querystring: NoFields, response: { 200: SessionsAnswer } } },
    async (request) => {
      const list = await sessions.list(bearerOf(request))
      if (list === undefined) throw new GatewayError('session_invalid')
      return { sessions: list.map(wireListed) }
    },
  )

  app.delete('/sessions', { schema: { querystring: KeepField } }, async (request, reply) => {
    const token = bearerOf(request)
    const found =
      request.query.keep === 'current' ? await sessions.revokeOthers(token) : await sessions.revokeAll(token)
    if (!found) throw new GatewayError('session_invalid')
    return reply.code(204).send()
  })

  app.delete(
    '/sessions/:id',
    { schema: { params: SessionPath, querystring: NoFields } },
    async (request, reply) => {
      const revoked = await sessions.revokeById(bearerOf(request), request.params.id)
      if (revoked === undefined) throw new GatewayError('session_invalid')
      if (!revoked) throw new GatewayError('not_found')
      return reply.code(204).send()
    },
  )

  // A scope of its own: a proxy passes on the client's method, query and body, none of which matter here.
  app.register(async (scope) => {
    scope.addHook('onRequest', (request, _reply, done) => {
      delete request.headers['content-type'] // a malformed one would be refused
      done()
    })
    scope.removeAllContentTypeParsers()
    scope.addContentTypeParser('*', (_request, payload, done) => {
      payload.resume()
      done(null)
    })
    scope.route({
      method: ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'],
      url: '/auth',
      handler: async (request, reply) =>
        authorise(await findSession(request, request.headers[REQUIRED_APPID_HEADER]), reply),
    })
  })
}

function authorise({ sub, appid, openid, unionid }: Session, reply: FastifyReply): FastifyReply {
  reply.header('x-auth-subject', sub).header('x-auth-appid', appid).header('x-auth-openid', openid)
  if (unionid !== undefined) reply.header('x-auth-unionid', unionid)
  return reply.code(200).send()
}

/** A listed session in the words of the wire. */
export function wireListed(session: ListedSession) {
  return {
    id: session.id,
    issued_at: session.issuedAtSeconds,
    last_used_at: session.lastUsedAtSeconds,
    expires_in: session.expiresInSeconds,
    device: session.device,
    current: session.current,
  }
}

function wireSession(session: Session, exposeOpenid: boolean) {
  const { sub, appid, openid, unionid, issuedAtSeconds, expiresInSeconds, device, userId } = session
  return {
    sub,
    appid,
    ...(exposeOpenid ? { openid } : {}),
    ...(exposeOpenid && unionid !== undefined ? { unionid } : {}),
    issued_at: issuedAtSeconds,
    expires_in: expiresInSeconds,
    device,
    provisioned: userId !== undefined,
    ...(userId === undefined ? {} : { user_id: userId }),
  }
}
