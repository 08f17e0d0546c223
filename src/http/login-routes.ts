/** POST and GET /login, and /onLogin for Mini Programs written after the classic tutorial. */
import { Type } from './schema.ts'
import type { FastifyRequest } from 'fastify'
import type { Apps } from '../apps.ts'
import { GatewayError } from '../errors.ts'
import type { Grant, Login } from '../login.ts'
import { bindOf, clientIp, deviceOf, tokenOf } from './client.ts'
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
  apps: Pick<Apps, 'find' | 'only'>
  exposeOpenid: boolean
}

export function addLoginRoutes(app: Server, { login, apps, exposeOpenid }: LoginRoutesDeps): void {
  async function answer(request: FastifyRequest, fields: { code: string; appid?: string; nonce?: string }) {
    const named = fields.appid === undefined ? apps.only() : apps.find(fields.appid)
    if (named === undefined)
      throw new GatewayError(fields.appid === undefined ? 'appid_required' : 'appid_unknown')
    if (!named.loginEnabled) throw new GatewayError('app_disabled')
    const grant = await login({
      appid: named.appid,
      code: fields.code,
      bind: bindOf(request, fields.nonce),
      ip: clientIp(request),
      device: deviceOf(request),
      formerToken: tokenOf(request),
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
