/**
 * The gateway's metrics; those of one subject stand in a file beside this one, and the worker's in worker.ts.
 * docs/metrics.md lists them all.
 *
 * Labels come from closed sets only (error codes, outcomes, configured hosts), never from what a client sent.
 */
import { askedCounter, askedGauge, counter, createMetrics, exposition, gauge, histogram } from './kinds.ts'
import { describeProcess } from './process.ts'
import { sessionMetrics } from './sessions.ts'
import { provisioningQueue, redisMetrics, spanMetrics } from './stores.ts'
import type { QueueView } from './stores.ts'
import { wechatMetrics } from './wechat.ts'

/** From Redis' fraction of a millisecond over WeChat's usual 50–200 ms to the login's deadline. */
const LOGIN_BUCKETS_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3, 5]
/** A stage is a command of Redis, or the exchange. */
const STAGE_BUCKETS_SECONDS = [0.001, 0.0025, 0.01, 0.05, 0.2, 0.8, 3]

/** What burns the error budgets (deploy/prometheus): its first failure is to be seen as a rise. */
const JUDGED_ROUTES = [
  { route: '/login', method: 'POST' },
  { route: '/login', method: 'GET' },
  { route: '/onLogin', method: 'POST' },
  { route: '/onLogin', method: 'GET' },
  { route: '/auth', method: 'GET' },
  { route: '/session', method: 'GET' },
  { route: '/introspect', method: 'POST' },
] as const

/** Apps that have a label of their own (apps.ts), and one for the rest. */
const APP_LABELS_MAX = 201
const RESULTS = ['ok', 'refused', 'failed'] as const

export interface GatewayMetricsOptions {
  /**
   * The trace that goes on now, if it is recorded: the exemplar of a login or an exchange. To give this makes
   * /metrics answer in OpenMetrics, the only text that has exemplars.
   */
  traceId?: (() => string | undefined) | undefined
}

/** The gateway's metrics, in a registry of their own. */
export function createGatewayMetrics({ traceId }: GatewayMetricsOptions = {}) {
  const metrics = createMetrics({ withExemplars: traceId !== undefined })
  const currentTraceId = traceId ?? (() => undefined)
  describeProcess(metrics, 'gateway')
  const loginSeconds = histogram(metrics, {
    name: 'login_duration_seconds',
    help: 'Time from a login request to its answer.',
    buckets: LOGIN_BUCKETS_SECONDS,
  })
  const stageSeconds = histogram(metrics, {
    name: 'login_stage_duration_seconds',
    help: 'Time of the stages of a login: limit (of the address) and, at the same time, claim (of the code); exchange, session, provisioning.',
    labelNames: ['stage'],
    childrenMax: 5,
    buckets: STAGE_BUCKETS_SECONDS,
  })
  // Not a label of login_total: with every outcome it would be tens of thousands of series.
  const appLogins = counter(metrics, {
    name: 'app_logins_total',
    help: 'Logins by app: ok, refused (4xx) or failed (5xx). 200 apps have a label, the rest are other.',
    labelNames: ['appid', 'result'],
    childrenMax: APP_LABELS_MAX * RESULTS.length,
  })
  return {
    exposition: exposition(metrics),
    catalogue: metrics.catalogue,
    ...wechatMetrics(metrics, currentTraceId),
    ...sessionMetrics(metrics),
    ...redisMetrics(metrics),
    logins: counter(metrics, {
      name: 'login_total',
      help: 'Logins by outcome: ok, or the code of the error.',
      labelNames: ['outcome'],
      childrenMax: 48,
      zero: [{ outcome: 'ok' }, { outcome: 'provisioning_backlog_full' }],
    }),
    loginTook: (seconds: number) => loginSeconds.observe(seconds, undefined, currentTraceId()),
    stageTook: (stage: string, seconds: number) => stageSeconds.observe(seconds, { stage }),
    appLogins,
    /** An app is there no longer: its series go. */
    forgetApp(appid: string): void {
      for (const result of RESULTS) appLogins.remove({ appid, result })
    },
    appsUnusable: counter(metrics, {
      name: 'apps_unusable_total',
      help: 'Apps added at run time that this gateway cannot use: their secret or push does not open, or their form is new.',
      labelNames: ['why'],
      childrenMax: 3,
      zero: ['secret', 'push', 'form'].map((why) => ({ why })),
    }),
    claims: counter(metrics, {
      name: 'code_claims_total',
      help: 'What claiming a code led to: lead, takeover, wait, shared, replay, refused, other_client, exhausted, expired.',
      labelNames: ['outcome'],
      childrenMax: 9,
    }),
    limits: counter(metrics, {
      name: 'limit_total',
      help: 'Limits spent: allowed (also of what was taken ahead), denied, or degraded (counted without Redis).',
      labelNames: ['limit', 'outcome'],
      childrenMax: 18,
    }),
    provisioningEnqueued: counter(metrics, {
      name: 'provisioning_enqueued_total',
      help: 'Jobs handed to the worker: added, waiting_already, or skipped (of a known user, while too many wait).',
      labelNames: ['outcome'],
      childrenMax: 3,
    }),
    provisioningSelfheal: counter(metrics, {
      name: 'provisioning_selfheal_total',
      help: 'Jobs enqueued again because the worker never acknowledged the first. Normally 0.',
    }),
    provisioningQueue(view: QueueView, jobsMax: number) {
      provisioningQueue(metrics, view)
      askedGauge(
        metrics,
        {
          name: 'provisioning_queue_jobs_max',
          help: 'PROVISION_BACKLOG_MAX: when so many jobs wait, first logins are refused.',
        },
        () => jobsMax,
      )
    },
    logLinesLost: (lines: () => number) =>
      askedCounter(
        metrics,
        {
          name: 'log_lines_lost_total',
          help: 'Lines of the log that were dropped because nobody took them: stdout is closed, full or without space.',
        },
        lines,
      ),
    evictionPolicyOk: gauge(metrics, {
      name: 'redis_eviction_policy_ok',
      help: 'Whether maxmemory-policy is noeviction: 1, 0 (sessions and jobs are lost when memory is short), -1 Redis does not say.',
    }),
    spans: spanMetrics(metrics),
    requests: counter(metrics, {
      name: 'http_requests_total',
      help: 'Requests by route and status; 499: the client hung up before its answer.',
      labelNames: ['route', 'method', 'status'],
      childrenMax: 130,
      zero: JUDGED_ROUTES.flatMap((route) => [200, 500, 503].map((status) => ({ ...route, status }))),
    }),
    inFlight: (count: () => number) =>
      askedGauge(
        metrics,
        {
          name: 'http_requests_in_flight',
          help: 'Requests being worked on, but for health, metrics and administration.',
        },
        count,
      ),
    shed: counter(metrics, {
      name: 'requests_shed_total',
      help: 'Requests refused as overloaded before any work: in_flight (too many at once) or loop_delay, by rank.',
      labelNames: ['rank', 'reason'],
      childrenMax: 6,
      zero: ['login', 'other', 'session'].flatMap((rank) =>
        ['in_flight', 'loop_delay'].map((reason) => ({ rank, reason })),
      ),
    }),
  }
}

export type GatewayMetrics = ReturnType<typeof createGatewayMetrics>
