/** A session becomes a short-lived JWT for another service; and the keys by which that service checks it. */
import { Type } from './schema.ts'
import { GatewayError } from '../errors.ts'
import type { Jwts } from '../jwt.ts'
import type { LocalLimits } from '../local-limits.ts'
import type { Sessions } from '../sessions.ts'
import { bearerOf } from './client.ts'
import type { Server } from './server.ts'

const NoFields = Type.Object({}, { additionalProperties: false })
/** As wide as JWT_AUDIENCES. */
const TokenFields = Type.Object(
  { audience: Type.String({ pattern: '^[A-Za-z0-9:/._~-]{1,128}$' }) },
  { additionalProperties: false },
)

const TokenAnswer = Type.Object({
  token: Type.String(),
  token_type: Type.Literal('Bearer'),
  expires_in: Type.Integer({ description: 'seconds' }),
})

const JwksAnswer = Type.Object({
  keys: Type.Array(
    Type.Object({
      kty: Type.Literal('OKP'),
      crv: Type.Literal('Ed25519'),
      x: Type.String(),
      kid: Type.String(),
      alg: Type.Literal('EdDSA'),
      use: Type.Literal('sig'),
    }),
  ),
})

/**
 * How long a verifier may keep the keys. A new key is published from the moment it is in the ring, and should
 * sign no sooner than this later; verifiers that look again for an unknown kid do not even need that.
 */
const JWKS_CACHE_CONTROL = 'public, max-age=300'

export interface TokenRoutesDeps {
  jwts: Jwts
  sessions: Sessions
  localLimits: LocalLimits
}

export function addTokenRoutes(app: Server, { jwts, sessions, localLimits }: TokenRoutesDeps): void {
  app.post(
    '/token',
    { schema: { body: TokenFields, querystring: NoFields, response: { 200: TokenAnswer } } },
    async (request) => {
      // The session first: which audiences there are is nothing for strangers.
      const session = await sessions.find(bearerOf(request))
      if (session === undefined) throw new GatewayError('session_invalid')
      localLimits.spendToken(session.sub)
      const { token, expiresInSeconds } = await jwts.issue(session, request.body.audience)
      return { token, token_type: 'Bearer' as const, expires_in: expiresInSeconds }
    },
  )

  app.get(
    '/.well-known/jwks.json',
    {
      schema: { response: { 200: JwksAnswer } },
      // After the hook that forbids caching to everything else.
      onSend: async (_request, reply) => {
        if (reply.statusCode === 200) reply.header('cache-control', JWKS_CACHE_CONTROL)
      },
    },
    () => jwts.jwks(),
  )
}
