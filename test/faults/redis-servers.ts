/**
 * Redis as it is run in earnest, of real processes that can be broken in every way: one server; a master with
 * two replicas and three sentinels; a cluster of three masters with a replica each.
 *
 * Each server keeps its port, its configuration and its append-only file from one start to the next, as a
 * machine does. Needs nothing of vitest; who starts it closes it, and all of it ends with this process.
 */
import type { Redis } from 'ioredis'
import { freePort, LOOPBACK } from '../../deploy/local/ports.ts'
import { until } from '../harness/until.ts'
import { closeAll, newFolder, startNode } from './redis-node.ts'
import type { RedisNode } from './redis-node.ts'

const TOPOLOGY_MS = 20_000
const REPLICATION_MS = 5_000

export interface RedisServers {
  /** For a gateway or a worker. Empty values take back what another environment says. */
  readonly env: Record<string, string>
  /** All processes. */
  readonly nodes: readonly RedisNode[]
  /** Ends all of them and removes their data. */
  close(): Promise<void>
}

export interface StandaloneRedis extends RedisServers {
  readonly node: RedisNode
  readonly admin: Redis
}

export interface SentinelRedis extends RedisServers {
  readonly servers: readonly RedisNode[]
  readonly sentinels: readonly RedisNode[]
  /** Whom the sentinels hold for the master now. */
  master(): Promise<RedisNode>
  /** Resolves when another than `former` is the master and takes writes. */
  promotedAfter(former: RedisNode, timeoutMs?: number): Promise<RedisNode>
  /**
   * A planned failover, by the first sentinel. Resolves when the new master takes writes. Unless writes are paused,
   * the former takes some for a second yet, which are lost: it is told last.
   */
  failOver(options?: { pausingWrites?: boolean }): Promise<RedisNode>
  /** Resolves when both replicas follow the master. */
  settled(timeoutMs?: number): Promise<void>
}

export interface ClusterRedis extends RedisServers {
  readonly servers: readonly RedisNode[]
  /** Who serves the slot of this key now, asked of a living node. */
  masterOf(key: string): Promise<RedisNode>
  /** Resolves when some other node than `former` serves this key's slot. */
  promotedAfter(former: RedisNode, key: string, timeoutMs?: number): Promise<RedisNode>
  /** Resolves when every slot is served, and every master has its replica. */
  settled(timeoutMs?: number): Promise<void>
}

export interface RedisOptions {
  /** Further lines of redis.conf; a later line goes before an earlier one. */
  readonly config?: readonly string[]
  /** A prefix of the command, such as faketime with its argument. */
  readonly wrap?: readonly string[]
}

const NO_ADDRESS = { REDIS_URL: '', REDIS_SENTINELS: '', REDIS_CLUSTER: '' }

/** As README advises for production; DEBUG SLEEP makes a server slow. */
const SERVER_CONFIG = [
  'save ""',
  'appendonly yes',
  'appendfsync everysec',
  'maxmemory-policy noeviction',
  'enable-debug-command yes',
  'repl-diskless-sync-delay 0',
]

/** One server. It starts with nothing, and keeps what it is given until `close`. */
export async function startStandalone({
  config = [],
  wrap = [],
}: RedisOptions = {}): Promise<StandaloneRedis> {
  const folder = newFolder()
  const node = await startNode(folder, [...SERVER_CONFIG, ...config], { wrap })
  return {
    env: { ...NO_ADDRESS, REDIS_URL: node.url },
    nodes: [node],
    node,
    admin: node.admin,
    close: () => closeAll([node], folder),
  }
}

const MASTER_NAME = 'mymaster'
const DOWN_AFTER_MS = 1_000
const FAILOVER_TIMEOUT_MS = 3_000
const QUORUM = 2
/** The former master is told to follow as late as this: until then it would take writes that nobody keeps. */
const PAUSE_MS = 12_000

