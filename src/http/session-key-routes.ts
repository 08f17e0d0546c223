/** What an administrator's backend may have done with a user's session_key. No answer holds the key. */
import type { Static } from 'typebox'
import { Type } from './schema.ts'
import type { App } from '../app-entry.ts'
import { GatewayError } from '../errors.ts'
import type { SessionKeyUses } from '../session-key-uses.ts'
import type { SignRequest } from '../wechat/signatures.ts'
import type { AppUser } from '../wechat/user-api.ts'
import type { Server } from './server.ts'

const MESSAGE_CHARS_MAX = 8_192
const PATH_CHARS_MAX = 1_024
/** Room for a message with every character escaped. */
const BODY_BYTES_MAX = 65_536

const NoFields = Type.Object({}, { additionalProperties: false })
const User = {
  appid: Type.String({ pattern: '^[A-Za-z0-9_-]{4,64}$' }),
  openid: Type.String({ pattern: '^[\\x21-\\x7e]{1,128}$' }),
}
const UserFields = Type.Object(User, { additionalProperties: false })
const Message = Type.String({ minLength: 1, maxLength: MESSAGE_CHARS_MAX })

const VirtualPayment = Type.Object(
  { kind: Type.Literal('virtual_payment'), ...User, sign_data: Message },
  { additionalProperties: false },
)
const VirtualPaymentServer = Type.Object(
  { kind: Type.Literal('virtual_payment_server'), ...User, body: Message },
  { additionalProperties: false },
)
const B2bPayment = Type.Object(
  { kind: Type.Literal('b2b_payment'), ...User, sign_data: Message },
  { additionalProperties: false },
)
const CalendarPath = Type.Object(
  {
    kind: Type.Literal('calendar_path'),
    ...User,
    path: Type.String({ minLength: 1, maxLength: PATH_CHARS_MAX }),
  },
  { additionalProperties: false },
)
const SignFields = Type.Union([VirtualPayment, VirtualPaymentServer, B2bPayment, CalendarPath])
const SignAnswer = Type.Object({ signature: Type.String() })
const CheckAnswer = Type.Object({ valid: Type.Boolean() })

export interface SessionKeyRoutesDeps {
  keyUses: SessionKeyUses
  findApp(appid: string): App | undefined
}

export function addSessionKeyRoutes(app: Server, { keyUses, findApp }: SessionKeyRoutesDeps): void {
  function userOf({ appid, openid }: AppUser): AppUser {
    if (findApp(appid) === undefined) throw new GatewayError('appid_unknown')
    return { appid, openid }
  }

  app.post(
    '/sign',
    {
      bodyLimit: BODY_BYTES_MAX,
      schema: { querystring: NoFields, body: SignFields, response: { 200: SignAnswer } },
    },
    async (request) => ({ signature: await keyUses.sign(userOf(request.body), signRequest(request.body)) }),
  )

  app.post(
    '/check-session-key',
    { schema: { querystring: NoFields, body: UserFields, response: { 200: CheckAnswer } } },
    async (request) => ({ valid: await keyUses.check(userOf(request.body)) }),
  )

  app.post(
    '/reset-session-key',
    { schema: { querystring: NoFields, body: UserFields } },
    async (request, reply) => {
      await keyUses.reset(userOf(request.body))
      return reply.code(204).send()
    },
  )
}

function signRequest(fields: Static<typeof SignFields>): SignRequest {
  switch (fields.kind) {
    case 'virtual_payment':
    case 'b2b_payment':
      return { kind: fields.kind, signData: fields.sign_data }
    case 'virtual_payment_server':
      return { kind: fields.kind, body: fields.body }
    case 'calendar_path':
      return { kind: fields.kind, path: fields.path }
  }
}
