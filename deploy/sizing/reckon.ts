/**
 * How many gateways, how much Redis: from users and peak, by what was measured. No figure of this file is a measurement;
 * those come in `Measured`. What is chosen stands here, each with its reason.
 */
import { SETTINGS } from '../../src/settings.ts'
import { SLOTS } from '../../src/wechat/bulkhead.ts'
import { CONNECTIONS_MAX } from '../../workers/database.ts'
import type { Measured } from './measured.ts'

/** Of a gateway's core: the same share at which the autoscaler of deploy/k8s adds one. */
export const GATEWAY_LOAD = 0.6
/** One may be lost while another is being replaced. The same as the autoscaler's least. */
export const GATEWAYS_MIN = 3
/** Of the one thread that Redis works with: above it answers queue up, and a failover's rush finds no room. */
export const REDIS_LOAD = 0.5
/** While Redis copies itself to a replica or to disk, what is written meanwhile is held twice. */
const REDIS_MEMORY_PER_DATA = 2
/** A replica copies this much anew within minutes, and a fork of it stalls clients for no longer than they wait. */
const REDIS_DATA_BYTES_MAX = 16 * 2 ** 30
/** Of what a worker did when it had nothing else to do. */
const WORKER_LOAD = 0.7
/** One may be lost. */
const WORKERS_MIN = 2
/** How long a code's claim and the counters of a login live. */
const SHORT_LIFE_SECONDS = 60
const US_PER_SECOND = 1_000_000

export interface Demand {
  /** With a living session: those who were there within SESSION_TTL_SECONDS. */
  readonly users: number
  readonly peakLogins: number
  /** Of sessions, a second: /auth, /session, /introspect. */
  readonly peakValidations: number
  readonly sessionsPerUser: number
  /** Of the logins, the part of users who have logged in within PROVISION_REFRESH_SECONDS; it costs no job. */
  readonly recentShare: number
  /** How long WeChat takes for an exchange. */
  readonly wechatMs: number
  /** Mini Programs among which the logins are spread evenly. */
  readonly apps: number
}

export interface Plan {
  readonly gateways: number
  /** What asks for so many. */
  readonly gatewaysFor: 'CPU' | 'calls of WeChat' | 'spare'
  readonly gatewayCores: number
  readonly redisDataBytes: number
  readonly redisMemoryBytes: number
  /** Of one thread; above 1 it takes several masters. */
  readonly redisCores: number
  /** 1: one master with its replicas, watched by Sentinel. More: Cluster. */
  readonly redisMasters: number
  readonly redisFor: 'memory' | 'CPU' | 'one is enough'
  readonly jobsPerSecond: number
  readonly workers: number
  readonly postgresBytes: number
  readonly postgresCores: number
  readonly postgresConnections: number
  readonly exchangesPerMinuteAndApp: number
  /** The setting has to be raised, and WeChat asked. */
  readonly exceedsExchangeLimit: boolean
}

/** What it takes to carry this. */
export function reckon(demand: Demand, measured: Measured): Plan {
  const { users, peakLogins, peakValidations, recentShare, apps } = demand
  const { cpuUs, postgresBytes, jobsPerSecondOfOneWorker } = measured
  const recent = peakLogins * recentShare
  const jobsPerSecond = peakLogins - recent
  const cores = (of: 'gateway' | 'redis') =>
    (recent * cpuUs.login[of] +
      jobsPerSecond * cpuUs.loginWithJob[of] +
      peakValidations * cpuUs.validation[of]) /
    US_PER_SECOND

  const gatewayCores = cores('gateway')
  const slotsTaken = (peakLogins * demand.wechatMs) / 1_000
  const gateways = largest<Plan['gatewaysFor']>(
    { name: 'spare', value: GATEWAYS_MIN },
    { name: 'CPU', value: Math.ceil(gatewayCores / GATEWAY_LOAD) },
    { name: 'calls of WeChat', value: Math.ceil(slotsTaken / (SLOTS * GATEWAY_LOAD)) },
  )

  const redisCores = cores('redis') + (jobsPerSecond * cpuUs.job.redis) / US_PER_SECOND
  const redisDataBytes = redisData(demand, measured)
  const redis = largest<Plan['redisFor']>(
    { name: 'one is enough', value: 1 },
    { name: 'memory', value: Math.ceil(redisDataBytes / REDIS_DATA_BYTES_MAX) },
    { name: 'CPU', value: Math.ceil(redisCores / REDIS_LOAD) },
  )

  const workers = Math.max(WORKERS_MIN, Math.ceil(jobsPerSecond / (jobsPerSecondOfOneWorker * WORKER_LOAD)))
  const exchangesPerMinuteAndApp = (peakLogins * 60) / apps
  return {
    gateways: gateways.value,
    gatewaysFor: gateways.name,
    gatewayCores,
    redisDataBytes,
    redisMemoryBytes: redisDataBytes * REDIS_MEMORY_PER_DATA,
    redisCores,
    redisMasters: redis.value,
    redisFor: redis.name,
    jobsPerSecond,
    workers,
    postgresBytes: users * postgresBytes.user,
    postgresCores: (jobsPerSecond * cpuUs.job.postgres) / US_PER_SECOND,
    postgresConnections: workers * (CONNECTIONS_MAX + 1),
    exchangesPerMinuteAndApp,
    exceedsExchangeLimit: exchangesPerMinuteAndApp > SETTINGS.LIMIT_EXCHANGE_PER_APP.parse(undefined),
  }
}

/** Users, what the logins of the last minute left, and as many waiting jobs as are let wait; a user has one at most. */
function redisData({ users, peakLogins, sessionsPerUser }: Demand, { redisBytes }: Measured): number {
  const jobs = Math.min(users, SETTINGS.PROVISION_BACKLOG_MAX.parse(undefined))
  return (
    users * (redisBytes.userWithOneSession + (sessionsPerUser - 1) * redisBytes.furtherSession) +
    peakLogins * SHORT_LIFE_SECONDS * redisBytes.loginForAMinute +
    jobs * redisBytes.waitingJob
  )
}

interface Candidate<Name> {
  readonly value: number
  readonly name: Name
}

/** The first of the largest. */
function largest<Name>(first: Candidate<Name>, ...others: Candidate<Name>[]): Candidate<Name> {
  return others.reduce((best, other) => (other.value > best.value ? other : best), first)
}
