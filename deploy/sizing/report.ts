/** What `npm run size` says, in words and in tables. */
import { GATEWAY_LOAD, reckon, REDIS_LOAD } from './reckon.ts'
import type { Demand, Plan } from './reckon.ts'
import type { Measured } from './measured.ts'

const GIB = 2 ** 30
const US_PER_SECOND = 1_000_000

/** Where nothing else is said. None of them is a measurement: they are the operator's to know. */
export const ASSUMED = {
  /** One request of a client in its session is one validation, when your proxy asks /auth. */
  validationsPerLogin: 10,
  sessionsPerUser: 1.2,
  /** Everybody's last login was more than PROVISION_REFRESH_SECONDS ago: the dearest case. */
  recentShare: 0,
  wechatMs: 200,
  apps: 1,
} as const

/** A demand of which only users and peak are known. */
export function demandOf(users: number, peakLogins: number, own: Partial<Demand> = {}): Demand {
  const { validationsPerLogin, ...assumed } = ASSUMED
  return { users, peakLogins, peakValidations: peakLogins * validationsPerLogin, ...assumed, ...own }
}

/** For a person at a terminal. */
export function describePlan(demand: Demand, plan: Plan, { command, date, machine }: Measured): string {
  const { users, peakLogins, peakValidations, sessionsPerUser, recentShare, wechatMs, apps } = demand
  const lines = [
    `For ${whole(users)} users with a session, ${whole(peakLogins)} logins and ${whole(peakValidations)} validations a second at peak:`,
    '',
    `  gateways     ${whole(plan.gateways)} of one core each (${plan.gatewaysFor}; ${fixed(plan.gatewayCores)} cores of work)`,
    `  Redis        ${describeRedis(plan)}, ${gib(plan.redisMemoryBytes)} of memory in all for ${gib(plan.redisDataBytes)} of data, ${fixed(plan.redisCores)} cores`,
    `  workers      ${whole(plan.workers)} for ${whole(plan.jobsPerSecond)} jobs a second`,
    `  Postgres     ${gib(plan.postgresBytes)}, ${fixed(plan.postgresCores)} cores, ${whole(plan.postgresConnections)} connections`,
    `  WeChat       ${whole(plan.exchangesPerMinuteAndApp)} exchanges a minute for each app${plan.exceedsExchangeLimit ? ': above LIMIT_EXCHANGE_PER_APP, raise it and ask WeChat for the quota' : ''}`,
    '',
    `Assumed: ${sessionsPerUser} sessions a user, ${recentShare * 100} % of logins within an hour of the user's last, ${wechatMs} ms for WeChat, apps: ${apps}.`,
    `Measured by ${command} on ${date}, ${machine}. Replicas of Redis come on top.`,
  ]
  return lines.join('\n')
}

/** Of the examples: as though all of them came within 33 minutes. */
export const USERS_PER_PEAK_LOGIN = 2_000

/** The rows of docs/scaling.md: from a beginner to the largest. */
const EXAMPLES: readonly Demand[] = [10_000, 100_000, 1_000_000, 10_000_000, 50_000_000].map((users) =>
  demandOf(users, users / USERS_PER_PEAK_LOGIN),
)

/** Markdown. */
export function exampleTable(measured: Measured): string {
  const rows = EXAMPLES.map((demand) => {
    const plan = reckon(demand, measured)
    return [
      whole(demand.users),
      whole(demand.peakLogins),
      whole(demand.peakValidations),
      `${whole(plan.gateways)} (${plan.gatewaysFor})`,
      `${gib(plan.redisMemoryBytes)} (${gib(plan.redisDataBytes)} of data)`,
      describeRedis(plan),
      whole(plan.workers),
      `${gib(plan.postgresBytes)}, ${fixed(plan.postgresCores)} cores`,
      `${whole(plan.exchangesPerMinuteAndApp)}${plan.exceedsExchangeLimit ? ' (!)' : ''}`,
    ]
  })
  return table(
    [
      'users',
      'logins/s',
      'validations/s',
      'gateways (because of)',
      'Redis memory',
      'Redis',
      'workers',
      'Postgres',
      'exchanges/min of one app',
    ],
    rows,
  )
}

/** What one core carries at the load that is planned with. Markdown. */
export function coreTable({ cpuUs, jobsPerSecondOfOneWorker }: Measured): string {
  const perSecond = (us: number, load: number) => whole((US_PER_SECOND / us) * load)
  const rows = (
    [
      ['login of a user who was there within the hour', cpuUs.login],
      ['login of anybody else, with a job for the worker', cpuUs.loginWithJob],
      ['validation', cpuUs.validation],
    ] as const
  ).map(([what, { gateway, redis }]) => [
    what,
    `${gateway} µs`,
    perSecond(gateway, GATEWAY_LOAD),
    `${redis} µs`,
    perSecond(redis, REDIS_LOAD),
  ])
  const { worker, redis } = cpuUs.job
  return `${table(
    [
      '',
      'CPU of a gateway',
      `a second at ${GATEWAY_LOAD * 100} % of a core`,
      'CPU of Redis',
      `a second at ${REDIS_LOAD * 100} % of its thread`,
    ],
    rows,
  )}\n\nA job costs its worker ${worker} µs and Redis ${redis} µs; one worker did ${whole(jobsPerSecondOfOneWorker)} a second.`
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  return [row(head), row(head.map(() => '---')), ...rows.map(row)].join('\n')
}

function row(cells: readonly string[]): string {
  return `| ${cells.join(' | ')} |`
}

function describeRedis({ redisMasters, redisFor }: Plan): string {
  return redisMasters === 1 ? 'one master' : `Cluster of ${whole(redisMasters)} masters (${redisFor})`
}

function whole(value: number): string {
  return Math.round(value).toLocaleString('en-US')
}

/** Small figures with two places, large ones with none. */
function fixed(value: number): string {
  return value < 10 ? value.toFixed(2) : whole(value)
}

function gib(bytes: number): string {
  const size = bytes / GIB
  return size < 1 ? `${whole(bytes / 2 ** 20)} MiB` : `${size < 10 ? size.toFixed(1) : whole(size)} GiB`
}