/** A master, two replicas and three sentinels. A master that has lost its replicas takes no writes. */
export async function startSentinels({ config = [] }: RedisOptions = {}): Promise<SentinelRedis> {
  const folder = newFolder()
  const own = ['min-replicas-max-lag 2', 'repl-timeout 5', 'repl-ping-replica-period 1', ...config]
  const first = await startNode(folder, [...SERVER_CONFIG, ...own])
  const follow = `replicaof ${LOOPBACK} ${first.port}`
  const replicas = await Promise.all([1, 2].map(() => startNode(folder, [...SERVER_CONFIG, ...own, follow])))
  const servers = [first, ...replicas]
  await followedBy(first, 2)
  for (const { admin } of servers) await admin.config('SET', 'min-replicas-to-write', 1)
  for (const { admin } of servers) await admin.config('REWRITE')

  const watch = [
    `sentinel monitor ${MASTER_NAME} ${LOOPBACK} ${first.port} ${QUORUM}`,
    `sentinel down-after-milliseconds ${MASTER_NAME} ${DOWN_AFTER_MS}`,
    `sentinel failover-timeout ${MASTER_NAME} ${FAILOVER_TIMEOUT_MS}`,
    `sentinel parallel-syncs ${MASTER_NAME} 2`,
  ]
  const sentinels = await Promise.all([1, 2, 3].map(() => startNode(folder, watch, { sentinel: true })))
  for (const { admin } of sentinels) {
    for (const [what, count] of [
      ['replicas', 2],
      ['sentinels', 2],
    ] as const) {
      await until(
        `a sentinel to know the ${what}`,
        async () => {
          const known = await admin.call('SENTINEL', what, MASTER_NAME).catch(() => [])
          return Array.isArray(known) && known.length === count
        },
        TOPOLOGY_MS,
      )
    }
  }

  async function master(): Promise<RedisNode> {
    return until('a sentinel to name the master', async () => {
      for (const { admin } of sentinels) {
        if (admin.status !== 'ready') continue
        const address = await admin.call('SENTINEL', 'get-master-addr-by-name', MASTER_NAME)
        const port = Array.isArray(address) ? Number(address[1]) : 0
        const found = servers.find((server) => server.port === port)
        if (found !== undefined) return found
      }
      return undefined
    })
  }

  async function promotedAfter(former: RedisNode, timeoutMs = TOPOLOGY_MS): Promise<RedisNode> {
    return until(
      'another master',
      async () => {
        const now = await master()
        return now !== former && /role:master/.test(await now.admin.info('replication')) && now
      },
      timeoutMs,
    )
  }

  return {
    env: {
      ...NO_ADDRESS,
      REDIS_SENTINELS: sentinels.map(({ port }) => `${LOOPBACK}:${port}`).join(','),
      REDIS_SENTINEL_NAME: MASTER_NAME,
    },
    nodes: [...servers, ...sentinels],
    servers,
    sentinels,
    master,
    promotedAfter,
    async failOver({ pausingWrites = false } = {}) {
      const former = await master()
      // It is refused, or given up soon after, while the failover before is not quite over.
      return until('a planned failover', async () => {
        if (pausingWrites) await former.admin.call('CLIENT', 'PAUSE', PAUSE_MS, 'WRITE')
        await sentinels[0]?.admin.call('SENTINEL', 'failover', MASTER_NAME).catch(() => {})
        return promotedAfter(former, FAILOVER_TIMEOUT_MS).catch(() => undefined)
      })
    },
    async settled(timeoutMs = TOPOLOGY_MS) {
      await until(
        'both replicas to follow, and the sentinels to know it',
        async () => {
          const views = await Promise.all(
            sentinels.map(({ admin }) => admin.call('SENTINEL', 'replicas', MASTER_NAME)),
          )
          const known = (views as string[][][]).every((replicas) =>
            replicas.every((fields) => fields[fields.indexOf('flags') + 1] === 'slave'),
          )
          return known && followers(await master(), 2)
        },
        timeoutMs,
      )
    },
    close: () => closeAll([...sentinels, ...servers], folder),
  }
}

const SLOTS = 16_384
const MASTERS = 3
const NODE_TIMEOUT_MS = 2_000

/**
 * Three masters, each with a replica. When one is lost the slots of the others go on being served
 * (cluster-require-full-coverage no): without that line a cluster refuses all of them.
 */
