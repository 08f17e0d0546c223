/** The bearer's own sessions, and forward auth for the backends behind a proxy. */
import { Type } from 'typebox'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { GatewayError } from '../errors.ts'
import type { Session, Sessions } from '../sessions.ts'
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

const SessionsAnswer = Type.Object({
  sessions: Type.Array(
    Type.Object({
      id: Type.String(),
      issued_at: Type.Integer(),
      expires_in: Type.Integer(),
      device: Type.String(),
      current: Type.Boolean(),
    }),
  ),
})

export interface SessionRoutesDeps {
  sessions: Sessions
  exposeOpenid: boolean
}

export function addSessionRoutes(app: Server, { sessions, exposeOpenid }: SessionRoutesDeps): void {
  async function findSession(request: FastifyRequest): Promise<Session> {
    const session = await sessions.find(bearerOf(request))
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
      return {
        sessions: list.map(({ id, issuedAtSeconds, expiresInSeconds, device, current }) => ({
          id,
          issued_at: issuedAtSeconds,
          expires_in: expiresInSeconds,
          device,
          current,
        })),
      }
    },
  )

  app.delete('/sessions', { schema: { querystring: NoFields } }, async (request, reply) => {
    if (!(await sessions.revokeAll(bearerOf(request)))) throw new GatewayError('session_invalid')
    return reply.code(204).send()
  })

  // A scope of its own: a proxy passes on the client's method, query and body, none of which matter here.
  app.register(async (scope) => {
    scope.removeAllContentTypeParsers()
    scope.addContentTypeParser('*', (_request, payload, done) => {
      payload.resume()
      done(null)
    })
    scope.route({
      method: ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'],
      url: '/auth',
      handler: async (request, reply) => authorise(await findSession(request), reply),
    })
  })
}

function authorise({ sub, appid, openid, unionid }: Session, reply: FastifyReply): FastifyReply {
  reply.header('x-auth-subject', sub).header('x-auth-appid', appid).header('x-auth-openid', openid)
  if (unionid !== undefined) reply.header('x-auth-unionid', unionid)
  return reply.code(200).send()
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
