/** The stores: do sessions stay, and do new users arrive? */
import { lines, quantiles, rates, stat, states } from './dashboard.ts'
import type { Dashboard, Query } from './dashboard.ts'
import { HERE, INSTANCE, UP } from './parts.ts'

/** All processes see the same queue, so one of them says enough. */
const queue = (name: string): Query[] => [
  { expr: `max by (state) (${name}_queue_jobs{${HERE}})`, legend: '{{state}}' },
]
const perEndpoint = (metric: string): Query[] => [
  {
    expr: `max by (endpoint) (${metric}{${HERE}}) or on () label_replace(vector(0), "endpoint", "none", "", "")`,
    legend: '{{endpoint}}',
  },
]

export const REDIS_AND_QUEUE: Dashboard = {
  uid: 'wechat-login-stores',
  title: 'WeChat login: Redis and queue',
  question: 'Do sessions stay, and do new users arrive in the database?',
  variables: [INSTANCE],
  rows: [
    {
      title: 'Now',
      panels: [
        stat('Redis', `min(redis_up{${HERE}})`, {
          description: 'The worst connection of any process.',
          unit: 'none',
          values: UP,
          alerts: ['RedisAway'],
        }),
        stat('Commands that fail', `sum(rate(redis_failures_total{${HERE}}[$__rate_interval]))`, {
          description: 'Per second, of all processes. Normal: 0.',
          unit: 'ops',
          thresholds: [{ from: 0.1, colour: 'red' }],
        }),
        stat('Database', `min(database_up{${HERE}})`, {
          description: 'As far as the workers’ jobs have seen. Away: users wait in the queue, logins go on.',
          unit: 'none',
          values: UP,
          alerts: ['DatabaseAway'],
        }),
        stat(
          'Jobs that wait',
          `max(sum by (instance) (provisioning_queue_jobs{state=~"waiting|delayed", ${HERE}}))`,
          {
            description: 'Normal: a few. Above PROVISION_BACKLOG_MAX first logins are refused.',
            unit: 'short',
          },
        ),
        stat('The oldest has waited', `max(provisioning_oldest_waiting_seconds{${HERE}})`, {
          description: 'Normal: below a second.',
          unit: 's',
          thresholds: [
            { from: 10, colour: 'yellow' },
            { from: 60, colour: 'red', alert: 'ProvisioningLate' },
          ],
        }),
        stat('Dead jobs', `max(provisioning_queue_jobs{state="failed", ${HERE}})`, {
          description: 'They have failed for good and wait for a person: npm run jobs. Normal: 0.',
          unit: 'short',
          thresholds: [{ from: 1, colour: 'red' }],
          alerts: ['ProvisioningDead'],
        }),
      ],
    },
    {
      title: 'Redis',
      panels: [
        states('Connections', [{ expr: `redis_up{${HERE}}`, legend: '{{instance}}' }], {
          description:
            'All away: Redis. One away: the way of that process. A failover shows as a gap of seconds, and they come back by themselves.',
          unit: 'none',
          values: UP,
        }),
        lines('Commands that fail, by reason', rates('redis_failures_total', 'reason', HERE), {
          description:
            'disconnected: it is away. timeout, silent: it hangs. full: maxmemory is reached, logins fail while sessions go on. not_master: a failover is under way. denied: rights of its user. disk: it cannot write.',
          unit: 'ops',
          alerts: ['RedisFull', 'RedisRefuses'],
        }),
        states(
          'Whether Redis keeps what it has',
          [{ expr: `min(redis_eviction_policy_ok{${HERE}})`, legend: 'maxmemory-policy' }],
          {
            description:
              'With any other policy than noeviction it drops sessions, blocks and jobs when its memory is full.',
            unit: 'none',
            values: {
              [-1]: { text: 'it does not say', colour: 'yellow' },
              0: { text: 'it evicts', colour: 'red' },
              1: { text: 'noeviction', colour: 'green' },
            },
            alerts: ['RedisEvicts'],
          },
        ),
        lines(
          'Commands per second',
          [
            {
              expr: `topk(8, sum by (command) (rate(redis_command_duration_seconds_count{${HERE}}[$__rate_interval])))`,
              legend: '{{command}}',
            },
          ],
          {
            description: 'The eight commonest, scripts of ours by their names. evalsha is the queue’s.',
            unit: 'ops',
          },
        ),
        lines('How long Redis takes', quantiles('redis_command_duration_seconds', { where: HERE }), {
          description:
            'As a process sees it, its own delay included. Normal: p99 below 5 ms. At REDIS_COMMAND_TIMEOUT_MS (250 ms) it counts as failed.',
          unit: 's',
          thresholds: [{ from: 0.1, colour: 'red', alert: 'RedisSlow' }],
        }),
        lines(
          'The slowest commands',
          [
            {
              expr: `topk(5, histogram_quantile(0.99, sum by (le, command) (rate(redis_command_duration_seconds_bucket{${HERE}}[$__rate_interval]))))`,
              legend: '{{command}}',
            },
          ],
          {
            description:
              'p99 of the five slowest. All of them: Redis or the network. One: what it does has grown.',
            unit: 's',
          },
        ),
        lines(
          'Limits that each gateway counts for itself',
          [
            {
              expr: `sum by (limit) (rate(limit_total{outcome="degraded", ${HERE}}[$__rate_interval])) or on () label_replace(vector(0), "limit", "none", "", "")`,
              legend: '{{limit}}',
            },
          ],
          {
            description: 'Because Redis cannot: each allows its part (GATEWAY_COUNT). Normal: 0.',
            unit: 'ops',
          },
        ),
      ],
    },
    {
      title: 'New users',
      panels: [
        lines('Jobs in the queue', queue('provisioning'), {
          description:
            'waiting, active: at once. delayed: will be tried again. failed: dead, waiting for a person.',
          unit: 'short',
        }),
        lines('How long new users wait', quantiles('provisioning_lag_seconds', { where: HERE }), {
          description:
            'From the login to the acknowledgement of the row. They are logged in meanwhile, with provisioned: false.',
          unit: 's',
        }),
        lines(
          'Age of the oldest job',
          [{ expr: `max(provisioning_oldest_waiting_seconds{${HERE}})`, legend: 'oldest' }],
          {
            description:
              'Growing by a second each second: no worker takes any. Growing slower: they are slower than what comes; add workers.',
            unit: 's',
            thresholds: [{ from: 60, colour: 'red', alert: 'ProvisioningLate' }],
          },
        ),
        lines(
          'Jobs per second: in and out',
          [
            {
              expr: `sum(rate(provisioning_enqueued_total{outcome="added", ${HERE}}[$__rate_interval]))`,
              legend: 'added',
            },
            ...rates('provisioning_jobs_total', 'outcome', HERE),
          ],
          {
            description:
              'done keeps up with added. failed: an attempt is spent. postponed: the database is away. dead: see npm run jobs.',
            unit: 'ops',
            colours: { added: 'blue', done: 'green', failed: 'orange', dead: 'red' },
          },
        ),
        lines(
          'How full the queue is',
          [
            {
              expr: `max(sum by (instance) (provisioning_queue_jobs{state=~"waiting|delayed", ${HERE}})) / max(provisioning_queue_jobs_max{${HERE}})`,
              legend: 'of PROVISION_BACKLOG_MAX',
            },
          ],
          {
            description: 'At 100 % first logins are refused, with their code unused; returning users log in.',
            unit: 'percentunit',
            thresholds: [{ from: 0.5, colour: 'red', alert: 'ProvisioningBacklog' }],
          },
        ),
        lines('How long a job takes', quantiles('provisioning_duration_seconds', { where: HERE }), {
          description: 'The database, as a worker sees it. Normal: p99 below 50 ms.',
          unit: 's',
        }),
        lines(
          'Since a worker last finished a job',
          [
            {
              expr: `time() - max by (instance) (provisioning_last_completed_timestamp_seconds{${HERE}})`,
              legend: '{{instance}}',
            },
          ],
          {
            description: 'Of each worker. Without new users it grows too; compare with jobs that wait.',
            unit: 's',
          },
        ),
        states(
          'The database, as each worker sees it',
          [{ expr: `database_up{${HERE}}`, legend: '{{instance}}' }],
          {
            description: 'While it is away no job is taken, and none is lost.',
            unit: 'none',
            values: UP,
          },
        ),
        lines(
          'Written together',
          [
            {
              expr: `sum(rate(provisioning_batch_jobs_sum{${HERE}}[$__rate_interval])) / sum(rate(provisioning_batch_jobs_count{${HERE}}[$__rate_interval]))`,
              legend: 'jobs in a batch',
            },
          ],
          {
            description:
              'Grows with what comes, up to half of WORKER_CONCURRENCY. None: single jobs, few come.',
            unit: 'none',
          },
        ),
        lines(
          'What should not happen',
          [
            {
              expr: `sum(increase(provisioning_stalled_total{${HERE}}[$__rate_interval]))`,
              legend: 'taken over from a silent worker',
            },
            {
              expr: `sum(increase(provisioning_selfheal_total{${HERE}}[$__rate_interval]))`,
              legend: 'queued again, for nobody acknowledged',
            },
          ],
          {
            description: 'Normal: 0, and some after a worker was killed or Redis lost what it had.',
            unit: 'none',
            alerts: ['ProvisioningHealed'],
          },
        ),
      ],
    },
    {
      title: 'Forgotten users',
      panels: [
        lines('Erasures in the queue', queue('erasure'), {
          description: 'The law sets a limit to how long they may wait. failed: a person has to look.',
          unit: 'short',
          alerts: ['ErasureDead'],
        }),
        lines(
          'Age of the oldest erasure',
          [{ expr: `max(erasure_oldest_waiting_seconds{${HERE}})`, legend: 'oldest' }],
          {
            description: 'Normal: below a second.',
            unit: 's',
            thresholds: [{ from: 3600, colour: 'red', alert: 'ErasureLate' }],
          },
        ),
        lines('How long an erasure takes', quantiles('erasure_lag_seconds', { where: HERE }, [0.5, 0.99]), {
          description: 'From the wish to its fulfilment. Normal: seconds.',
          unit: 's',
        }),
        lines(
          'Erasures: asked for and done',
          [
            { expr: `sum(increase(users_erased_total{${HERE}}[$__rate_interval]))`, legend: 'asked for' },
            {
              expr: `sum by (outcome) (increase(erasure_jobs_total{${HERE}}[$__rate_interval]))`,
              legend: '{{outcome}}',
            },
          ],
          {
            description: 'Asked for by an administrator or by WeChat’s push.',
            unit: 'none',
            colours: { done: 'green', failed: 'orange', dead: 'red' },
          },
        ),
      ],
    },
    {
      title: 'Webhooks',
      panels: [
        lines(
          'Deliveries per second',
          [
            {
              expr: `sum by (endpoint, outcome) (rate(webhook_deliveries_total{${HERE}}[$__rate_interval])) or on () label_replace(vector(0), "outcome", "none", "", "")`,
              legend: '{{endpoint}} {{outcome}}',
            },
          ],
          {
            description:
              'failed: will be tried again, for a day or so. dead: given up, npm run webhooks. gone: the receiver said 410.',
            unit: 'ops',
          },
        ),
        lines('Deliveries that wait', perEndpoint('webhook_waiting'), {
          description: 'Normal: few. One endpoint that grows is away or slow; the others do not wait for it.',
          unit: 'short',
        }),
        lines('Age of the oldest delivery', perEndpoint('webhook_oldest_seconds'), {
          description: 'Normal: below a minute. It grows with each attempt that fails.',
          unit: 's',
          thresholds: [{ from: 900, colour: 'red', alert: 'WebhookLate' }],
        }),
        lines('Given up', perEndpoint('webhook_dead'), {
          description: 'They wait for a person: npm run webhooks. Normal: 0.',
          unit: 'short',
          alerts: ['WebhookDead'],
        }),
        states('Whether receivers are told', perEndpoint('webhook_endpoint_disabled'), {
          description: 'Off: it answered 410, or an operator said so. npm run webhooks switches it on.',
          unit: 'none',
          values: { 0: { text: 'told', colour: 'green' }, 1: { text: 'off', colour: 'red' } },
          alerts: ['WebhookDisabled'],
        }),
        lines(
          'How long receivers take',
          [
            {
              expr: `histogram_quantile(0.95, sum by (le, endpoint) (rate(webhook_duration_seconds_bucket{${HERE}}[$__rate_interval]))) or on () label_replace(vector(0), "endpoint", "none", "", "")`,
              legend: '{{endpoint}} p95',
            },
          ],
          {
            description: 'Until the headers of the answer. After 15 s an attempt has failed.',
            unit: 's',
            thresholds: [{ from: 15, colour: 'red' }],
          },
        ),
        lines(
          'Log-outs that are told of',
          [
            {
              expr: `sum by (outcome) (increase(session_events_total{${HERE}}[$__rate_interval]))`,
              legend: 'gateway: {{outcome}}',
            },
            {
              expr: `sum by (outcome) (increase(session_event_jobs_total{${HERE}}[$__rate_interval]))`,
              legend: 'worker: {{outcome}}',
            },
          ],
          {
            description:
              'Only with SESSION_EVENTS. lost, dropped: a receiver of session.revoked has missed some.',
            unit: 'none',
            alerts: ['SessionEventsLost'],
          },
        ),
      ],
    },
  ],
}
