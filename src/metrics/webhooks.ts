/** The worker's metrics of webhooks. An endpoint is labelled by its name in WEBHOOKS_FILE, so there are few. */
import { counter, gauge, histogram } from './kinds.ts'
import type { Metrics } from './kinds.ts'

/** Up to the timeout of an attempt. */
const WEBHOOK_BUCKETS_SECONDS = [0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15]
/** As many as WEBHOOKS_FILE may name. */
const ENDPOINTS_MAX = 20

export function webhooks(metrics: Metrics) {
  const perEndpoint = { labelNames: ['endpoint'], childrenMax: ENDPOINTS_MAX }
  return {
    deliveries: counter(metrics, {
      name: 'webhook_deliveries_total',
      help: 'Attempts to deliver, by outcome: delivered, failed (will be tried again), dead, gone (410: disabled).',
      labelNames: ['endpoint', 'outcome'],
      childrenMax: 4 * ENDPOINTS_MAX,
    }),
    seconds: histogram(metrics, {
      name: 'webhook_duration_seconds',
      help: 'Time of one attempt, until the headers of the answer.',
      buckets: WEBHOOK_BUCKETS_SECONDS,
      ...perEndpoint,
    }),
    waiting: gauge(metrics, {
      name: 'webhook_waiting',
      help: 'Deliveries that wait for an attempt.',
      ...perEndpoint,
    }),
    oldestSeconds: gauge(metrics, {
      name: 'webhook_oldest_seconds',
      help: 'Age of the oldest delivery that waits; 0 when none does.',
      ...perEndpoint,
    }),
    dead: gauge(metrics, {
      name: 'webhook_dead',
      help: 'Deliveries that were given up, waiting for a person.',
      ...perEndpoint,
    }),
    disabled: gauge(metrics, {
      name: 'webhook_endpoint_disabled',
      help: 'Whether nothing is delivered there, because it answered 410 or an operator said so.',
      ...perEndpoint,
    }),
    sessionEvents: counter(metrics, {
      name: 'session_event_jobs_total',
      help: 'Log-outs that gateways told of, by outcome: done, failed (will be retried), dead.',
      labelNames: ['outcome'],
      childrenMax: 3,
    }),
  }
}
