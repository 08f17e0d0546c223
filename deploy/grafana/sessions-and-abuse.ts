/** Those who are let in and those who are not: is somebody kept out who should not be, or trying who should not? */
import { lines, quantiles, rates, share, stat } from './dashboard.ts'
import type { Dashboard } from './dashboard.ts'
import { HERE, INSTANCE } from './parts.ts'

export const SESSIONS_AND_ABUSE: Dashboard = {
  uid: 'wechat-login-sessions',
  title: 'WeChat login: sessions and abuse',
  question: 'Is somebody kept out who should not be, or trying who should not?',
  variables: [INSTANCE],
  rows: [
    {
      title: 'Now',
      panels: [
        stat('Checks per second', `sum(rate(session_validations_total{${HERE}}[$__rate_interval]))`, {
          description: 'All lookups of tokens.',
          unit: 'reqps',
        }),
        stat(
          'Tokens that are invalid',
          share('session_validations_total', 'outcome=~"invalid|other_app"', { where: HERE }),
          {
            description:
              'Share of lookups. A few per cent are sessions that ended. Suddenly many: a TOKEN_KEYS was taken away too early, Redis lost its data, or somebody guesses.',
            unit: 'percentunit',
            thresholds: [
              { from: 0.2, colour: 'yellow' },
              { from: 0.5, colour: 'red' },
            ],
          },
        ),
        stat('Sessions opened', `sum(rate(sessions_opened_total{${HERE}}[$__rate_interval]))`, {
          description: 'One for each login that succeeds.',
          unit: 'ops',
        }),
        stat('Codes unknown to WeChat', share('login_total', 'outcome="code_invalid"', { where: HERE }), {
          description:
            'Share of logins. Some clients are always late. Many from few addresses are attempts; these are shut out by LIMIT_INVALID_PER_IP.',
          unit: 'percentunit',
          thresholds: [
            { from: 0.1, colour: 'yellow' },
            { from: 0.5, colour: 'red', alert: 'InvalidCodes' },
          ],
        }),
        stat(
          'Denied by limits',
          `sum(rate(limit_total{outcome="denied", ${HERE}}[$__rate_interval])) or vector(0)`,
          {
            description: 'Per second, of all limits. Which ones, see "Denied, by limit".',
            unit: 'ops',
            thresholds: [{ from: 1, colour: 'yellow' }],
          },
        ),
        stat('Sealed, unreadable', `sum(increase(sealed_unreadable_total{${HERE}}[1h]))`, {
          description:
            'In the last hour. Normal: 0. A key of SEAL_KEYS was taken away too early, or Redis was tampered with.',
          unit: 'none',
          thresholds: [{ from: 1, colour: 'red' }],
          alerts: ['SealedUnreadable'],
        }),
      ],
    },
    {
      title: 'Sessions',
      panels: [
        lines('Session checks per second, by answer', rates('session_validations_total', 'outcome', HERE), {
          description:
            'other_app: a token of another app than the proxy asked for. failed: Redis did not say, and the client got 503, never 401.',
          unit: 'reqps',
          colours: { valid: 'green', failed: 'red' },
        }),
        lines('Answered from memory', rates('session_validations_total', 'cache', HERE), {
          description: 'hit: without Redis, for SESSION_CACHE_SECONDS. off: there is no cache.',
          unit: 'reqps',
        }),
        lines(
          'How long a session check takes',
          quantiles('session_validation_duration_seconds', { where: HERE }),
          {
            description: 'Normal: p99 below 10 ms.',
            unit: 's',
          },
        ),
        lines(
          'Sessions that begin and end',
          [
            { expr: `sum(rate(sessions_opened_total{${HERE}}[$__rate_interval]))`, legend: 'opened' },
            {
              expr: `sum by (scope) (rate(sessions_revoked_total{${HERE}}[$__rate_interval]))`,
              legend: 'log-out: {{scope}}',
            },
          ],
          {
            description:
              'one: here. all: everywhere. others: everywhere else. Many of "all" at once: somebody logs people out.',
            unit: 'ops',
            colours: { opened: 'green' },
          },
        ),
        lines('Sessions prolonged by use', rates('session_renewals_total', 'outcome', HERE), {
          description: 'unneeded: it had just been done. failed: the session lives on as long as it had.',
          unit: 'ops',
        }),
        lines(
          'Users blocked and erased',
          [
            { expr: `sum(increase(users_blocked_total{${HERE}}[$__rate_interval]))`, legend: 'blocked' },
            { expr: `sum(increase(users_erased_total{${HERE}}[$__rate_interval]))`, legend: 'erased' },
          ],
          {
            description: 'By administrators, and erased also by WeChat’s push.',
            unit: 'none',
          },
        ),
      ],
    },
    {
      title: 'Abuse',
      panels: [
        lines(
          'Denied, by limit',
          [
            {
              expr: `sum by (limit) (rate(limit_total{outcome="denied", ${HERE}}[$__rate_interval])) or on () label_replace(vector(0), "limit", "none", "", "")`,
              legend: '{{limit}}',
            },
          ],
          {
            description:
              'login_per_ip: one address, which may be a carrier with thousands behind it. invalid_per_ip: one address with codes that WeChat refuses; abuse. login_per_user: a client in a loop. exchange_per_app: WeChat’s quota of the app. wrong_token_per_ip: somebody guesses tokens.',
            unit: 'ops',
          },
        ),
        lines(
          'Share that is denied, by limit',
          [
            {
              expr: share('limit_total', 'outcome="denied"', { where: HERE, by: 'limit' }),
              legend: '{{limit}}',
            },
          ],
          {
            description:
              'Of all that were counted against it. A lasting few per cent of login_per_ip: the limit is too low for your carriers.',
            unit: 'percentunit',
            thresholds: [{ from: 0.2, colour: 'red', alert: 'LoginsLimited' }],
          },
        ),
        lines('Codes that come again', rates('code_claims_total', 'outcome', `outcome!="lead", ${HERE}`), {
          description:
            'replay and shared are retries of the same client, and get the same answer. other_client: another one sent a code that was used; a stolen code, or a client without a nonce that changed its network.',
          unit: 'ops',
        }),
        lines(
          'Refused logins, by reason',
          rates('login_total', 'outcome', `outcome=~"code_.*|.*blocked|.*rate_limited|overloaded", ${HERE}`),
          {
            description:
              'login_blocked: WeChat blocks the user. user_blocked: an administrator does. rate_limited: "Denied, by limit".',
            unit: 'reqps',
          },
        ),
        lines(
          'Answers 4xx, by route',
          [
            {
              expr: `topk(8, sum by (route, status) (rate(http_requests_total{status=~"4..", ${HERE}}[$__rate_interval])))`,
              legend: '{{route}} {{status}}',
            },
          ],
          {
            description: 'The eight commonest. 401 of administration: somebody has the wrong ADMIN_TOKEN.',
            unit: 'reqps',
          },
        ),
        lines(
          'Refused because of overload',
          [
            {
              expr: `sum by (rank) (rate(requests_shed_total{${HERE}}[$__rate_interval]))`,
              legend: '{{rank}}',
            },
          ],
          { description: 'A flood of logins costs logins first, session checks last.', unit: 'reqps' },
        ),
      ],
    },
    {
      title: 'Keys and tokens',
      panels: [
        lines(
          'Uses of session_keys',
          [
            {
              expr: `sum by (use, outcome) (rate(session_key_uses_total{${HERE}}[$__rate_interval]))`,
              legend: '{{use}}: {{outcome}}',
            },
          ],
          {
            description:
              'ok_previous: encrypted before the last wx.login(). session_key_stale: the client has to log in again; many of them: it logs in behind the user’s back.',
            unit: 'ops',
          },
        ),
        lines(
          'Values sealed with each key',
          [{ expr: `sum by (kid) (seals_total{${HERE}})`, legend: '{{kid}}' }],
          {
            description: 'Since the gateways started. Rotate SEAL_KEYS before 2^31.',
            unit: 'short',
            thresholds: [{ from: 2 ** 31, colour: 'red' }],
            alerts: ['SealKeyWorn'],
          },
        ),
        lines(
          'JWTs made and checked',
          [
            {
              expr: `sum by (audience) (rate(jwt_issued_total{${HERE}}[$__rate_interval])) or on () label_replace(vector(0), "audience", "none", "", "")`,
              legend: 'for {{audience}}',
            },
            {
              expr: `sum by (outcome) (rate(jwt_verifications_total{${HERE}}[$__rate_interval])) or on () label_replace(vector(0), "outcome", "none", "", "")`,
              legend: 'checked: {{outcome}}',
            },
          ],
          {
            description: 'Only with JWT_AUDIENCES. Services check most of them without asking.',
            unit: 'ops',
          },
        ),
      ],
    },
  ],
}
