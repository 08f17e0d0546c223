/**
 * How a listener goes away without cutting off anybody who has a right to an answer.
 *
 * Fastify's close() waits for connections that fall idle after it began until their keep-alive ends
 * (fastify#7044). And Node stops looking for requests that arrive too slowly as soon as the server closes, so that
 * a client that sends half of one, or opens a connection and says nothing, would hold the process for ever.
 */
import { setTimeout as delay } from 'node:timers/promises'
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { Log } from '../log.ts'

const SWEEP_MS = 100
const IDLE_POLL_MS = 20

declare module 'fastify' {
  interface FastifyInstance {
    /** Resolves when no request is being answered. */
    idle(): Promise<void>
  }
  interface FastifyRequest {
    /** Counted as being answered. */
    isRunning: boolean
  }
}

interface DrainingLimits {
  /** In which a request has to arrive. */
  requestTimeoutMs: number
  /** In which it has to be answered from then on. */
  handlerTimeoutMs: number
}

export function addDraining(
  app: FastifyInstance<Server, IncomingMessage, ServerResponse, Log, TypeBoxTypeProvider>,
  { requestTimeoutMs, handlerTimeoutMs }: DrainingLimits,
): void {
  let running = 0
  app.decorate('idle', async () => {
    for (;;) {
      if (running === 0) return
      await delay(IDLE_POLL_MS)
    }
  })
  const leave = (request: FastifyRequest) => {
    if (request.isRunning) running -= 1
    request.isRunning = false
  }
  app.decorateRequest('isRunning', false)
  app.addHook('onRequest', (request, reply, done) => {
    running += 1
    request.isRunning = true
    // What a client who hangs up leaves behind is still waited for; the time limit sees to it that it sends.
    reply.raw.once('close', () => {
      if (reply.sent) leave(request)
    })
    done()
  })
  app.addHook('onSend', (request, reply, _payload, done) => {
    if (reply.raw.closed) leave(request)
    done()
  })
  app.addHook('preClose', async () => {
    const { server } = app
    const beganMs = performance.now()
    const sweep = setInterval(() => {
      server.closeIdleConnections()
      const lateMs = performance.now() - beganMs - requestTimeoutMs
      // Without a running request all that is left are connections on which none has arrived in time.
      if (lateMs > (running === 0 ? 0 : handlerTimeoutMs)) server.closeAllConnections()
    }, SWEEP_MS)
    sweep.unref()
    server.once('close', () => clearInterval(sweep))
  })
}
