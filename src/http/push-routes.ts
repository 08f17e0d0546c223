/** The address that WeChat pushes to: its URL check, and its messages. */
import { Type } from './schema.ts'
import type { FastifyRequest } from 'fastify'
import type { Apps } from '../apps.ts'
import { GatewayError } from '../errors.ts'
import type { PushedApp, Pushes, PushQuery } from '../pushes.ts'
import type { Server } from './server.ts'

/** A text of a customer has 2 kB; encrypted, and with the same in clear beside it, no message comes near this. */
export const PUSH_BODY_BYTES_MAX = 32_768
/** WeChat waits for 5 s. */
const ANSWER_MS_MAX = 4_000

const PushPath = Type.Object({ appid: Type.String() })

/** Read before there is a schema to it; of a parameter that comes twice, none counts. */
const PARAMETERS = {
  timestamp: /^\d{1,12}$/,
  nonce: /^[\x21-\x7e]{1,64}$/,
  signature: /^[0-9a-f]{40}$/,
  msg_signature: /^[0-9a-f]{40}$/,
  /** It goes back as it came, as plain text. */
  echostr: /^[\x21-\x7e]{1,256}$/,
} as const

export interface PushRoutesDeps {
  pushes: Pushes
  apps: Pick<Apps, 'find'>
}

/** Adds them, with their own way of reading a body. */
export function addPushRoutes(app: Server, { pushes, apps }: PushRoutesDeps): void {
  app.register(async (scope) => {
    // WeChat says text/xml, application/json or nothing; what the body is, the body shows.
    scope.removeAllContentTypeParsers()
    scope.addContentTypeParser(
      '*',
      { parseAs: 'buffer', bodyLimit: PUSH_BODY_BYTES_MAX },
      (_request, body, done) => done(null, body),
    )

    scope.get('/push/:appid', { schema: { params: PushPath } }, async (request, reply) => {
      pushes.checkUrl(pushedApp(request), queryOf(request))
      return reply.type('text/plain; charset=utf-8').send(parameter(request, 'echostr', 'required'))
    })

    scope.post(
      '/push/:appid',
      {
        schema: { params: PushPath },
        config: { answerMsMax: ANSWER_MS_MAX },
        // Before the body: most of what is not WeChat's has cost next to nothing by then.
        onRequest: (request, _reply, done) => {
          pushes.screen(pushedApp(request), queryOf(request))
          done()
        },
      },
      async (request, reply) => {
        const { body } = request
        if (!Buffer.isBuffer(body))
          throw new GatewayError('request_invalid', { detail: 'There is no message.' })
        await pushes.receive(pushedApp(request), queryOf(request), body)
        return reply.type('text/plain; charset=utf-8').send('success')
      },
    )
  })

  /** @throws {GatewayError} not_found: an app that takes no pushes looks like one that is not there */
  function pushedApp({ params }: FastifyRequest): PushedApp {
    const found = apps.find((params as { appid: string }).appid)
    const { push } = found ?? {}
    if (found === undefined || push === undefined) throw new GatewayError('not_found')
    return { ...found, push }
  }
}

function queryOf(request: FastifyRequest): PushQuery {
  return {
    timestamp: parameter(request, 'timestamp', 'required'),
    nonce: parameter(request, 'nonce', 'required'),
    signature: parameter(request, 'signature', 'optional'),
    msgSignature: parameter(request, 'msg_signature', 'optional'),
  }
}

function parameter(
  { query }: FastifyRequest,
  name: keyof typeof PARAMETERS,
  need: 'required' | 'optional',
): string {
  const value = (query as Record<string, unknown>)[name]
  if (value === undefined && need === 'optional') return ''
  if (typeof value !== 'string' || !PARAMETERS[name].test(value))
    throw new GatewayError('request_invalid', { detail: `${name} is missing or malformed.` })
  return value
}
