/**
 * Connections to Redis: standalone, behind sentinels, or a Cluster.
 *
 * The settings of the connections are those of a service that must not wait, each with a mishap behind it. What
 * becomes of each part of the gateway while Redis is away, docs/operation.md says ("Redis").
 */
import { Cluster, Redis, SentinelConnector } from 'ioredis'
import type { SentinelConnectionOptions } from 'ioredis'
import { GatewayError } from '../errors.ts'
import type { Endpoint, RedisConfig } from './config.ts'
import { describe, stored } from './stored.ts'
import { mendTimeLimits } from './time-limits.ts'
import { timeAnswers, watchAnswers } from './watch.ts'
import type { AnswersObserver } from './watch.ts'

export type RedisClient = Redis | Cluster

mendTimeLimits()

const CONNECT_TIMEOUT_MS = 1_000
/** A server that is hung, not gone, is noticed by silence: a dead Sentinel master is left after this. */
const SOCKET_TIMEOUT_MS = 1_500
const RECONNECT_DELAY_MS_MAX = 1_000
/** A Redis that reads its file again is asked this often whether it has. */
const LOADING_RETRY_MS = 250

/**
 * A connection for the request path: it never queues and never waits. While Redis is away every command
 * fails at once, and the client gets its 503 in milliseconds; while it hangs, after one command timeout.
 *
 * @param observer told of commands that failed or were answered, for the metrics
 */
export function connectFailFast(config: RedisConfig, observer: Partial<AnswersObserver> = {}): RedisClient {
  const redis = connect(config, {
    commandTimeout: config.commandTimeoutMs,
    socketTimeout: SOCKET_TIMEOUT_MS,
    maxRetriesPerRequest: 0,
    enableOfflineQueue: false,
  })
  onEachNode(redis, (node) => watchAnswers(node, { onFailure: ignore, onAnswer: ignore, ...observer }))
  return redis
}

/** Above the 10 s that BullMQ's blocking reads last at most. */
const BLOCKING_SOCKET_TIMEOUT_MS = 15_000

/**
 * A connection for a BullMQ worker: it waits for Redis as long as it takes. No command timeout, for
 * BullMQ's blocking reads are long on purpose; silence beyond the longest of them means a hung server. Those are not
 * timed: BullMQ makes a connection of its own for them.
 */
export function connectPatient(
  config: RedisConfig,
  { onAnswer = ignore }: Partial<Pick<AnswersObserver, 'onAnswer'>> = {},
): RedisClient {
  const redis = connect(config, { maxRetriesPerRequest: null, socketTimeout: BLOCKING_SOCKET_TIMEOUT_MS })
  onEachNode(redis, (node) => timeAnswers(node, onAnswer))
  return redis
}

function onEachNode(redis: RedisClient, watch: (node: Redis) => void): void {
  if (redis instanceof Cluster) redis.on('+node', watch)
  else watch(redis)
}

/** How often a listener asks whether anybody is there: nothing else would show that the other end hangs. */
const LISTENER_PING_MS = 5_000

/**
 * Listens to a channel on a connection of its own, through every failure. `onGap` is called whenever it begins
 * to listen (again): what was said before may have been missed. `onRefused`: Redis does not let this user.
 */
export function listenTo(
  config: RedisConfig,
  channel: string,
  {
    onMessage,
    onGap,
    onRefused,
  }: { onMessage(text: string): void; onGap(): void; onRefused(reason: string): void },
): Redis {
  const listener = connectToAny(config, { maxRetriesPerRequest: null, socketTimeout: SOCKET_TIMEOUT_MS })
  listener.on('message', (_channel: string, text: string) => onMessage(text))
  // Not the client's own resubscription, which does not say when it is done.
  const listen = () =>
    void listener.subscribe(channel).then(onGap, (error: unknown) => onRefused(describe(error)))
  listener.on('ready', listen)
  const pings = setInterval(() => {
    if (listener.status === 'ready') listener.ping().catch(ignore) // it is the silence that breaks the connection
  }, LISTENER_PING_MS)
  pings.unref()
  listener.on('end', () => clearInterval(pings))
  return listener
}

/**
 * One connection, also in a Cluster: every node there hears what is published at any. The next of the nodes is
 * taken when one is lost. (A Cluster client changes the node by itself, and does not say so: what was published
 * meanwhile would be missed without a word.)
 */
function connectToAny(config: RedisConfig, temper: ConnectionTemper): Redis {
  const { target } = config
  if (target.kind !== 'cluster') {
    const redis = connect(config, temper)
    if (redis instanceof Cluster) throw new TypeError('a Cluster where there is none')
    return redis
  }
  const [first] = target.nodes
  const redis = new Redis({
    ...commonOptions(config, temper),
    ...first,
    retryStrategy(attempt) {
      Object.assign(redis.options, target.nodes[attempt % target.nodes.length])
      return reconnectDelayMs(attempt)
    },
  })
  redis.on('error', ignore)
  return redis
}

interface ConnectionTemper {
  commandTimeout?: number
  socketTimeout?: number
  maxRetriesPerRequest: number | null
  enableOfflineQueue?: boolean
}

