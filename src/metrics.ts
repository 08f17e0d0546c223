/**
 * Every metric, with its help text, labels and the reason of its buckets. With metric-kinds.ts
 * and webhook-metrics.ts the only file that imports prom-client (which now lives on as @prometheus-io/client).
 *
 * Labels come from closed sets only (error codes, outcomes, configured hosts), never from what a client
 * sent, so that the number of series is bounded.
 */
import { collectDefaultMetrics, Counter, Gauge, Registry } from 'prom-client'
import { counter, exposition, gauge, histogram } from './metric-kinds.ts'
import { webhooks } from './webhook-metrics.ts'

/** From Redis' fraction of a millisecond over WeChat's usual 50–200 ms to the login's deadline. */
const LOGIN_BUCKETS_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3, 5]
/** A job is a few database round trips, and up to seconds when the database is slow. */
const JOB_BUCKETS_SECONDS = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5]
/** Up to the largest there can be (workers/batches.ts). */
const BATCH_BUCKETS_JOBS = [2, 4, 8, 16, 32, 64]
/** From "at once" to an outage of the worker that lasted a day. */
const LAG_BUCKETS_SECONDS = [0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 1800, 7200, 86_400]

const BREAKER_STATE_VALUES = { closed: 0, half_open: 1, open: 2 } as const

