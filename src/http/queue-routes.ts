/** Bull Board under /queues: for looking at the queues with a browser, which sends the admin token as a password. */
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { QueueBoard } from '../queue-board.ts'
import type { Server } from './server.ts'

/** Where the board is, as Bull Board is to be told. */
export const QUEUES_PATH = '/queues/'

/** Nothing is fetched from elsewhere, whatever a later release of Bull Board may want. */
const CONTENT_SECURITY_POLICY = [
  "default-src 'self'",
  "style-src 'self' 'unsafe-inline'",
  "img-src 'self' data:",
  "frame-ancestors 'none'",
].join('; ')

export interface QueueRoutesDeps {
  /** Loads it: most gateways are never looked into, and it takes part of the start and of the memory of each. */
  openQueueBoard(): Promise<QueueBoard>
}

/** Whether a route is the board's: only there a browser's way of sending the token is understood. */
export function isQueueRoute(route: string): boolean {
  return route === '/queues' || route.startsWith(QUEUES_PATH)
}

/** Adds them. The token is asked for by the listener. */
export function addQueueRoutes(app: Server, { openQueueBoard }: QueueRoutesDeps): void {
  let opened: Promise<QueueBoard> | undefined

  async function answer(request: FastifyRequest, reply: FastifyReply) {
    const path = `/${(request.params as { '*'?: string })['*'] ?? ''}`
    opened ??= openQueueBoard().catch((error: unknown) => {
      opened = undefined // the next look tries again
      throw error
    })
    const board = await opened
    const { status, type, body } = await board.answer(path, request.query as Record<string, unknown>)
    return reply
      .code(status)
      .type(type)
      .header('content-security-policy', CONTENT_SECURITY_POLICY)
      .header('referrer-policy', 'no-referrer')
      .send(body)
  }

  app.get('/queues', answer)
  app.get('/queues/*', answer)
}
