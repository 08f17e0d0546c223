/**
 * Puts load shedding before everything else that happens to a request: its body is not read, no limit is spent,
 * no code is claimed.
 */
import type { FastifyReply, FastifyRequest } from 'fastify'
import { GatewayError } from '../errors.ts'
import type { Rank, Shedding } from '../shedding.ts'

declare module 'fastify' {
  interface FastifyRequest {
    /** Ends its being counted as worked on. */
    leave: (() => void) | undefined
  }
}

/**
 * The rank of each route. What is not here is never shed: health and metrics, without which nobody would know;
 * and the administrator, who may be the one to put it right.
 */
const ROUTE_RANKS: Readonly<Record<string, Rank>> = {
  '/login': 'login',
  '/onLogin': 'login',
  '/session/decrypt': 'other',
  '/session/verify': 'other',
  '/session/phone': 'other',
  '/token': 'other',
  '/push/:appid': 'other',
  '/sign': 'other',
  '/check-session-key': 'other',
  '/reset-session-key': 'other',
  '/auth': 'session',
  '/introspect': 'session',
  '/session': 'session',
  '/sessions': 'session',
  '/sessions/:id': 'session',
  '/.well-known/jwks.json': 'session',
}

/** The rank of a route, by its pattern; undefined: it is never shed. */
export function rankOf(route: string | undefined): Rank | undefined {
  return ROUTE_RANKS[route ?? '']
}

/** @param workMsMax how long the work for a client that hung up can go on */
export function createSheddingHooks(shedding: Shedding, workMsMax: number) {
  return {
    onRequest(request: FastifyRequest, reply: FastifyReply, done: (refusal?: GatewayError) => void): void {
      const rank = rankOf(request.routeOptions.url)
      if (rank === undefined) return done()
      if (shedding.refuse(rank) !== undefined) return done(new GatewayError('overloaded'))
      const leave = shedding.enter()
      request.leave = leave
      // Whoever hangs up leaves his work behind, and must not make room for more of it by that.
      reply.raw.once('close', () => {
        if (reply.sent) leave()
        else setTimeout(leave, workMsMax).unref()
      })
      done()
    },
    onSend(request: FastifyRequest, _reply: FastifyReply, _payload: unknown, done: () => void): void {
      request.leave?.()
      done()
    },
  }
}
