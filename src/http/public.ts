/** The public listener: what Mini Programs, and proxies on their behalf, may ask. */
import type { FastifyRequest } from 'fastify'
import { GatewayError } from '../errors.ts'
import type { LocalLimits } from '../local-limits.ts'
import { clientIp } from './client.ts'
import { addHealthRoutes } from './health-routes.ts'
import { addLoginRoutes } from './login-routes.ts'
import type { LoginRoutesDeps } from './login-routes.ts'
import { addOpenDataRoutes } from './open-data-routes.ts'
import type { OpenDataRoutesDeps } from './open-data-routes.ts'
import { addPushRoutes } from './push-routes.ts'
import type { PushRoutesDeps } from './push-routes.ts'
import { createServer } from './server.ts'
import type { Server, ServerDeps } from './server.ts'
import { addSessionRoutes } from './session-routes.ts'
import type { SessionRoutesDeps } from './session-routes.ts'
import { addTokenRoutes } from './token-routes.ts'
import type { TokenRoutesDeps } from './token-routes.ts'

export function createPublicApp(
  deps: ServerDeps &
    LoginRoutesDeps &
    SessionRoutesDeps &
    TokenRoutesDeps &
    OpenDataRoutesDeps &
    PushRoutesDeps,
): Server {
  const app = createServer(deps, (error, request) => afterWrongToken(error, request, deps.localLimits))
  addHealthRoutes(app, deps.health)
  addLoginRoutes(app, deps)
  addSessionRoutes(app, deps)
  addTokenRoutes(app, deps)
  addOpenDataRoutes(app, deps)
  addPushRoutes(app, deps)
  return app
}

/**
 * A token that is refused counts against the address it came from, whatever the route and whatever is wrong with
 * it. Not at /auth: there it is a proxy that asks, on behalf of many clients and perhaps without their addresses,
 * and nginx takes every answer but 401 and 403 for a failure of ours.
 */
function afterWrongToken(error: unknown, request: FastifyRequest, localLimits: LocalLimits): unknown {
  if (!(error instanceof GatewayError) || error.code !== 'session_invalid') return error
  if (request.routeOptions.url === '/auth') return error
  try {
    localLimits.spendWrongToken(clientIp(request))
    return error
  } catch (denial) {
    return denial // in place of the 401
  }
}