function commonOptions(config: RedisConfig, temper: ConnectionTemper) {
  return {
    ...temper,
    connectTimeout: CONNECT_TIMEOUT_MS,
    retryStrategy: reconnectDelayMs,
    maxLoadingRetryTime: LOADING_RETRY_MS,
    // After a failover the old master answers READONLY. 1: reconnect, and do not send the command again. Before
    // Redis 7 the word stands inside the error of a script.
    reconnectOnError: (error: Error) => (/\bREADONLY\b/.test(error.message) ? (1 as const) : false),
    connectionName: 'wechat-login-gateway',
    ...(config.username === undefined ? {} : { username: config.username }),
    ...(config.password === undefined ? {} : { password: config.password.reveal() }),
  }
}

function connect(config: RedisConfig, temper: ConnectionTemper): RedisClient {
  const redis = open(config, temper)
  // Whoever made it says what is wrong with Redis. Without any listener an error would end the process.
  redis.on('error', ignore)
  return redis
}

function open({ target, ...config }: RedisConfig, temper: ConnectionTemper): RedisClient {
  const options = commonOptions({ target, ...config }, temper)
  switch (target.kind) {
    case 'standalone':
      return new Redis(target.url.reveal(), options)
    case 'sentinel':
      return new Redis({
        ...options,
        sentinels: [...target.sentinels],
        name: target.name,
        sentinelCommandTimeout: 500,
        failoverDetector: true,
        Connector: SteadfastConnector,
        sentinelRetryStrategy: reconnectDelayMs,
      })
    case 'cluster':
      // Autopipelining stays off: it writes to the wrong node while slots move (redis/ioredis#2075).
      return new Cluster([...target.nodes] satisfies Endpoint[], {
        redisOptions: options,
        // Counts only here: inside redisOptions a Cluster ignores it.
        enableOfflineQueue: temper.enableOfflineQueue ?? true,
        clusterRetryStrategy: reconnectDelayMs,
        slotsRefreshTimeout: 1_000,
        slotsRefreshInterval: 5_000,
        maxRedirections: 3,
        retryDelayOnFailover: 50,
        retryDelayOnClusterDown: 50,
        retryDelayOnTryAgain: 50,
      })
  }
}

/**
 * ioredis' way to a master, without a trap (seen in 6.0.0): who listens for a failover on behalf of a
 * connection goes on listening when that has broken. The message then cuts off the next attempt to connect, if
 * it arrives while a sentinel is being asked, which it does when the master was killed; and ioredis takes that
 * for the wish to close, and never tries again. So the listener ends before the next attempt begins.
 * test/failover.test.ts fails without it two times in three.
 */
class SteadfastConnector extends SentinelConnector {
  constructor(options: unknown) {
    super(options as SentinelConnectionOptions)
  }

  override connect(onError: Parameters<SentinelConnector['connect']>[0]) {
    this.disconnect()
    return super.connect(onError)
  }
}

function reconnectDelayMs(attempt: number): number {
  return Math.min(50 * attempt, RECONNECT_DELAY_MS_MAX) * (0.8 + 0.4 * Math.random())
}

/** Resolves when the connection takes commands; rejects after `timeoutMs`. The connection goes on trying. */
export function waitUntilReady(redis: RedisClient, timeoutMs: number): Promise<void> {
  if (redis.status === 'ready') return Promise.resolve()
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      redis.off('ready', onReady)
      reject(new GatewayError('store_unavailable'))
    }, timeoutMs)
    const onReady = () => {
      clearTimeout(timer)
      resolve()
    }
    redis.once('ready', onReady)
  })
}

/** Closes in an orderly way if Redis answers within `timeoutMs`, at once otherwise. Never rejects. */
export async function disconnect(redis: RedisClient, timeoutMs: number): Promise<void> {
  if (redis.status === 'ready') {
    let timer: NodeJS.Timeout | undefined
    const timeout = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, timeoutMs)
    })
    // A connection that breaks while it is being closed is closed.
    await Promise.race([redis.quit().then(ignore, ignore), timeout])
    clearTimeout(timer)
  }
  redis.disconnect()
}

function ignore(): void {}

/** The servers that hold the keys: several in a Cluster, else one. */
export function mastersOf(redis: RedisClient): Redis[] {
  return redis instanceof Cluster ? redis.nodes('master') : [redis]
}

/** Keys asked for at once while scanning: a fraction of a millisecond of Redis. */
const SCAN_COUNT = 200

/**
 * The keys that fit a pattern, in batches, from every part of a Cluster. A key may come twice.
 * @throws {GatewayError} store_unavailable
 */
export async function* scanKeys(redis: RedisClient, pattern: string): AsyncGenerator<string[]> {
  for (const node of mastersOf(redis)) {
    let cursor = '0'
    do {
      const [next, found] = await stored(node.scan(cursor, 'MATCH', pattern, 'COUNT', SCAN_COUNT))
      cursor = next
      if (found.length > 0) yield found
    } while (cursor !== '0')
  }
}
