/**
 * The worker's own small listener: metrics for Prometheus, and health for the orchestrator.
 *
 *   GET /livez    200 while the event loop turns
 *   GET /readyz   200 while jobs are taken, 503 with the reason otherwise
 *   GET /metrics  Prometheus text
 *
 * and, with WORKER_TOKEN, what webhooks/admin-routes.ts has.
 */
import { createServer } from 'node:http'
import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import type { MetricsText } from '../src/metrics/kinds.ts'

export interface StatusDeps {
  readonly metrics: MetricsText
  /** Why no jobs are taken now; undefined while they are. */
  readonly whyNotReady: () => string | undefined
  /** Answers what is asked about webhooks; undefined as long as, or where, nobody does. */
  readonly webhookAdmin: () => ((request: IncomingMessage, response: ServerResponse) => void) | undefined
}

export interface StatusListener {
  readonly port: number
  close(): void
}

const REQUEST_TIMEOUT_MS = 5_000
/** Prometheus, probes, a person. */
const CONNECTIONS_MAX = 50

/**
 * Listens on `port` of `host` (0: a free port). Rejects with the system's error, EADDRINUSE for instance.
 */
export function listenForStatus(
  { metrics, whyNotReady, webhookAdmin }: StatusDeps,
  { host, port }: { host: string; port: number },
): Promise<StatusListener> {
  const server = createServer({ requestTimeout: REQUEST_TIMEOUT_MS, headersTimeout: REQUEST_TIMEOUT_MS })
  server.maxConnections = CONNECTIONS_MAX
  server.on('request', (request, response) => {
    const answerAdmin = /^\/webhooks(\/|\?|$)/.test(request.url ?? '') ? webhookAdmin() : undefined
    if (answerAdmin !== undefined) return answerAdmin(request, response)
    if (request.method !== 'GET') return answer(response, 405, 'only GET\n')
    switch (request.url) {
      case '/livez':
        return answer(response, 200, 'alive\n')
      case '/readyz': {
        const reason = whyNotReady()
        return answer(response, reason === undefined ? 200 : 503, `${reason ?? 'ready'}\n`)
      }
      case '/metrics':
        metrics.text().then(
          (text) => answer(response, 200, text, metrics.contentType),
          () => answer(response, 500, 'the metrics could not be collected\n'),
        )
        return
      default:
        return answer(response, 404, 'there are /livez, /readyz and /metrics\n')
    }
  })
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, host, () => {
      resolve({
        port: portOf(server),
        close() {
          server.close()
          server.closeAllConnections()
        },
      })
    })
  })
}

function answer(response: ServerResponse, status: number, text: string, contentType = 'text/plain'): void {
  response.writeHead(status, { 'content-type': contentType, 'cache-control': 'no-store' }).end(text)
}

function portOf(server: Server): number {
  const address = server.address()
  return address !== null && typeof address === 'object' ? address.port : 0
}
