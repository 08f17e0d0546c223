/**
 * The end of a request, told once: it was answered, or its client has hung up before. Of the latter Fastify's onResponse knows
 * nothing, for what is written to a closed connection is never finished.
 */
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { Log } from '../log.ts'

/** Nobody hears it; the name that nginx gives it. */
const CLIENT_GONE_STATUS = 499

declare module 'fastify' {
  interface FastifyRequest {
    /** Its handler may go on, if the client is gone. */
    hasEnded: boolean
  }
}

/** @param onEnd finds status and outcome of a client that is gone where it finds those of an answer */
export function addRequestEnd(
  app: FastifyInstance<Server, IncomingMessage, ServerResponse, Log, TypeBoxTypeProvider>,
  onEnd: (request: FastifyRequest, reply: FastifyReply) => void,
): void {
  app.decorateRequest('hasEnded', false)
  app.addHook('onRequest', (request, reply, done) => {
    reply.raw.once('close', () => {
      if (request.hasEnded) return
      reply.code(CLIENT_GONE_STATUS)
      request.outcome = 'client_gone'
      request.hasEnded = true
      onEnd(request, reply)
    })
    done()
  })
  app.addHook('onResponse', (request, reply, done) => {
    if (!request.hasEnded) {
      request.hasEnded = true
      onEnd(request, reply)
    }
    done()
  })
}
