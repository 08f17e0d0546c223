/**
 * The time in which a request has to be answered, whatever its handler waits for.
 *
 * Not Fastify's handlerTimeout: for each request it makes an AbortController and aborts it when the request ends, with
 * an error and its stack, which cost a tenth of a login's CPU.
 */
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import type { FastifyInstance } from 'fastify'
import { GatewayError } from '../errors.ts'
import type { Log } from '../log.ts'

declare module 'fastify' {
  interface FastifyRequest {
    /** Set while the request is being answered. */
    timeLimit: NodeJS.Timeout | undefined
  }
  interface FastifyContextConfig {
    /** Of a route whose client waits for less long than others. */
    answerMsMax?: number
  }
}

/** Who is not answered in time is told `overloaded`; what the handler does goes on. */
export function addTimeLimit(
  app: FastifyInstance<Server, IncomingMessage, ServerResponse, Log, TypeBoxTypeProvider>,
  answerMsMax: number,
): void {
  app.decorateRequest('timeLimit', undefined)
  app.addHook('onRequest', (request, reply, done) => {
    request.timeLimit = setTimeout(() => {
      if (reply.sent) return
      reply.send(new GatewayError('overloaded', { cause: new Error('the handler took too long') }))
      // Nobody waits for what the handler, or a body that is late, has to say after this. Fastify would log that it came,
      // with the whole address: a code may stand in its query.
      reply.send = () => reply
    }, request.routeOptions.config.answerMsMax ?? answerMsMax)
    done()
  })
  app.addHook('onSend', (request, _reply, _payload, done) => {
    clearTimeout(request.timeLimit)
    done()
  })
}
