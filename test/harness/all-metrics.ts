/** All metrics that there can be: also those that the wiring adds, given what is asked when scraped. */
import type { CatalogueEntry } from '../../src/metrics/kinds.ts'
import { createGatewayMetrics } from '../../src/metrics/gateway.ts'
import { createWorkerMetrics } from '../../src/metrics/worker.ts'

export type Catalogue = ReadonlyMap<string, CatalogueEntry>

export function allMetrics(): { gateway: Catalogue; worker: Catalogue; names: string[] } {
  const queue = { counts: async () => ({}), oldestWaitingAtMs: async () => undefined }
  const gateway = createGatewayMetrics()
  gateway.accessTokenAges(() => [])
  gateway.gatedApps(() => [])
  gateway.inFlight(() => 0)
  gateway.logLinesLost(() => 0)
  gateway.provisioningQueue(queue, 1)
  gateway.redisUp(() => true)
  gateway.slots(() => ({ exchange: { running: 0, waiting: 0 }, api: { running: 0, waiting: 0 } }))
  const worker = createWorkerMetrics()
  worker.databaseUp(() => true)
  worker.erasureQueue(queue)
  worker.provisioningQueue(queue)
  worker.redisUp(() => true)
  worker.sessionEventQueue(queue.counts)
  const all = [...gateway.catalogue, ...worker.catalogue]
  return {
    gateway: gateway.catalogue,
    worker: worker.catalogue,
    /** As Prometheus knows them: of a histogram three. */
    names: all.flatMap(([name, { type }]) =>
      type === 'histogram' ? ['_bucket', '_sum', '_count'].map((part) => name + part) : [name],
    ),
  }
}
