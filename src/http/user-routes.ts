/** One user, as an administrator sees and handles them: sessions and block. Nothing here shows a secret. */
import { Type } from './schema.ts'
import type { Block, Blocking } from '../blocking.ts'
import type { Erasure, ErasureReceipt } from '../erasure.ts'
import { GatewayError } from '../errors.ts'
import type { Sessions } from '../sessions.ts'
import { subjectOf } from '../subject.ts'
import type { Server } from './server.ts'
import { ListedSessionAnswer, wireListed } from './session-routes.ts'

/** A user of an app that has been removed can still be looked at and ended. */
const UserPath = Type.Object({
  appid: Type.String({ pattern: '^[A-Za-z0-9_-]{4,64}$' }),
  /** Wider than WeChat's, for the kinds of app whose users are named otherwise. */
  openid: Type.String({ pattern: '^[\\x21-\\x7e]{1,128}$' }),
})
const NoFields = Type.Object({}, { additionalProperties: false })

const YEAR_SECONDS = 366 * 24 * 3600
const BlockFields = Type.Object(
  {
    reason: Type.Optional(Type.String({ maxLength: 200, description: 'for people; the user is not told' })),
    ttl_seconds: Type.Optional(Type.Integer({ minimum: 1, maximum: YEAR_SECONDS })),
  },
  { additionalProperties: false },
)

const SessionsAnswer = Type.Object({ sessions: Type.Array(ListedSessionAnswer) })
const UserAnswer = Type.Object({
  sub: Type.String(),
  appid: Type.String(),
  openid: Type.String(),
  unionid: Type.Optional(Type.String()),
  provisioned: Type.Boolean(),
  user_id: Type.Optional(Type.String()),
  blocked: Type.Boolean(),
  block: Type.Optional(
    Type.Object({
      since: Type.Integer({ description: 'unix seconds' }),
      reason: Type.Optional(Type.String()),
      expires_in: Type.Optional(Type.Integer({ description: 'seconds; absent: until it is lifted' })),
    }),
  ),
  sessions: Type.Array(ListedSessionAnswer),
})

/** Says what and when, and nothing of whom. */
const ReceiptAnswer = Type.Object({
  receipt: Type.String(),
  state: Type.Union([Type.Literal('pending'), Type.Literal('done')]),
  requested_at: Type.Integer({ description: 'unix seconds' }),
  done_at: Type.Optional(Type.Integer({ description: 'unix seconds' })),
  sessions: Type.Integer({ description: 'sessions that were ended' }),
  erased: Type.Optional(
    Type.Object({
      jobs: Type.Integer(),
      identities: Type.Integer(),
      users: Type.Integer({ description: '0 while the person is known by another app' }),
    }),
  ),
})
const ReceiptPath = Type.Object({ receipt: Type.String({ pattern: '^[0-9a-f-]{36}$' }) })

export interface UserRoutesDeps {
  sessions: Sessions
  blocking: Blocking
  erasure: Erasure
}

export function addUserRoutes(app: Server, { sessions, blocking, erasure }: UserRoutesDeps): void {
  const user = '/users/:appid/:openid'

  // A user who is not logged in is shown without sessions: the gateway knows no more of them than that.
  app.get(
    user,
    { schema: { params: UserPath, querystring: NoFields, response: { 200: UserAnswer } } },
    async ({ params: { appid, openid } }) => {
      const sub = subjectOf(appid, openid)
      const [view, block] = await Promise.all([sessions.viewOf(sub), blocking.find(sub)])
      const { unionid, userId } = view ?? {}
      return {
        sub,
        appid,
        openid,
        ...(unionid === undefined ? {} : { unionid }),
        provisioned: userId !== undefined,
        ...(userId === undefined ? {} : { user_id: userId }),
        blocked: block !== undefined,
        ...(block === undefined ? {} : { block: wireBlock(block) }),
        sessions: view?.sessions.map(wireListed) ?? [],
      }
    },
  )

  // 202: nobody is logged in any more; the worker does the rest.
  app.delete(
    user,
    { schema: { params: UserPath, querystring: NoFields, response: { 202: ReceiptAnswer } } },
    async ({ params }, reply) => {
      const receipt = wireReceipt(await erasure.erase(params))
      return reply.code(202).header('location', `/erasures/${receipt.receipt}`).send(receipt)
    },
  )

  app.get(
    '/erasures/:receipt',
    { schema: { params: ReceiptPath, querystring: NoFields, response: { 200: ReceiptAnswer } } },
    async ({ params }) => {
      const receipt = await erasure.find(params.receipt)
      if (receipt === undefined) throw new GatewayError('not_found')
      return wireReceipt(receipt)
    },
  )

  app.get(
    `${user}/sessions`,
    { schema: { params: UserPath, querystring: NoFields, response: { 200: SessionsAnswer } } },
    async ({ params: { appid, openid } }) => {
      const view = await sessions.viewOf(subjectOf(appid, openid))
      return { sessions: view?.sessions.map(wireListed) ?? [] }
    },
  )

  app.delete(
    `${user}/sessions`,
    { schema: { params: UserPath, querystring: NoFields } },
    async ({ params: { appid, openid } }, reply) => {
      await sessions.revokeAllOf(subjectOf(appid, openid))
      return reply.code(204).send()
    },
  )

  app.put(
    `${user}/block`,
    {
      schema: { params: UserPath, querystring: NoFields, body: BlockFields },
      // Every field may be left out, and so may the body.
      preValidation: (request, _reply, done) => {
        request.body ??= {}
        done()
      },
    },
    async ({ params: { appid, openid }, body }, reply) => {
      await blocking.block(subjectOf(appid, openid), { reason: body.reason, ttlSeconds: body.ttl_seconds })
      return reply.code(204).send()
    },
  )

  app.delete(
    `${user}/block`,
    { schema: { params: UserPath, querystring: NoFields } },
    async ({ params: { appid, openid } }, reply) => {
      await blocking.unblock(subjectOf(appid, openid))
      return reply.code(204).send()
    },
  )
}

function wireReceipt({ requestedAtSeconds, doneAtSeconds, erased, ...receipt }: ErasureReceipt) {
  return {
    ...receipt,
    requested_at: requestedAtSeconds,
    ...(doneAtSeconds === undefined ? {} : { done_at: doneAtSeconds }),
    ...(erased === undefined ? {} : { erased }),
  }
}

function wireBlock({ sinceSeconds, reason, expiresInSeconds }: Block) {
  return {
    since: sinceSeconds,
    ...(reason === undefined ? {} : { reason }),
    ...(expiresInSeconds === undefined ? {} : { expires_in: expiresInSeconds }),
  }
}
