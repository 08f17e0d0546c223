/** Upstream: is it WeChat, our app at WeChat, or us? */
import { lines, quantile, quantiles, rates, share, stat, states } from './dashboard.ts'
import type { Dashboard } from './dashboard.ts'
import { APP, CIRCUIT, HERE, INSTANCE } from './parts.ts'

const DEAD = 'outcome!~"ok|refused"'
const OF_APP = `appid=~"$appid", ${HERE}`
const EXCHANGES = 'wechat_exchange_duration_seconds'

export const WECHAT: Dashboard = {
  uid: 'wechat-login-upstream',
  title: 'WeChat login: WeChat',
  question: 'Is it WeChat, our app at WeChat, or us?',
  variables: [INSTANCE, APP],
  rows: [
    {
      title: 'Now',
      panels: [
        stat('Circuit', `max(wechat_breaker_state{${HERE}})`, {
          description:
            'The worst of any host in any gateway. With a second host, logins go on while one is open.',
          unit: 'none',
          values: CIRCUIT,
          alerts: ['WechatCircuitOpen'],
        }),
        stat('Exchanges per second', `sum(rate(${EXCHANGES}_count{${HERE}}[$__rate_interval]))`, {
          description:
            'Calls of jscode2session: about one for each login. Far fewer than logins: the circuit is open, or limits deny.',
          unit: 'reqps',
        }),
        stat('Exchanges that fail', share(`${EXCHANGES}_count`, DEAD, { where: HERE }), {
          description:
            'Share without a usable answer: timeout, reset, busy (-1), 5xx, nonsense. A refused code is an answer. Normal: below 1 %.',
          unit: 'percentunit',
          thresholds: [
            { from: 0.01, colour: 'yellow' },
            { from: 0.15, colour: 'red', alert: 'WechatBusy' },
          ],
        }),
        stat('Exchange p95', quantile(0.95, EXCHANGES, `outcome=~"ok|refused", ${HERE}`), {
          description: 'p95 of those that were answered, over all hosts. Normal: below 0.5 s.',
          unit: 's',
          thresholds: [
            { from: 0.8, colour: 'yellow' },
            { from: 1.5, colour: 'red', alert: 'WechatSlow' },
          ],
        }),
        stat('Apps refused', `count(count by (appid) (wechat_app_gated{${HERE}})) or vector(0)`, {
          description: 'Normal: 0. They and the reason are in "Which apps WeChat refuses".',
          unit: 'none',
          thresholds: [{ from: 1, colour: 'red' }],
          alerts: ['AppMisconfigured', 'AppRateLimited'],
        }),
        stat('Slots in use', `max(wechat_slots{state="running", ${HERE}}) / 64`, {
          description:
            'Of the 64 calls that a gateway makes at once, in the fullest one. Full: WeChat is slow.',
          unit: 'percentunit',
          thresholds: [
            { from: 0.7, colour: 'yellow' },
            { from: 0.95, colour: 'red' },
          ],
        }),
      ],
    },
    {
      title: 'Is WeChat there?',
      panels: [
        states(
          'The circuit of each host',
          [{ expr: `max by (host) (wechat_breaker_state{${HERE}})`, legend: '{{host}}' }],
          {
            description:
              'Closed: calls go there. Open: half of them failed, and it is not asked for some seconds. Half open: a few try. Nothing is to be done here while WeChat is away: clients are told to come back with the same code.',
            unit: 'none',
            values: CIRCUIT,
          },
        ),
        lines('Exchanges per second, by how they end', rates(`${EXCHANGES}_count`, 'outcome', HERE), {
          description:
            'ok, and refused (an errcode about the code, the user or the app) are answers; the others are not.',
          unit: 'reqps',
          stacked: true,
          colours: { ok: 'green', refused: 'yellow', timeout: 'red' },
        }),
        lines(
          'Share of exchanges that fail, by host',
          [
            {
              expr: share(`${EXCHANGES}_count`, DEAD, { where: HERE, by: 'host' }),
              legend: '{{host}}',
            },
          ],
          {
            description:
              'At half of the calls of the last seconds the circuit of a host opens. One host alone: WeChat’s, or the way to it.',
            unit: 'percentunit',
            thresholds: [{ from: 0.5, colour: 'red' }],
          },
        ),
        lines('How long WeChat takes, by host', quantiles(EXCHANGES, { where: HERE, by: 'host' }), {
          description: 'p50, p95 and p99 of jscode2session, whatever the answer. Normal: 50–200 ms.',
          unit: 's',
          thresholds: [{ from: 3, colour: 'red' }],
        }),
        lines(
          'Slots: calls that run and wait',
          [
            {
              expr: `max by (calls, state) (wechat_slots{${HERE}})`,
              legend: '{{calls}}, {{state}}',
            },
          ],
          {
            description:
              'Of the fullest gateway; 64 run at most, the rest waits as long as its login may. Waiting: WeChat is slow, or there are too few gateways for it.',
            unit: 'none',
            thresholds: [{ from: 64, colour: 'red' }],
          },
        ),
        lines(
          'Turned away for want of a slot',
          [
            {
              expr: `sum by (calls, why) (rate(wechat_slots_refused_total{${HERE}}[$__rate_interval]))`,
              legend: '{{calls}}: {{why}}',
            },
          ],
          {
            description: 'These clients get 503 at once and keep their code. Normal: 0.',
            unit: 'reqps',
            thresholds: [{ from: 0.1, colour: 'red', alert: 'WechatSlotsShort' }],
          },
        ),
      ],
    },
    {
      title: 'What does it say?',
      panels: [
        lines('Errcodes per second', rates('wechat_errcode_total', 'errcode', HERE), {
          description:
            '40029, 40163: codes that are wrong or used; clients. -1: WeChat is busy. 45011: the quota of a minute. 40013, 40125, 40164, 40243: app, AppSecret or address list; somebody changed something in the console.',
          unit: 'ops',
        }),
        lines(
          'Refusals of codes, by what the client is told',
          rates('wechat_exchange_refusals_total', 'class', HERE),
          {
            description: 'The same errcodes as the codes of our errors.',
            unit: 'ops',
          },
        ),
        states(
          'Which apps WeChat refuses',
          [
            {
              expr: `max by (appid, why) (wechat_app_gated{${OF_APP}}) or on () label_replace(vector(0), "appid", "none", "", "")`,
              legend: '{{appid}} {{why}}',
            },
          ],
          {
            description:
              'WeChat refused them several times in a row, so it is asked only for a probe, and their users get 503. misconfigured: AppSecret, address list, account; rate_limited: the quota. Other apps notice nothing.',
            unit: 'none',
            values: { 0: { text: 'none', colour: 'green' }, 1: { text: 'refused', colour: 'red' } },
            alerts: ['AppMisconfigured', 'AppRateLimited'],
          },
        ),
      ],
    },
    {
      title: 'Which app is it?',
      panels: [
        lines(
          'Logins per second, by app',
          [
            {
              expr: `topk(10, sum by (appid) (rate(app_logins_total{${OF_APP}}[$__rate_interval])))`,
              legend: '{{appid}}',
            },
          ],
          { description: 'The ten with the most.', unit: 'reqps' },
        ),
        lines(
          'Share of logins that fail, by app',
          [
            {
              expr: `topk(10, ${share('app_logins_total', 'result="failed"', { where: OF_APP, by: 'appid' })})`,
              legend: '{{appid}}',
            },
          ],
          {
            description:
              '5xx: all apps alike is WeChat or Redis; one alone is its secret, address list or quota.',
            unit: 'percentunit',
            thresholds: [{ from: 0.1, colour: 'red' }],
          },
        ),
        lines(
          'Share of logins that are refused, by app',
          [
            {
              expr: `topk(10, ${share('app_logins_total', 'result="refused"', { where: OF_APP, by: 'appid' })})`,
              legend: '{{appid}}',
            },
          ],
          {
            description:
              '4xx. High after a release of one app: its client sends codes twice, or late, or of another app.',
            unit: 'percentunit',
          },
        ),
        lines(
          'Apps that a gateway cannot use',
          [
            {
              expr: `sum by (why) (increase(apps_unusable_total{${HERE}}[$__rate_interval])) or on () label_replace(vector(0), "why", "none", "", "")`,
              legend: '{{why}}',
            },
          ],
          {
            description:
              'Added at run time, and their secret or push does not open with the SEAL_KEYS of this gateway. Normal: 0.',
            unit: 'none',
            alerts: ['AppUnusable'],
          },
        ),
        lines(
          'Times that a circuit opened',
          [
            {
              expr: `sum by (host, calls) (increase(wechat_breaker_openings_total{${HERE}}[$__rate_interval]))`,
              legend: '{{host}}, {{calls}}',
            },
          ],
          { description: 'Of all gateways. Again and again: WeChat comes back for moments.', unit: 'none' },
        ),
      ],
    },
    {
      title: 'access_token and other calls',
      panels: [
        lines(
          'Age of access_tokens',
          [{ expr: `max by (appid) (wechat_access_token_age_seconds{${OF_APP}})`, legend: '{{appid}}' }],
          {
            description:
              'Normal: a saw between 0 and some 6930 s. At 7200 it has ended: it could not be renewed.',
            unit: 's',
            thresholds: [{ from: 7100, colour: 'red', alert: 'AccessTokenStale' }],
          },
        ),
        lines(
          'Fetches of access_tokens',
          [
            {
              expr: `sum by (reason, outcome) (increase(wechat_access_token_fetches_total{${HERE}}[$__rate_interval]))`,
              legend: '{{reason}}: {{outcome}}',
            },
          ],
          {
            description:
              'A few an hour for each app. refused or forced: somebody else fetches tokens of the app, and ours die.',
            unit: 'none',
            alerts: ['AccessTokenFails'],
          },
        ),
        lines(
          'access_tokens taken by force today',
          [
            {
              expr: `sum by (appid) (increase(wechat_access_token_forced_total{${OF_APP}}[1d])) or on () label_replace(vector(0), "appid", "none", "", "")`,
              legend: '{{appid}}',
            },
          ],
          {
            description:
              'WeChat allows an app 20 a day, over all gateways. Normal: 0, or one after a leak of the token.',
            unit: 'none',
            thresholds: [{ from: 10, colour: 'red', alert: 'AccessTokenForced' }],
          },
        ),
        lines(
          'Calls other than jscode2session, by how they end',
          [
            {
              expr: `sum by (call, outcome) (rate(wechat_api_duration_seconds_count{${HERE}}[$__rate_interval]))`,
              legend: '{{call}}: {{outcome}}',
            },
          ],
          {
            description: 'Phone numbers, session_key checks, access_tokens. Logins do not need them.',
            unit: 'reqps',
          },
        ),
        lines(
          'How long these calls take',
          quantiles('wechat_api_duration_seconds', { where: HERE, by: 'call' }, [0.95]),
          {
            description:
              'p95 by call. Normal: below 0.5 s. Phone numbers are waited for by users, the others by your services.',
            unit: 's',
          },
        ),
        states(
          'Circuit for these calls',
          [{ expr: `max by (host) (wechat_api_breaker_state{${HERE}})`, legend: '{{host}}' }],
          {
            description: 'Apart from that of logins: neither opens the other.',
            unit: 'none',
            values: CIRCUIT,
          },
        ),
        lines(
          'Messages that WeChat pushed',
          [
            {
              expr: `sum by (type, outcome) (increase(push_messages_total{${HERE}}[$__rate_interval]))`,
              legend: '{{type}}: {{outcome}}',
            },
          ],
          {
            description:
              'Withdrawn consent and closed accounts: erased is what should come of them. push_unsigned: the Token here and in the console differ.',
            unit: 'none',
          },
        ),
      ],
    },
  ],
}
