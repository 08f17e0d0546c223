/** The routes that a gateway has, as Fastify tells of them. */
import { channel } from 'node:diagnostics_channel'
import type { FastifyInstance } from 'fastify'
import { loadGatewayConfig } from '../../src/config.ts'
import { createGateway } from '../../src/gateway.ts'
import { createLog } from '../../src/log.ts'
import { gatewayEnvironment } from './environment.ts'

/** The methods of each path. */
export type Routes = ReadonlyMap<string, ReadonlySet<string>>

/** Of the public listener and of the admin listener. The gateway is not started. */
export async function listRoutes(): Promise<{ open: Routes; admin: Routes }> {
  const routesOf = new Map<unknown, Map<string, Set<string>>>()
  /** Fastify tells of every instance it makes, before the first route. */
  const listen = (message: unknown) => {
    const { fastify } = message as { fastify: FastifyInstance }
    const routes = new Map<string, Set<string>>()
    routesOf.set(fastify, routes)
    fastify.addHook('onRoute', ({ url, method }) => {
      for (const one of [method].flat()) routes.set(url, (routes.get(url) ?? new Set()).add(one))
    })
  }
  const initialization = channel('fastify.initialization')
  initialization.subscribe(listen)
  const config = loadGatewayConfig(gatewayEnvironment({ url: 'http://127.0.0.1:1' }))
  const gateway = createGateway(config, createLog('silent', 'routes'))
  initialization.unsubscribe(listen)
  await Promise.all([gateway.app.ready(), gateway.admin.ready()])
  const routes = {
    open: routesOf.get(gateway.app) ?? new Map(),
    admin: routesOf.get(gateway.admin) ?? new Map(),
  }
  await gateway.close()
  return routes
}