/** The gateway's metrics, in a registry of their own. */
export function createGatewayMetrics() {
  const registry = new Registry()
  collectDefaultMetrics({ register: registry })
  const breaker = gauge(
    registry,
    'wechat_breaker_state',
    'Circuit breaker of a WeChat host: 0 closed, 1 half open, 2 open.',
    ['host'],
  )
  const apiBreaker = gauge(
    registry,
    'wechat_api_breaker_state',
    'Circuit breaker of a WeChat host for calls other than jscode2session: 0 closed, 1 half open, 2 open.',
    ['host'],
  )
  // Not a label of login_total: with every outcome it would be tens of thousands of series.
  const appLogins = counter(
    registry,
    'app_logins_total',
    'Logins by app: ok, refused (4xx) or failed (5xx). 250 apps have a label, the rest are other.',
    ['appid', 'result'],
  )
  return {
    exposition: exposition(registry),
    logins: counter(registry, 'login_total', 'Logins by outcome: ok, or the code of the error.', ['outcome']),
    appLogins,
    gatedApps: (labels: () => GatedApp[]) => gatedApps(registry, labels),
    slots: (counts: () => Record<SlotCalls, SlotCounts>) => slots(registry, counts),
    slotsRefused: counter(
      registry,
      'wechat_slots_refused_total',
      'Calls turned away for want of a slot. why: hopeless (none would come free in time), waited (none did), queue_full.',
      ['calls', 'why'],
    ),
    appsUnusable: counter(
      registry,
      'apps_unusable_total',
      'Apps added at run time that this gateway cannot use: their secret or push does not open, or their form is new.',
      ['why'],
    ),
    /** An app is there no longer: its series go. */
    forgetApp(appid: string): void {
      for (const result of ['ok', 'refused', 'failed']) appLogins.remove({ appid, result })
    },
    loginSeconds: histogram(registry, {
      name: 'login_duration_seconds',
      help: 'Time from a login request to its answer.',
      buckets: LOGIN_BUCKETS_SECONDS,
    }),
    exchanges: histogram(registry, {
      name: 'wechat_exchange_duration_seconds',
      help: 'Calls of jscode2session by host and outcome.',
      labelNames: ['host', 'outcome'],
      buckets: LOGIN_BUCKETS_SECONDS,
    }),
    errcodes: counter(
      registry,
      'wechat_errcode_total',
      'Errcodes WeChat answered with, by kind of app; other: not in our table.',
      ['kind', 'errcode'],
    ),
    claims: counter(registry, 'code_claims_total', 'What claiming a code led to.', ['outcome']),
    limits: counter(
      registry,
      'limit_total',
      'Limits spent: allowed, denied, or degraded (counted without Redis).',
      ['limit', 'outcome'],
    ),
    sessionsOpened: counter(registry, 'sessions_opened_total', 'Sessions opened.'),
    sessionsFound: counter(
      registry,
      'session_validations_total',
      'Tokens looked up, by outcome (other_app: of another app than the asker named) and cache: hit, miss, off.',
      ['outcome', 'cache'],
    ),
    sessionsRevoked: counter(
      registry,
      'sessions_revoked_total',
      'Log-outs: one session, all of a user, or all but one.',
      ['scope'],
    ),
    sessionsRenewed: counter(
      registry,
      'session_renewals_total',
      'Sessions prolonged because they are used: renewed, unneeded (it had just been done), failed.',
      ['outcome'],
    ),
    keyUses: counter(
      registry,
      'session_key_uses_total',
      'What session_keys and access_tokens were used for; outcome: ok, ok_previous (the key before), or the code of the error.',
      ['use', 'outcome'],
    ),
    seals: counter(
      registry,
      'seals_total',
      'Values sealed, by kid of SEAL_KEYS. Replace a key when all gateways together come near 2^31 (seal.ts).',
      ['kid'],
    ),
    sealAlarm: gauge(
      registry,
      'seal_alarm',
      'By kid of SEAL_KEYS, 1: this process alone has sealed 2^31 times with it. At 2^32 it stops: rotate before.',
      ['kid'],
    ),
    sealedUnreadable: counter(
      registry,
      'sealed_unreadable_total',
      'Sealed values of Redis that no key of SEAL_KEYS opens: retired too early, or tampered with.',
      ['what'],
    ),
    apiCalls: histogram(registry, {
      name: 'wechat_api_duration_seconds',
      help: 'Calls of WeChat other than jscode2session, by call and outcome.',
      labelNames: ['call', 'outcome'],
      buckets: LOGIN_BUCKETS_SECONDS,
    }),
    accessTokenFetches: counter(
      registry,
      'wechat_access_token_fetches_total',
      'Calls of stable_token by reason: missing, ahead (of its end), refused, forced.',
      ['reason', 'outcome'],
    ),
    setApiBreaker: (host: string, state: keyof typeof BREAKER_STATE_VALUES) =>
      apiBreaker.set({ host }, BREAKER_STATE_VALUES[state]),
    sessionEvents: counter(
      registry,
      'session_events_total',
      'Log-outs for the worker to tell of: queued, lost (Redis did not take it), dropped (too many wait).',
      ['outcome'],
    ),
    usersErased: counter(registry, 'users_erased_total', 'Users whose erasure has been asked for.'),
    pushes: counter(
      registry,
      'push_messages_total',
      'Messages that WeChat pushed, by type (unread: refused before). outcome: erased, logged_out, repeated, no_user, ignored, or the code of the error.',
      ['type', 'outcome'],
    ),
    usersBlocked: counter(registry, 'users_blocked_total', 'Users blocked by an administrator.'),
    jwtsIssued: counter(registry, 'jwt_issued_total', 'JWTs made, by audience (of JWT_AUDIENCES).', [
      'audience',
    ]),
    jwtsVerified: counter(registry, 'jwt_verifications_total', 'JWTs checked by introspection, by outcome.', [
      'outcome',
    ]),
    provisioningEnqueued: counter(
      registry,
      'provisioning_enqueued_total',
      'Jobs handed to the worker: added, waiting_already, or skipped (of a known user, while too many wait).',
      ['outcome'],
    ),
    provisioningSelfheal: counter(
      registry,
      'provisioning_selfheal_total',
      'Jobs enqueued again because the worker never acknowledged the first. Normally 0.',
    ),
    queueJobs: (counts: () => Promise<Record<string, number>>) => queueJobs(registry, counts),
    setBreaker: (host: string, state: keyof typeof BREAKER_STATE_VALUES) =>
      breaker.set({ host }, BREAKER_STATE_VALUES[state]),
    logLinesLost: (lines: () => number) => logLinesLost(registry, lines),
    redisUp: gauge(registry, 'redis_up', 'Whether the connection to Redis takes commands.'),
    redisFailures: counter(
      registry,
      'redis_failures_total',
      'Commands of Redis that failed: timeout, silent (not sent: Redis hangs), disconnected, full (maxmemory), denied, not_master, not_ready, disk, other.',
      ['reason'],
    ),
    evictionPolicyOk: gauge(
      registry,
      'redis_eviction_policy_ok',
      'Whether maxmemory-policy is noeviction: 1, 0 (sessions and jobs are lost when memory is short), -1 Redis does not say.',
    ),
    requests: counter(registry, 'http_requests_total', 'Requests by route and status.', [
      'route',
      'method',
      'status',
    ]),
    inFlight: (count: () => number) => inFlight(registry, count),
    shed: counter(
      registry,
      'requests_shed_total',
      'Requests refused as overloaded before any work: in_flight (too many at once) or loop_delay, by rank.',
      ['rank', 'reason'],
    ),
  }
}

export type GatewayMetrics = ReturnType<typeof createGatewayMetrics>