export async function startCluster({ config = [] }: RedisOptions = {}): Promise<ClusterRedis> {
  const folder = newFolder()
  const own = [
    'cluster-enabled yes',
    `cluster-node-timeout ${NODE_TIMEOUT_MS}`,
    'cluster-require-full-coverage no',
    'cluster-config-file nodes.conf',
    ...config,
  ]
  const servers: RedisNode[] = []
  const busPorts = new Map<RedisNode, number>()
  for (let at = 0; at < 2 * MASTERS; at += 1) {
    const busPort = await freePort()
    const node = await startNode(folder, [...SERVER_CONFIG, ...own, `cluster-port ${busPort}`])
    busPorts.set(node, busPort)
    servers.push(node)
  }
  const [first] = servers
  if (first === undefined) throw new Error('a cluster has nodes')
  const share = Math.ceil(SLOTS / MASTERS)
  for (const [at, { admin }] of servers.entries()) {
    await admin.call('CLUSTER', 'SET-CONFIG-EPOCH', at + 1)
    if (at < MASTERS) {
      const last = Math.min((at + 1) * share, SLOTS) - 1
      await admin.call('CLUSTER', 'ADDSLOTSRANGE', at * share, last)
    }
    if (at > 0) await admin.call('CLUSTER', 'MEET', LOOPBACK, first.port, busPorts.get(first) ?? 0)
  }
  await until(
    'all nodes to know each other',
    async () => {
      const views = await Promise.all(servers.map(clusterView))
      return views.every((view) => view.length === servers.length && view.every(({ known }) => known))
    },
    TOPOLOGY_MS,
  )
  for (const [at, { admin }] of servers.slice(MASTERS).entries()) {
    const id = await servers[at]?.admin.call('CLUSTER', 'MYID')
    await admin.call('CLUSTER', 'REPLICATE', String(id))
  }
  await settled()

  async function settled(timeoutMs = TOPOLOGY_MS): Promise<void> {
    await until(
      'every slot to be served and every master to be followed',
      async () => {
        const infos = await Promise.all(servers.map(({ admin }) => admin.call('CLUSTER', 'INFO')))
        const views = await Promise.all(servers.map(clusterView))
        const masters = servers.filter((_, at) => views[at]?.some(({ me, serves }) => me && serves))
        if (masters.length !== MASTERS) return false
        const followed = await Promise.all(masters.map((node) => followers(node, 1)))
        return (
          followed.every(Boolean) &&
          infos.every((info) => /cluster_state:ok/.test(String(info))) &&
          infos.every((info) => new RegExp(`cluster_slots_ok:${SLOTS}`).test(String(info)))
        )
      },
      timeoutMs,
    )
  }

  async function findMaster(key: string): Promise<RedisNode | undefined> {
    for (const { admin } of servers) {
      if (admin.status !== 'ready') continue
      const slot = Number(await admin.call('CLUSTER', 'KEYSLOT', key))
      const ranges = (await admin.call('CLUSTER', 'SLOTS')) as [number, number, [string, number]][]
      const range = ranges.find(([from, to]) => from <= slot && slot <= to)
      return servers.find(({ port }) => port === range?.[2][1])
    }
    return undefined
  }

  return {
    env: { ...NO_ADDRESS, REDIS_CLUSTER: servers.map(({ port }) => `${LOOPBACK}:${port}`).join(',') },
    nodes: servers,
    servers,
    masterOf: (key) => until('a node to name the master', () => findMaster(key)),
    promotedAfter: (former, key, timeoutMs = TOPOLOGY_MS) =>
      until(
        'another node to serve the slot',
        async () => {
          const now = await findMaster(key)
          return now !== former && now
        },
        timeoutMs,
      ),
    settled,
    close: () => closeAll(servers, folder),
  }
}

/** What a node of a cluster thinks of each, from CLUSTER NODES. */
async function clusterView({ admin }: RedisNode) {
  const lines = String(await admin.call('CLUSTER', 'NODES'))
    .trim()
    .split('\n')
  return lines.map((line) => {
    const [, , flags = '', , , , , state, ...slots] = line.split(' ')
    return {
      me: flags.includes('myself'),
      known: !/handshake|noaddr/.test(flags) && (state === 'connected' || flags.includes('myself')),
      serves: flags.includes('master') && slots.length > 0,
    }
  })
}

async function followers({ admin }: RedisNode, count: number): Promise<boolean> {
  const info = await admin.info('replication')
  return /role:master/.test(info) && (info.match(/state=online/g) ?? []).length >= count
}

async function followedBy(master: RedisNode, count: number): Promise<void> {
  await until('the replicas to follow', () => followers(master, count), REPLICATION_MS)
}
