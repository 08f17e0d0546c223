/** The worker's metrics of webhooks. An endpoint is labelled by its name in WEBHOOKS_FILE, so there are few. */
import type { Registry } from 'prom-client'
import { counter, gauge, histogram } from './metric-kinds.ts'

/** Up to the timeout of an attempt. */
const WEBHOOK_BUCKETS_SECONDS = [0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15]

export function webhooks(registry: Registry) {
  const labels = ['endpoint']
  return {
    deliveries: counter(
      registry,
      'webhook_deliveries_total',
      'Attempts to deliver, by outcome: delivered, failed (will be tried again), dead, gone (410: disabled).',
      ['endpoint', 'outcome'],
    ),
    seconds: histogram(registry, {
      name: 'webhook_duration_seconds',
      help: 'Time of one attempt, until the headers of the answer.',
      labelNames: labels,
      buckets: WEBHOOK_BUCKETS_SECONDS,
    }),
    waiting: gauge(registry, 'webhook_waiting', 'Deliveries that wait for an attempt.', labels),
    oldestSeconds: gauge(
      registry,
      'webhook_oldest_seconds',
      'Age of the oldest delivery that waits; 0 when none does.',
      labels,
    ),
    dead: gauge(registry, 'webhook_dead', 'Deliveries that were given up, waiting for a person.', labels),
    disabled: gauge(
      registry,
      'webhook_endpoint_disabled',
      'Whether nothing is delivered there, because it answered 410 or an operator said so.',
      labels,
    ),
    sessionEvents: counter(
      registry,
      'session_event_jobs_total',
      'Log-outs that gateways told of, by outcome: done, failed (will be retried), dead.',
      ['outcome'],
    ),
  }
}
