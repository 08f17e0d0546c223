/** POST and GET /login, and /onLogin for Mini Programs written after the classic tutorial. */
import { Type } from 'typebox'
import type { FastifyRequest } from 'fastify'
import { GatewayError } from '../errors.ts'
import type { Grant, Login } from '../login.ts'
import { bindOf, clientIp, deviceOf } from './client.ts'
import type { Server } from './server.ts'

/** Real codes have 32 of these characters; nothing promises that they will. */
const Code = Type.String({ pattern: '^[A-Za-z0-9_-]{16,128}$' })
const Appid = Type.String({ pattern: '^[A-Za-z0-9_-]{4,64}$' })
const Nonce = Type.String({ pattern: '^[A-Za-z0-9_-]{16,64}$' })

const LoginFields = Type.Object(
  { code: Code, appid: Type.Optional(Appid), nonce: Type.Optional(Nonce) },
  { additionalProperties: false },
)
const NoFields = Type.Object({}, { additionalProperties: false })

/** The serialiser writes these fields and no others. */
const LoginAnswer = Type.Object({
  token: Type.String(),
  token_type: Type.Literal('Bearer'),
  expires_in: Type.Integer(),
  sub: Type.String(),
  openid: Type.Optional(Type.String()),
  unionid: Type.Optional(Type.String()),
  provisioned: Type.Boolean(),
})

/** What DevTools hands out as a code when a project is open in tourist mode or with a wrong appid. */
const MOCK_CODE = 'the code is a mock one'

export interface LoginRoutesDeps {
  login: Login
  appids: ReadonlySet<string>
  exposeOpenid: boolean
}

export function addLoginRoutes(app: Server, { login, appids, exposeOpenid }: LoginRoutesDeps): void {
  const [onlyAppid] = appids.size === 1 ? appids : []

  async function answer(request: FastifyRequest, fields: { code: string; appid?: string; nonce?: string }) {
    const appid = fields.appid ?? onlyAppid
    if (appid === undefined) throw new GatewayError('appid_required')
    if (!appids.has(appid)) throw new GatewayError('appid_unknown')
    const grant = await login({
      appid,
      code: fields.code,
      bind: bindOf(request, fields.nonce),
      ip: clientIp(request),
      device: deviceOf(request),
    })
    return wireGrant(grant, exposeOpenid)
  }

  for (const url of ['/login', '/onLogin']) {
    app.post(
      url,
      {
        schema: { body: LoginFields, querystring: NoFields, response: { 200: LoginAnswer } },
        preValidation: (request, _reply, done) => done(mockCodeFault(request.body)),
      },
      (request) => answer(request, request.body),
    )
    app.get(
      url,
      {
        schema: { querystring: LoginFields, response: { 200: LoginAnswer } },
        preValidation: (request, _reply, done) => done(mockCodeFault(request.query)),
      },
      (request) => answer(request, request.query),
    )
  }
}

function wireGrant(
  { token, sub, openid, unionid, expiresInSeconds, provisioned }: Grant,
  exposeOpenid: boolean,
) {
  return {
    token,
    token_type: 'Bearer' as const,
    expires_in: expiresInSeconds,
    sub,
    ...(exposeOpenid ? { openid } : {}),
    ...(exposeOpenid && unionid !== undefined ? { unionid } : {}),
    provisioned,
  }
}

function mockCodeFault(fields: unknown): GatewayError | undefined {
  if ((fields as { code?: unknown } | null | undefined)?.code !== MOCK_CODE) return undefined
  return new GatewayError('request_invalid', {
    detail:
      "This is DevTools' mock code: the project is open in tourist mode or with an appid that is not yours.",
  })
}
