/** The public listener: what Mini Programs, and proxies on their behalf, may ask. */
import { addHealthRoutes } from './health-routes.ts'
import { addLoginRoutes } from './login-routes.ts'
import type { LoginRoutesDeps } from './login-routes.ts'
import { addOpenDataRoutes } from './open-data-routes.ts'
import type { OpenDataRoutesDeps } from './open-data-routes.ts'
import { createServer } from './server.ts'
import type { Server, ServerDeps } from './server.ts'
import { addSessionRoutes } from './session-routes.ts'
import type { SessionRoutesDeps } from './session-routes.ts'
import { addTokenRoutes } from './token-routes.ts'
import type { TokenRoutesDeps } from './token-routes.ts'

export function createPublicApp(
  deps: ServerDeps & LoginRoutesDeps & SessionRoutesDeps & TokenRoutesDeps & OpenDataRoutesDeps,
): Server {
  const app = createServer(deps)
  addHealthRoutes(app, deps.health)
  addLoginRoutes(app, deps)
  addSessionRoutes(app, deps)
  addTokenRoutes(app, deps)
  addOpenDataRoutes(app, deps)
  return app
}
