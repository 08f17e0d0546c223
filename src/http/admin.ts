/** The admin listener: metrics and health for machines; everything else wants the admin token. */
import { createHash, timingSafeEqual } from 'node:crypto'
import type { Secret } from '../secret.ts'
import { GatewayError } from '../errors.ts'
import { addAppRoutes } from './app-routes.ts'
import type { AppRoutesDeps } from './app-routes.ts'
import { addHealthRoutes } from './health-routes.ts'
import { addIntrospectionRoutes } from './introspection-routes.ts'
import type { IntrospectionRoutesDeps } from './introspection-routes.ts'
import { createServer } from './server.ts'
import { addSessionKeyRoutes } from './session-key-routes.ts'
import type { SessionKeyRoutesDeps } from './session-key-routes.ts'
import type { Server, ServerDeps } from './server.ts'
import { addUserRoutes } from './user-routes.ts'
import type { UserRoutesDeps } from './user-routes.ts'

const OPEN_ROUTES: ReadonlySet<string> = new Set(['/metrics', '/livez', '/readyz'])

export interface AdminDeps
  extends ServerDeps,
    IntrospectionRoutesDeps,
    UserRoutesDeps,
    AppRoutesDeps,
    SessionKeyRoutesDeps {
  adminToken: Secret<string>
}

export function createAdminApp({ adminToken, ...deps }: AdminDeps): Server {
  const app = createServer(deps)
  const expected = digest(`Bearer ${adminToken.reveal()}`)

  app.addHook('onRequest', async (request) => {
    if (OPEN_ROUTES.has(request.routeOptions.url ?? '')) return
    // Hashes have one length, so the comparison takes one time.
    if (!timingSafeEqual(digest(request.headers.authorization ?? ''), expected)) {
      throw new GatewayError('admin_unauthorized')
    }
    // This listener stays until the end, so that the end can be watched; what its other routes need does not.
    if (deps.health.isClosing()) throw new GatewayError('gateway_unavailable')
  })

  addHealthRoutes(app, deps.health)
  addIntrospectionRoutes(app, deps)
  addUserRoutes(app, deps)
  addSessionKeyRoutes(app, deps)
  addAppRoutes(app, deps)
  const { exposition } = deps.metrics
  app.get('/metrics', async (_request, reply) =>
    reply.type(exposition.contentType).send(await exposition.text()),
  )
  return app
}

function digest(text: string): Buffer {
  return createHash('sha256').update(text).digest()
}
