/** The gateway's metrics of sessions, and of what is done with them: keys, JWTs, users. */
import { counter, gauge, histogram } from './kinds.ts'
import type { Metrics } from './kinds.ts'

/** A look into the cache takes microseconds, one into Redis a fraction of a millisecond; it gives up after 250 ms. */
const VALIDATION_BUCKETS_SECONDS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5]

export function sessionMetrics(metrics: Metrics) {
  return {
    sessionsOpened: counter(metrics, { name: 'sessions_opened_total', help: 'Sessions opened.' }),
    sessionsFound: counter(metrics, {
      name: 'session_validations_total',
      help: 'Tokens looked up, by outcome (valid, invalid, other_app: of another app than the asker named, failed: Redis did not say) and cache: hit, miss, off.',
      labelNames: ['outcome', 'cache'],
      childrenMax: 12,
      zero: ['off', 'miss'].map((cache) => ({ outcome: 'failed', cache })),
    }),
    validationSeconds: histogram(metrics, {
      name: 'session_validation_duration_seconds',
      help: 'Time to look a token up, whatever came of it.',
      buckets: VALIDATION_BUCKETS_SECONDS,
    }),
    sessionsRevoked: counter(metrics, {
      name: 'sessions_revoked_total',
      help: 'Log-outs: one session, all of a user, or all but one (others).',
      labelNames: ['scope'],
      childrenMax: 3,
    }),
    sessionsRenewed: counter(metrics, {
      name: 'session_renewals_total',
      help: 'Sessions prolonged because they are used: renewed, unneeded (it had just been done), failed.',
      labelNames: ['outcome'],
      childrenMax: 3,
    }),
    sessionEvents: counter(metrics, {
      name: 'session_events_total',
      help: 'Log-outs for the worker to tell of: queued, lost (Redis did not take it), dropped (too many wait).',
      labelNames: ['outcome'],
      childrenMax: 3,
      zero: ['lost', 'dropped'].map((outcome) => ({ outcome })),
    }),
    keyUses: counter(metrics, {
      name: 'session_key_uses_total',
      help: 'What session_keys and access_tokens were used for; outcome: ok, ok_previous (the key before), or the code of the error.',
      labelNames: ['use', 'outcome'],
      childrenMax: 40,
    }),
    seals: counter(metrics, {
      name: 'seals_total',
      help: 'Values sealed, by kid of SEAL_KEYS. Replace a key when all gateways together come near 2^31 (seal.ts).',
      labelNames: ['kid'],
      childrenMax: 8,
    }),
    sealAlarm: gauge(metrics, {
      name: 'seal_alarm',
      help: 'By kid of SEAL_KEYS, 1: this process alone has sealed 2^31 times with it. At 2^32 it stops: rotate before.',
      labelNames: ['kid'],
      childrenMax: 8,
    }),
    sealedUnreadable: counter(metrics, {
      name: 'sealed_unreadable_total',
      help: 'Sealed values of Redis that no key of SEAL_KEYS opens: retired too early, or tampered with.',
      labelNames: ['what'],
      childrenMax: 2,
      zero: ['access_token', 'session_key'].map((what) => ({ what })),
    }),
    jwtsIssued: counter(metrics, {
      name: 'jwt_issued_total',
      help: 'JWTs made, by audience (of JWT_AUDIENCES).',
      labelNames: ['audience'],
    }),
    jwtsVerified: counter(metrics, {
      name: 'jwt_verifications_total',
      help: 'JWTs checked by introspection, by outcome.',
      labelNames: ['outcome'],
      childrenMax: 8,
    }),
    usersErased: counter(metrics, {
      name: 'users_erased_total',
      help: 'Users whose erasure has been asked for.',
    }),
    usersBlocked: counter(metrics, {
      name: 'users_blocked_total',
      help: 'Users blocked by an administrator.',
    }),
    pushes: counter(metrics, {
      name: 'push_messages_total',
      help: 'Messages that WeChat pushed, by type (unread: refused before). outcome: erased, logged_out, repeated, no_user, ignored, or the code of the error.',
      labelNames: ['type', 'outcome'],
      childrenMax: 30,
    }),
  }
}
