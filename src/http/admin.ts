/** The admin listener: metrics and health for machines; everything else wants the admin token. */
import { createHash, timingSafeEqual } from 'node:crypto'
import type { Secret } from '../secret.ts'
import { GatewayError } from '../errors.ts'
import { addAppRoutes } from './app-routes.ts'
import type { AppRoutesDeps } from './app-routes.ts'
import { addDeadJobRoutes } from './dead-job-routes.ts'
import type { DeadJobRoutesDeps } from './dead-job-routes.ts'
import { addHealthRoutes } from './health-routes.ts'
import { addIntrospectionRoutes } from './introspection-routes.ts'
import type { IntrospectionRoutesDeps } from './introspection-routes.ts'
import { addQueueRoutes, isQueueRoute } from './queue-routes.ts'
import type { QueueRoutesDeps } from './queue-routes.ts'
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
    SessionKeyRoutesDeps,
    DeadJobRoutesDeps,
    QueueRoutesDeps {
  adminToken: Secret<string>
}

export function createAdminApp({ adminToken, ...deps }: AdminDeps): Server {
  const app = createServer(deps)
  const expected = digest(`Bearer ${adminToken.reveal()}`)

  app.addHook('onRequest', async (request, reply) => {
    const route = request.routeOptions.url ?? ''
    if (OPEN_ROUTES.has(route)) return
    const { authorization = '' } = request.headers
    const given = isQueueRoute(route) ? asBearer(authorization) : authorization
    // Hashes have one length, so the comparison takes one time.
    if (!timingSafeEqual(digest(given), expected)) {
      if (isQueueRoute(route)) reply.header('www-authenticate', 'Basic realm="admin token as password"')
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
  addDeadJobRoutes(app, deps)
  addQueueRoutes(app, deps)
  const { exposition } = deps.metrics
  app.get('/metrics', async (_request, reply) =>
    reply.type(exposition.contentType).send(await exposition.text()),
  )
  return app
}

/** The password of Basic authentication, as if it had come as a bearer token; the name does not matter. */
function asBearer(authorization: string): string {
  const [, encoded] = /^Basic ([A-Za-z0-9+/=]+)$/i.exec(authorization) ?? []
  if (encoded === undefined) return authorization
  const pair = Buffer.from(encoded, 'base64').toString()
  return `Bearer ${pair.slice(pair.indexOf(':') + 1)}`
}

function digest(text: string): Buffer {
  return createHash('sha256').update(text).digest()
}
