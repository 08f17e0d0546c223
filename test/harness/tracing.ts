/** A gateway and a worker whose traces go to a collector of the test's. */
import { inject, onTestFinished } from 'vitest'
import { createPostgresDatabase } from '../postgres-database.ts'
import { startSimulator } from '../simulator/server.ts'
import { startCollector } from './collector.ts'
import type { CollectedSpan } from './collector.ts'
import { gatewayEnvironment, SIMULATED, workerEnvironment } from './environment.ts'
import type { TestEnvironment } from './environment.ts'
import { startGatewayProcess, startWorkerProcess } from './processes.ts'
import { until } from './until.ts'

/** Every request is traced, unless the environment says otherwise. */
export async function startTracedGateway(own: TestEnvironment = {}) {
  const wechat = await startSimulator(SIMULATED)
  onTestFinished(() => wechat.close())
  const collector = await startCollector()
  const tracing = { OTEL_EXPORTER_OTLP_ENDPOINT: collector.url, OTEL_TRACES_SAMPLER_ARG: '1' }
  const env = gatewayEnvironment(wechat, { ...tracing, ...own })
  const gateway = await startGatewayProcess(env)
  return {
    wechat,
    collector,
    env,
    gateway,
    async startWorker() {
      const LOG_LEVEL = env['LOG_LEVEL'] ?? 'info'
      return startWorkerProcess(
        workerEnvironment(env, { ...tracing, LOG_LEVEL, ...(await newDatabaseEnvironment()) }),
      )
    },
    /** The trace of a login that follows a first one, for which connections had to be opened and scripts loaded. */
    async traceLogin(): Promise<CollectedSpan[]> {
      await gateway.login({ code: wechat.issueCode().code })
      await gateway.login({ code: wechat.issueCode().code })
      const [, request] = await until('two logins', () => {
        const found = collector.spans.filter(({ name }) => name === 'POST /login')
        return found.length === 2 && found
      })
      return collector.trace(request?.traceId ?? '', 'send provision', 'process provision')
    },
  }
}

/** A worker's, with a database of its own: on Postgres if there is one, for the embedded one takes its time. */
export async function newDatabaseEnvironment(): Promise<TestEnvironment> {
  const serverUrl = inject('postgresUrl')
  return serverUrl === '' ? {} : { DATABASE_URL: (await createPostgresDatabase(serverUrl)).url }
}

/** A span's name, and those below it, in the order in which they began. */
export type Tree = readonly [name: string, ...below: Tree[]]

export function treeOf(spans: readonly CollectedSpan[], root: CollectedSpan): Tree {
  const below = spans
    .filter(({ parentSpanId }) => parentSpanId === root.spanId)
    .toSorted((one, other) => (one.startNs < other.startNs ? -1 : 1))
  return [root.name, ...below.map((span) => treeOf(spans, span))]
}

/** The lines of a process's log. */
export function logLines(output: string): Record<string, unknown>[] {
  return output
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Record<string, unknown>)
}
