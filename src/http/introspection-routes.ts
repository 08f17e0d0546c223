/**
 * Token introspection for backends (RFC 7662), on the admin listener. Session tokens and JWTs alike; what is
 * not active is answered with that and nothing else, whatever the reason.
 */
import { Type } from './schema.ts'
import { GatewayError } from '../errors.ts'
import type { Jwts } from '../jwt.ts'
import type { Session, Sessions } from '../sessions.ts'
import type { Server } from './server.ts'

/** "application/x-www-form-urlencoded", and nothing that a reader before us could take for something else. */
const FORM_TYPE = /^application\/x-www-form-urlencoded(; ?charset=utf-8)?$/i

/**
 * Other fields are refused rather than ignored (RFC 7662 leaves it open): behind a misspelt `appid` a token of
 * another app would pass.
 */
const IntrospectionFields = Type.Object(
  {
    token: Type.String({ minLength: 1, maxLength: 2_048 }),
    /** A hint, no more: the form of the token says what it is. */
    token_type_hint: Type.Optional(Type.String({ maxLength: 64 })),
    appid: Type.Optional(Type.String({ pattern: '^[A-Za-z0-9_-]{4,64}$' })),
  },
  { additionalProperties: false },
)
const NoFields = Type.Object({}, { additionalProperties: false })

/** The serialiser writes these fields and no others. */
const IntrospectionAnswer = Type.Object({
  active: Type.Boolean(),
  sub: Type.Optional(Type.String()),
  client_id: Type.Optional(Type.String()),
  appid: Type.Optional(Type.String()),
  token_type: Type.Optional(Type.Literal('Bearer')),
  exp: Type.Optional(Type.Integer({ description: 'unix seconds; use of the session may prolong it' })),
  iat: Type.Optional(Type.Integer({ description: 'unix seconds' })),
  iss: Type.Optional(Type.String()),
  aud: Type.Optional(Type.String()),
  jti: Type.Optional(Type.String()),
  sid: Type.Optional(Type.String({ description: 'the session that a JWT was made from' })),
  openid: Type.Optional(Type.String()),
  unionid: Type.Optional(Type.String()),
  user_id: Type.Optional(Type.String()),
  device: Type.Optional(Type.String()),
})

const INACTIVE = { active: false }

export interface IntrospectionRoutesDeps {
  sessions: Sessions
  jwts: Jwts
}

export function addIntrospectionRoutes(app: Server, { sessions, jwts }: IntrospectionRoutesDeps): void {
  async function introspect(token: string, appid: string | undefined) {
    if (isJwt(token)) {
      const claims = await jwts.verify(token)
      if (claims === undefined || (appid !== undefined && claims.appid !== appid)) return INACTIVE
      if (claims.sid !== undefined && !(await sessions.isLiving(claims.sub, claims.sid))) return INACTIVE
      return { active: true, token_type: 'Bearer' as const, ...claims }
    }
    const session = await sessions.find(token, appid)
    return session === undefined ? INACTIVE : activeSession(session)
  }

  // A scope of its own: nowhere else is a form taken.
  app.register(async (scope: Server) => {
    scope.addContentTypeParser<string>(
      'application/x-www-form-urlencoded',
      { parseAs: 'string' },
      (request, body, done) => {
        if (!FORM_TYPE.test(request.headers['content-type'] ?? ''))
          done(new GatewayError('media_type_unsupported'))
        else parseForm(body, done)
      },
    )
    scope.post(
      '/introspect',
      {
        schema: {
          body: IntrospectionFields,
          querystring: NoFields,
          response: { 200: IntrospectionAnswer },
        },
      },
      ({ body }) => introspect(body.token, body.appid),
    )
  })
}

function isJwt(token: string): boolean {
  return token.split('.', 4).length === 3
}

/** RFC 6749 §3.2: "parameters MUST NOT be included more than once". */
function parseForm(body: string, done: (error: Error | null, fields?: unknown) => void): void {
  const pairs = [...new URLSearchParams(body)]
  const fields = Object.fromEntries(pairs) // defines own properties only, also for __proto__
  if (Object.keys(fields).length === pairs.length) done(null, fields)
  else done(new GatewayError('request_invalid', { detail: 'A field is given more than once.' }))
}

function activeSession({ sub, appid, openid, unionid, userId, ...session }: Session) {
  return {
    active: true,
    sub,
    client_id: appid,
    appid,
    token_type: 'Bearer' as const,
    exp: session.endsAtSeconds,
    iat: session.issuedAtSeconds,
    openid,
    ...(unionid === undefined ? {} : { unionid }),
    ...(userId === undefined ? {} : { user_id: userId }),
    device: session.device,
  }
}
