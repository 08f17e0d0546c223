/** The gateway's metrics of what it asks WeChat, and of what stands before that: slots, gates, breakers. */
import { askedGauge, counter, gauge, histogram } from './kinds.ts'
import type { Labels, Metrics } from './kinds.ts'

/** From the simulator's milliseconds over WeChat's usual 50–200 to the login's deadline. */
const EXCHANGE_BUCKETS_SECONDS = [0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3, 5]
/** Nobody waits at a start screen for these: fewer. */
const API_BUCKETS_SECONDS = [0.05, 0.1, 0.2, 0.5, 1, 2, 5]

const BREAKER_STATE_VALUES = { closed: 0, half_open: 1, open: 2 } as const
export type BreakerStateName = keyof typeof BREAKER_STATE_VALUES

/** Each platform has one host, WeChat has two. */
const HOSTS_MAX = 8

/** misconfigured: WeChat refuses the app itself. rate_limited: the app's quota is used up. */
interface GatedApp {
  appid: string
  why: 'misconfigured' | 'rate_limited'
}

type SlotCalls = 'exchange' | 'api'
interface SlotCounts {
  running: number
  waiting: number
}

interface AccessTokenAge {
  appid: string
  ageSeconds: number
}

/** @param traceId of the trace that goes on now, if there is one: becomes the exemplar of an exchange */
export function wechatMetrics(metrics: Metrics, traceId: () => string | undefined) {
  const exchanges = histogram(metrics, {
    name: 'wechat_exchange_duration_seconds',
    help: 'Calls of jscode2session by host and outcome.',
    labelNames: ['host', 'outcome'],
    childrenMax: 16,
    buckets: EXCHANGE_BUCKETS_SECONDS,
  })
  const breaker = gauge(metrics, {
    name: 'wechat_breaker_state',
    help: 'Circuit breaker of a WeChat host: 0 closed, 1 half open, 2 open.',
    labelNames: ['host'],
    childrenMax: HOSTS_MAX,
  })
  const apiBreaker = gauge(metrics, {
    name: 'wechat_api_breaker_state',
    help: 'Circuit breaker of a WeChat host for calls other than jscode2session: 0 closed, 1 half open, 2 open.',
    labelNames: ['host'],
    childrenMax: HOSTS_MAX,
  })
  const openings = counter(metrics, {
    name: 'wechat_breaker_openings_total',
    help: 'Times that the breaker of a host opened. calls: exchange, api (all others).',
    labelNames: ['host', 'calls'],
    childrenMax: 2 * HOSTS_MAX,
  })
  const setBreaker = (host: string, calls: SlotCalls, state: BreakerStateName) => {
    const ofCalls = calls === 'exchange' ? breaker : apiBreaker
    ofCalls.set({ host }, BREAKER_STATE_VALUES[state])
    openings.inc({ host, calls }, state === 'open' ? 1 : 0)
  }
  return {
    exchanged: (labels: { host: string; outcome: string }, seconds: number) =>
      exchanges.observe(seconds, labels, traceId()),
    refusals: counter(metrics, {
      name: 'wechat_exchange_refusals_total',
      help: 'Errcodes of jscode2session by host, and by class: the code that the client is given for them.',
      labelNames: ['host', 'class'],
      childrenMax: 24,
    }),
    errcodes: counter(metrics, {
      name: 'wechat_errcode_total',
      help: 'Errcodes WeChat answered with, by kind of app; other: not in our table.',
      labelNames: ['kind', 'errcode'],
      childrenMax: 48,
    }),
    apiCalls: histogram(metrics, {
      name: 'wechat_api_duration_seconds',
      help: 'Calls of WeChat other than jscode2session, by call and outcome.',
      labelNames: ['call', 'outcome'],
      childrenMax: 12,
      buckets: API_BUCKETS_SECONDS,
    }),
    accessTokenFetches: counter(metrics, {
      name: 'wechat_access_token_fetches_total',
      help: 'Calls of stable_token by reason: missing, ahead (of its end), refused, forced.',
      labelNames: ['reason', 'outcome'],
      childrenMax: 8,
      zero: ['missing', 'ahead', 'refused', 'forced'].map((reason) => ({ reason, outcome: 'failed' })),
    }),
    accessTokensForced: counter(metrics, {
      name: 'wechat_access_token_forced_total',
      help: 'Times that an app was given a new access_token by force. WeChat allows 20 a day, over all gateways.',
      labelNames: ['appid'],
      childrenMax: 20,
    }),
    accessTokenAges: (ask: () => AccessTokenAge[]) =>
      askedGauge(
        metrics,
        {
          name: 'wechat_access_token_age_seconds',
          help: 'Age of the access_token of an app that is in use; the 20 oldest. It ends at 7200, and is renewed at some 6930.',
          labelNames: ['appid'],
          childrenMax: 20,
        },
        () => {
          const oldest = new Map<string, number>() // apps without a label of their own share one
          for (const { appid, ageSeconds } of ask())
            oldest.set(appid, Math.max(ageSeconds, oldest.get(appid) ?? 0))
          return [...oldest].toSorted((a, b) => b[1] - a[1]).map(([appid, age]) => [{ appid }, age] as const)
        },
      ),
    setBreaker,
    slots: (counts: () => Record<SlotCalls, SlotCounts>) =>
      askedGauge(
        metrics,
        {
          name: 'wechat_slots',
          help: 'Calls of WeChat that hold one of the 64 slots (running), or wait for one. calls: exchange, api (all others).',
          labelNames: ['calls', 'state'],
          childrenMax: 4,
        },
        () =>
          Object.entries(counts()).flatMap(([calls, { running, waiting }]) => [
            [{ calls, state: 'running' }, running] as const,
            [{ calls, state: 'waiting' }, waiting] as const,
          ]),
      ),
    slotsRefused: counter(metrics, {
      name: 'wechat_slots_refused_total',
      help: 'Calls turned away for want of a slot. why: hopeless (none would come free in time), waited (none did), queue_full.',
      labelNames: ['calls', 'why'],
      childrenMax: 6,
      zero: ['exchange', 'api'].flatMap((calls) =>
        ['hopeless', 'waited', 'queue_full'].map((why): Labels => ({ calls, why })),
      ),
    }),
    gatedApps: (ask: () => GatedApp[]) =>
      askedGauge(
        metrics,
        {
          name: 'wechat_app_gated',
          help: 'Apps that WeChat refuses, so that it is not asked but for a probe. why: misconfigured, rate_limited (45011).',
          labelNames: ['appid', 'why'],
          childrenMax: 40,
        },
        () => {
          const gated = Map.groupBy(ask(), ({ appid, why }) => `${why} ${appid}`)
          return [...gated.values()].flatMap(([first, ...others]) =>
            first === undefined ? [] : [[{ ...first }, 1 + others.length] as const],
          )
        },
      ),
  }
}
