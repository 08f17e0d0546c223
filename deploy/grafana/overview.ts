/** The first page: can people log in, and if not, whose fault is it? */
import { lines, quantile, quantiles, rates, share, stat, states } from './dashboard.ts'
import type { Dashboard, Panel } from './dashboard.ts'
import { CIRCUIT, HERE, INSTANCE, UP } from './parts.ts'

const LOGINS = `route=~"/login|/onLogin", ${HERE}`
const CHECKS = `route=~"/auth|/session|/introspect", ${HERE}`

/** Share of requests that we, or what we depend on, failed. */
const failedShare = (requests: string) => share('http_requests_total', 'status=~"5.."', { where: requests })

export const OVERVIEW: Dashboard = {
  uid: 'wechat-login-overview',
  title: 'WeChat login: overview',
  question: 'Can people log in, and if not, whose fault is it?',
  variables: [INSTANCE],
  rows: [
    {
      title: 'Now',
      panels: [
        stat('Alerts firing', 'count(ALERTS{alertstate="firing"}) or vector(0)', {
          description:
            'Normal: 0. The red bands in all charts are the times at which one fired; each has a runbook.',
          unit: 'none',
          width: 3,
          thresholds: [{ from: 1, colour: 'red' }],
        }),
        stat('Logins failed', failedShare(LOGINS), {
          description:
            'Share of logins answered with 5xx: by us, Redis or WeChat; a refused code is not one. Normal: below 0.5 %. Then look at "Why logins do not succeed".',
          unit: 'percentunit',
          width: 3,
          thresholds: [
            { from: 0.03, colour: 'yellow', alert: 'LoginBudgetBurnsSlowly' },
            { from: 0.072, colour: 'red', alert: 'LoginBudgetBurnsFast' },
          ],
        }),
        stat('Logins per second', `sum(rate(login_total{${HERE}}[$__rate_interval]))`, {
          description:
            'All, whatever came of them. A fall to nothing is the load balancer or the Mini Program.',
          unit: 'reqps',
          width: 3,
        }),
        stat('Login p99', quantile(0.99, 'login_duration_seconds', HERE), {
          description:
            'p99. Normal: WeChat’s 50–200 ms and a few of ours. No login takes longer than LOGIN_DEADLINE_MS (3 s): at that value WeChat hangs.',
          unit: 's',
          width: 3,
          thresholds: [
            { from: 1.5, colour: 'yellow' },
            { from: 2.5, colour: 'red' },
          ],
        }),
        stat('Checks failed', failedShare(CHECKS), {
          description:
            'Share of /auth, /session and /introspect answered with 5xx. Normal: 0. It is Redis or overload: WeChat is not asked here.',
          unit: 'percentunit',
          width: 3,
          thresholds: [
            { from: 0.003, colour: 'yellow', alert: 'ValidationBudgetBurnsSlowly' },
            { from: 0.0072, colour: 'red', alert: 'ValidationBudgetBurnsFast' },
          ],
        }),
        stat('WeChat', `max(wechat_breaker_state{${HERE}})`, {
          description:
            'The worst circuit of any host in any gateway. Open: WeChat did not answer and is not asked for some seconds. See the dashboard about WeChat.',
          unit: 'none',
          width: 3,
          values: CIRCUIT,
          alerts: ['WechatCircuitOpen'],
        }),
        stat('Redis', `min(redis_up{${HERE}})`, {
          description:
            'The worst connection of any process. Away: nobody logs in, sessions cannot be checked. See the dashboard about Redis.',
          unit: 'none',
          width: 3,
          values: UP,
          alerts: ['RedisAway'],
        }),
        stat('New users wait', `max(provisioning_oldest_waiting_seconds{${HERE}})`, {
          description:
            'Age of the oldest job that no worker has taken. Normal: below a second. Growing: workers are away, or slower than what comes.',
          unit: 's',
          width: 3,
          thresholds: [
            { from: 10, colour: 'yellow' },
            { from: 60, colour: 'red', alert: 'ProvisioningLate' },
          ],
        }),
      ],
    },
    {
      title: 'Logins',
      panels: [
        lines('Logins per second, by what came of them', rates('login_total', 'outcome', HERE), {
          description:
            'ok is green; all else is the code of the error, as README lists them with what the client does next.',
          unit: 'reqps',
          width: 12,
          stacked: true,
          colours: { ok: 'green' },
        }),
        lines('Why logins do not succeed', rates('login_total', 'outcome', `outcome!="ok", ${HERE}`), {
          description:
            'The same without ok. wechat_*: WeChat. store_unavailable: Redis. app_misconfigured: AppSecret, address list or quota in WeChat’s console. code_*: clients that send a code twice or late; some are always there. rate_limited: see sessions and abuse. overloaded: add gateways.',
          unit: 'reqps',
          width: 12,
        }),
        lines('How long a login takes', quantiles('login_duration_seconds', { where: HERE }), {
          description: 'From request to answer. Most of it is WeChat; compare with "Where the time goes".',
          unit: 's',
          thresholds: [{ from: 3, colour: 'red' }],
        }),
        lines(
          'Where the time of a login goes',
          [
            {
              expr: `sum by (stage) (rate(login_stage_duration_seconds_sum{${HERE}}[$__rate_interval])) / ignoring (stage) group_left () sum(rate(login_duration_seconds_count{${HERE}}[$__rate_interval]))`,
              legend: '{{stage}}',
            },
          ],
          {
            description:
              'The mean of each stage, one upon the other (limit and claim run at once). exchange is WeChat; limit, claim and session are Redis; provisioning is the queue, also in Redis.',
            unit: 's',
            stacked: true,
          },
        ),
        lines('What became of codes', rates('code_claims_total', 'outcome', HERE), {
          description:
            'lead: the code was taken to WeChat. wait, shared, replay: the same client sent it again and got the same answer. other_client: somebody else sent it. takeover: the first gateway died. Normal: lead, with a few per cent of the rest.',
          unit: 'ops',
        }),
      ],
    },
    {
      title: 'After the login',
      panels: [
        lines('Session checks per second, by answer', rates('session_validations_total', 'outcome', HERE), {
          description:
            'invalid: logged out, expired or never given. failed: Redis did not say. Normal: valid, with some invalid.',
          unit: 'reqps',
          colours: { valid: 'green', failed: 'red' },
        }),
        lines(
          'How long a session check takes',
          quantiles('session_validation_duration_seconds', { where: HERE }),
          {
            description:
              'One command of Redis, or a look into the cache. Normal: p99 below 10 ms. It gives up after REDIS_COMMAND_TIMEOUT_MS (250 ms).',
            unit: 's',
          },
        ),
        lines(
          'How long new users wait until they are written',
          quantiles('provisioning_lag_seconds', { where: HERE }),
          {
            description:
              'From the login to the row in your database. Normal: below a second. See the dashboard about Redis and the queue.',
            unit: 's',
          },
        ),
      ],
    },
    {
      title: 'Error budgets',
      panels: [
        budget('Share of logins that we fail', 'login', 0.072, 0.03),
        budget('Share of session checks that we fail', 'validation', 0.0072, 0.003),
      ],
    },
    {
      title: 'Processes',
      panels: [
        states('What runs', [{ expr: `up{${HERE}}`, legend: '{{instance}}' }], {
          description:
            'Whether Prometheus gets an answer of each process. Blue lines in all charts are starts.',
          unit: 'none',
          values: UP,
          alerts: ['GatewayDown', 'AllGatewaysDown', 'WorkerDown', 'AllWorkersDown', 'ProcessRestarts'],
        }),
        lines(
          'Which version runs',
          [
            {
              expr: `count by (program, version) (build_info{${HERE}})`,
              legend: '{{program}} {{version}}',
            },
          ],
          {
            description: 'Processes by version: a rolling update is a crossing of lines.',
            unit: 'none',
            alerts: ['VersionsMixed'],
          },
        ),
        lines('Requests per second, by status', rates('http_requests_total', 'status', HERE), {
          description: 'All routes of the public listener and of administration.',
          unit: 'reqps',
          stacked: true,
        }),
        lines(
          'Refused because of overload',
          [
            {
              expr: `sum by (rank, reason) (rate(requests_shed_total{${HERE}}[$__rate_interval]))`,
              legend: '{{rank}}: {{reason}}',
            },
          ],
          {
            description:
              'Logins go first, session checks last. Normal: 0; anything else asks for more gateways. in_flight: too many at once, as when WeChat is slow. loop_delay: the processor.',
            unit: 'reqps',
            thresholds: [{ from: 1, colour: 'red', alert: 'RequestsShed' }],
          },
        ),
        lines('Requests at work', [{ expr: `http_requests_in_flight{${HERE}}`, legend: '{{instance}}' }], {
          description:
            'At 80 % of SHED_IN_FLIGHT (2000) logins are refused. It grows when something behind us is slow.',
          unit: 'none',
          thresholds: [{ from: 1600, colour: 'red' }],
        }),
        lines(
          'How busy the event loop is',
          [{ expr: `event_loop_utilization_ratio{${HERE}}`, legend: '{{instance}}' }],
          {
            description: 'At 100 % a process can do no more: add one. Normal: below 70 %.',
            unit: 'percentunit',
            thresholds: [{ from: 0.9, colour: 'red' }],
          },
        ),
        lines(
          'How late the event loop is',
          [{ expr: `nodejs_eventloop_lag_p99_seconds{${HERE}}`, legend: '{{instance}}' }],
          {
            description:
              'p99 since the last scrape. Normal: below 50 ms. Logins are refused when it stays above SHED_LOOP_DELAY_MS (250 ms).',
            unit: 's',
            thresholds: [{ from: 0.25, colour: 'red', alert: 'EventLoopLate' }],
          },
        ),
        lines(
          'Resident memory',
          [{ expr: `process_resident_memory_bytes{${HERE}}`, legend: '{{instance}}' }],
          {
            description: 'Normal: flat after the first quarter of an hour.',
            unit: 'bytes',
          },
        ),
        lines(
          'Lines of the log that were lost',
          [{ expr: `rate(log_lines_lost_total{${HERE}}[$__rate_interval])`, legend: '{{instance}}' }],
          {
            description:
              'Normal: 0. Nobody reads stdout, or its disk is full: what follows cannot be looked up.',
            unit: 'ops',
            alerts: ['LogLinesLost'],
          },
        ),
        lines(
          'Files and sockets that are open',
          [{ expr: `process_open_fds{${HERE}} / process_max_fds{${HERE}}`, legend: '{{instance}}' }],
          {
            description: 'Share of what the process may open (ulimit -n). At 100 % no connection is taken.',
            unit: 'percentunit',
            thresholds: [{ from: 0.8, colour: 'red', alert: 'DescriptorsShort' }],
          },
        ),
        lines('Series of a process', [{ expr: `scrape_samples_scraped{${HERE}}`, legend: '{{instance}}' }], {
          description:
            'What Prometheus keeps of it. Normal: some hundreds, and growing with apps and routes that are used.',
          unit: 'none',
          thresholds: [{ from: 2000, colour: 'red', alert: 'TooManySeries' }],
        }),
        lines(
          'Processor',
          [{ expr: `rate(process_cpu_seconds_total{${HERE}}[$__rate_interval])`, legend: '{{instance}}' }],
          {
            description: 'Cores in use. A gateway uses one, and a little of others.',
            unit: 'none',
          },
        ),
      ],
    },
  ],
}

/** The recording rules that the alerts on error budgets read, with their thresholds. */
function budget(title: string, of: 'login' | 'validation', fast: number, slow: number): Panel {
  const name = of === 'login' ? 'Login' : 'Validation'
  return lines(
    title,
    ['5m', '1h', '6h'].map((window) => ({
      expr: `${of}:failures:ratio_rate${window}`,
      legend: `over ${window}`,
    })),
    {
      description:
        'Of all gateways. A short and a long window above a line at once is an alert: the red one burns 2 % of a month’s budget in an hour, the orange one 5 % in six.',
      unit: 'percentunit',
      width: 12,
      thresholds: [
        { from: slow, colour: 'orange', alert: `${name}BudgetBurnsSlowly` },
        { from: fast, colour: 'red', alert: `${name}BudgetBurnsFast` },
      ],
    },
  )
}
