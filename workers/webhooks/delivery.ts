/**
 * Delivers what the outbox holds: a loop for each endpoint, so that one that is slow or away holds up nobody else.
 * Any number of workers may do so beside each other (deliveries.ts).
 */
import { setTimeout as delay } from 'node:timers/promises'
import { createAddressGuard } from '../../src/address-guard.ts'
import { createThrottle } from '../../src/log.ts'
import type { Log } from '../../src/log.ts'
import { createLookup } from '../../src/lookup.ts'
import type { WorkerMetrics } from '../../src/metrics/worker.ts'
import type { WebhookEndpoint, WebhooksConfig } from '../../src/webhook-endpoints.ts'
import { describeDatabaseError } from '../database-errors.ts'
import type { Deliveries, Delivery } from './deliveries.ts'
import { createPoster } from './post.ts'
import type { Poster } from './post.ts'
import { judge } from './schedule.ts'

/** How soon an event is noticed. */
const POLL_MS = 1_000
/** Attempts that end together are followed by one look for more, not by one each. */
const GATHER_MS = 5
/** After an error of the database. */
const AWAY_MS = 5_000
const COUNT_INTERVAL_MS = 10_000
const SWEEP_INTERVAL_MS = 300_000

export interface WebhookDeliveryDeps {
  readonly deliveries: Deliveries
  readonly metrics: Pick<WorkerMetrics, 'webhooks'>
  readonly log: Log
}

export interface WebhookDelivery {
  start(): void
  /** Takes nothing further, lets what is being sent end for at most `graceMs`, and breaks off the rest. */
  close(graceMs: number): Promise<void>
}

/** Builds it; nothing is delivered before start(). */
export function createWebhookDelivery(
  { deliveries, metrics, log }: WebhookDeliveryDeps,
  { endpoints, privateNetworks }: WebhooksConfig,
): WebhookDelivery {
  const guard = createAddressGuard(privateNetworks)
  const closing = new AbortController()
  const { signal } = closing
  const throttle = createThrottle(AWAY_MS)
  const lookup = createLookup()
  const posters = new Map(
    endpoints.map((endpoint) => [endpoint.name, createPoster(endpoint, { guard, lookup })]),
  )
  let ended: Promise<unknown> = Promise.resolve()

  /** One loop of an endpoint's; it ends when everything closes, after what it has sent. */
  async function serve(endpoint: WebhookEndpoint, poster: Poster): Promise<void> {
    const running = new Set<Promise<void>>()
    let pausedUntilMs = 0
    while (!signal.aborted) {
      if (running.size === endpoint.concurrency) await Promise.race(running)
      const pauseMs = pausedUntilMs - performance.now()
      if (pauseMs > 0) {
        await rest(pauseMs)
        continue
      }
      const free = endpoint.concurrency - running.size
      const claimed = await claim(endpoint.name, free)
      for (const delivery of claimed) {
        const attempt = deliver(delivery, poster, (pauseSeconds) => {
          running.delete(attempt)
          pausedUntilMs = Math.max(pausedUntilMs, performance.now() + pauseSeconds * 1_000)
        })
        running.add(attempt)
      }
      if (claimed.length < free) await rest(POLL_MS * (0.5 + Math.random()))
      else {
        await Promise.race(running)
        await rest(GATHER_MS)
      }
    }
    await Promise.all(running)
  }

  async function claim(name: string, limit: number): Promise<Delivery[]> {
    try {
      return await deliveries.claim(name, limit)
    } catch (error) {
      throttle('claim', (held) =>
        log.warn({ ...describeDatabaseError(error), held }, 'webhooks wait for the database'),
      )
      await rest(AWAY_MS)
      return []
    }
  }

  /** Never rejects. `onEnd` hears for how long the endpoint wants to be left alone. */
  async function deliver(
    delivery: Delivery,
    poster: Poster,
    onEnd: (pauseSeconds: number) => void,
  ): Promise<void> {
    const { endpoint, eventId, type, attempts } = delivery
    const startedMs = performance.now()
    const answer = await poster.post({ id: eventId, payload: delivery.payload })
    // Broken off by the end of this worker: it is the next one's.
    if (signal.aborted && answer.kind === 'failed' && answer.reason === 'timeout') return onEnd(0)
    const { end, result, disables, pauseSeconds } = judge(answer, attempts)
    const outcome = disables ? 'gone' : end.state === 'pending' ? 'failed' : end.state
    metrics.webhooks.deliveries.inc({ endpoint, outcome })
    metrics.webhooks.seconds.observe((performance.now() - startedMs) / 1_000, { endpoint })
    const fields = { endpoint, event: eventId, type, attempts, result }
    if (outcome === 'gone') log.error(fields, 'a webhook endpoint is gone: it is disabled')
    if (outcome === 'dead') log.error(fields, 'a webhook is dead')
    if (outcome === 'failed')
      throttle(`failed ${endpoint}`, (held) => log.warn({ ...fields, held }, 'a webhook will be sent again'))
    try {
      if (disables) await deliveries.setDisabled(endpoint, true)
      await deliveries.finish(delivery, end, result)
    } catch (error) {
      // The lease ends, and it is sent once more.
      throttle('finish', (held) =>
        log.warn({ ...describeDatabaseError(error), held }, 'the end of a webhook was not kept'),
      )
    }
    onEnd(pauseSeconds)
  }

  async function count(): Promise<void> {
    const [counts, disabled] = await Promise.all([deliveries.counts(), deliveries.disabled()])
    for (const { name } of endpoints) {
      const of = (state: string) => counts.find((each) => each.endpoint === name && each.state === state)
      metrics.webhooks.waiting.set({ endpoint: name }, of('pending')?.count ?? 0)
      metrics.webhooks.oldestSeconds.set({ endpoint: name }, of('pending')?.ageSeconds ?? 0)
      metrics.webhooks.dead.set({ endpoint: name }, of('dead')?.count ?? 0)
      metrics.webhooks.disabled.set({ endpoint: name }, disabled.has(name) ? 1 : 0)
    }
  }

  /** Does something at once and again and again, whatever becomes of it: the database may be away. */
  async function repeat(work: () => Promise<void>, intervalMs: number): Promise<void> {
    while (!signal.aborted) {
      await work().catch((error: unknown) =>
        throttle('repeat', () =>
          log.warn(describeDatabaseError(error), 'webhooks could not be counted or swept'),
        ),
      )
      await rest(intervalMs * (0.75 + Math.random() / 2))
    }
  }

  /** Until then, or until everything closes. */
  const rest = (ms: number) => delay(ms, undefined, { signal }).catch(() => {})

  return {
    start() {
      const loops = endpoints.map((endpoint) => {
        const poster = posters.get(endpoint.name)
        return poster && serve(endpoint, poster)
      })
      // Swept also without endpoints: there may have been some.
      ended = Promise.all([...loops, repeat(() => deliveries.sweep(), SWEEP_INTERVAL_MS)])
      if (endpoints.length > 0) void repeat(count, COUNT_INTERVAL_MS)
    },
    async close(graceMs) {
      closing.abort()
      await Promise.race([ended, delay(graceMs, undefined, { ref: false })])
      for (const poster of posters.values()) poster.close()
    },
  }
}
