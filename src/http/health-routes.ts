/** /livez and /readyz, on both listeners. */
import type { Health } from '../health.ts'
import type { Server } from './server.ts'

export function addHealthRoutes(app: Server, health: Health): void {
  app.get('/livez', async () => ({ status: 'alive' }))
  app.get('/readyz', async (_request, reply) => {
    const reason = health.notReady()
    if (reason === undefined) return { status: 'ready' }
    return reply.code(503).header('retry-after', 1).send({ status: 'not ready', reason })
  })
}
