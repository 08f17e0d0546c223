/** What a bearer may ask for that needs session_key: open data, its signature, the phone number. */
import { Type } from './schema.ts'
import type { FastifyRequest } from 'fastify'
import { GatewayError } from '../errors.ts'
import type { LocalLimits } from '../local-limits.ts'
import type { SessionKeyUses } from '../session-key-uses.ts'
import type { Session, Sessions } from '../sessions.ts'
import { bearerOf } from './client.ts'
import type { Server } from './server.ts'

/** A month of steps, the longest there is, has about 3,000 characters. */
const ENCRYPTED_CHARS_MAX = 16_384
const RAW_DATA_CHARS_MAX = 4_096
/** Room for either with every character of rawData escaped as \uXXXX. */
const BODY_BYTES_MAX = 32_768

const NoFields = Type.Object({}, { additionalProperties: false })

const DecryptFields = Type.Object(
  {
    encrypted_data: Type.String({ minLength: 1, maxLength: ENCRYPTED_CHARS_MAX }),
    iv: Type.String({ minLength: 1, maxLength: 64 }),
  },
  { additionalProperties: false },
)
const DecryptAnswer = Type.Object({ data: Type.Unsafe<Record<string, unknown>>({}) })

const VerifyFields = Type.Object(
  {
    raw_data: Type.String({ maxLength: RAW_DATA_CHARS_MAX }),
    signature: Type.String({ pattern: '^[0-9A-Fa-f]{40}$' }),
  },
  { additionalProperties: false },
)
const VerifyAnswer = Type.Object({ valid: Type.Boolean() })

/** Real ones have 64 hexadecimal digits; nothing promises that they will. */
const PhoneFields = Type.Object(
  { code: Type.String({ pattern: '^[A-Za-z0-9_-]{16,128}$' }) },
  { additionalProperties: false },
)
const PhoneAnswer = Type.Object({
  phone_number: Type.String(),
  pure_phone_number: Type.String(),
  country_code: Type.String(),
})

export interface OpenDataRoutesDeps {
  sessions: Pick<Sessions, 'find'>
  keyUses: SessionKeyUses
  exposeOpenid: boolean
  localLimits: LocalLimits
}

export function addOpenDataRoutes(
  app: Server,
  { sessions, keyUses, exposeOpenid, localLimits }: OpenDataRoutesDeps,
): void {
  async function findSession(request: FastifyRequest): Promise<Session> {
    const session = await sessions.find(bearerOf(request))
    if (session === undefined) throw new GatewayError('session_invalid')
    return session
  }

  app.post(
    '/session/decrypt',
    {
      bodyLimit: BODY_BYTES_MAX,
      schema: { querystring: NoFields, body: DecryptFields, response: { 200: DecryptAnswer } },
    },
    async (request) => {
      const { encrypted_data: encryptedData, iv } = request.body
      const data = await keyUses.decrypt(await findSession(request), encryptedData, iv)
      return { data: exposeOpenid ? data : withoutIds(data) }
    },
  )

  app.post(
    '/session/verify',
    {
      bodyLimit: BODY_BYTES_MAX,
      schema: { querystring: NoFields, body: VerifyFields, response: { 200: VerifyAnswer } },
    },
    async (request) => {
      const { raw_data: rawData, signature } = request.body
      return { valid: await keyUses.verify(await findSession(request), { rawData, signature }) }
    },
  )

  app.post(
    '/session/phone',
    { schema: { querystring: NoFields, body: PhoneFields, response: { 200: PhoneAnswer } } },
    async (request) => {
      const session = await findSession(request)
      localLimits.spendPhone(session.sub)
      const phone = await keyUses.phone(session, request.body.code)
      return {
        phone_number: phone.phoneNumber,
        pure_phone_number: phone.purePhoneNumber,
        country_code: phone.countryCode,
      }
    },
  )
}

/** Decrypting must not show what EXPOSE_OPENID keeps from the client. */
function withoutIds(data: Record<string, unknown>): Record<string, unknown> {
  const { openId: _openId, unionId: _unionId, ...rest } = data
  return rest
}