/** The worker's metrics, in a registry of their own. */
export function createWorkerMetrics() {
  const registry = new Registry()
  collectDefaultMetrics({ register: registry })
  return {
    exposition: exposition(registry),
    jobs: counter(
      registry,
      'provisioning_jobs_total',
      'Jobs run, by outcome: done, failed (an attempt is spent), postponed (none is), dead (waits for a person).',
      ['outcome'],
    ),
    erasures: counter(
      registry,
      'erasure_jobs_total',
      'Erasures of users run, by outcome: done, failed (will be retried), dead.',
      ['outcome'],
    ),
    stalled: counter(
      registry,
      'provisioning_stalled_total',
      'Jobs taken over from a worker that went silent.',
    ),
    jobSeconds: histogram(registry, {
      name: 'provisioning_duration_seconds',
      help: 'Time to provision one user.',
      buckets: JOB_BUCKETS_SECONDS,
    }),
    batchJobs: histogram(registry, {
      name: 'provisioning_batch_jobs',
      help: 'Jobs written to the database together.',
      buckets: BATCH_BUCKETS_JOBS,
    }),
    batchLeftovers: counter(
      registry,
      'provisioning_batch_leftovers_total',
      'Jobs of a batch that were done one by one: unusual (a unionid that links users, say), or the batch failed.',
      ['why'],
    ),
    lagSeconds: histogram(registry, {
      name: 'provisioning_lag_seconds',
      help: 'Time from the login to the acknowledgement of its user.',
      buckets: LAG_BUCKETS_SECONDS,
    }),
    users: counter(registry, 'provisioned_users_total', 'Users written, by what was new.', ['outcome']),
    queueJobs: (counts: () => Promise<Record<string, number>>) => queueJobs(registry, counts),
    webhooks: webhooks(registry),
  }
}

export type WorkerMetrics = ReturnType<typeof createWorkerMetrics>

/** Asked when scraped. */
function logLinesLost(registry: Registry, lines: () => number): void {
  const lost = new Counter({
    name: 'log_lines_lost_total',
    help: 'Lines of the log that were dropped because nobody took them: stdout is closed, full or without space.',
    registers: [],
    collect() {
      lost.reset()
      lost.inc(lines())
    },
  })
  registry.registerMetric(lost)
}

/** misconfigured: WeChat refuses the app itself. rate_limited: the app's quota is used up. */
type GatedApp = { appid: string; why: 'misconfigured' | 'rate_limited' }

/** Asked when scraped. Only apps that are gated have a series; apps without a label of their own share one. */
function gatedApps(registry: Registry, labels: () => GatedApp[]): void {
  const gated = new Gauge({
    name: 'wechat_app_gated',
    help: 'Apps that WeChat refuses, so that it is not asked but for a probe. why: misconfigured, rate_limited (45011).',
    labelNames: ['appid', 'why'],
    registers: [],
    collect() {
      gated.reset()
      for (const { appid, why } of labels()) gated.inc({ appid, why })
    },
  })
  registry.registerMetric(gated)
}

/** Asked when scraped. */
function inFlight(registry: Registry, count: () => number): void {
  const requests: Gauge = new Gauge({
    name: 'http_requests_in_flight',
    help: 'Requests being worked on, but for health, metrics and administration.',
    registers: [registry],
    collect() {
      requests.set(count())
    },
  })
}

type SlotCalls = 'exchange' | 'api'
type SlotCounts = { running: number; waiting: number }

/** Asked when scraped. */
function slots(registry: Registry, counts: () => Record<SlotCalls, SlotCounts>): void {
  const gauge = new Gauge({
    name: 'wechat_slots',
    help: 'Calls of WeChat that hold one of the 64 slots (running), or wait for one. calls: exchange, api (all others).',
    labelNames: ['calls', 'state'],
    registers: [],
    collect() {
      for (const [calls, { running, waiting }] of Object.entries(counts())) {
        gauge.set({ calls, state: 'running' }, running)
        gauge.set({ calls, state: 'waiting' }, waiting)
      }
    },
  })
  registry.registerMetric(gauge)
}

/** Asked when scraped. While Redis does not answer, the gauge is absent rather than wrong. */
function queueJobs(registry: Registry, counts: () => Promise<Record<string, number>>): void {
  const jobs = new Gauge({
    name: 'provisioning_queue_jobs',
    help: 'Jobs of the provisioning queue by state; failed: dead, waiting for a person.',
    labelNames: ['state'],
    registers: [],
    async collect() {
      jobs.reset()
      const byState = await counts().catch(() => ({}))
      for (const [state, count] of Object.entries(byState)) jobs.set({ state }, count)
    },
  })
  registry.registerMetric(jobs)
}
