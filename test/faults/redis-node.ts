/** One redis-server process, or a sentinel, that can be killed, started again, stopped and resumed. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import { freePort, LOOPBACK } from '../../deploy/local/ports.ts'
import { findLaunch } from '../../deploy/local/redis-ways.ts'
import { startWatched } from '../../deploy/local/watched-process.ts'
import type { WatchedProcess } from '../../deploy/local/watched-process.ts'
import { until } from '../harness/until.ts'

const START_MS = 20_000
const ADMIN_RETRY_MS = 100

/** A redis-server process, or a sentinel. */
export interface RedisNode {
  readonly port: number
  readonly url: string
  readonly pid: number
  /** For the operator's hand. Waits while the server is away; never to be used on one that is stopped. */
  readonly admin: Redis
  /** All it has printed since it was first started. */
  log(): string
  /** SIGKILL: no goodbye, nothing written down that was not. Resolves when the process is gone. */
  kill(): Promise<void>
  /** Starts it again, with the data it has; resolves when it answers. Nothing happens while it runs. */
  start(): Promise<void>
  /** SIGSTOP: its connections stay and nobody answers. */
  stop(): void
  /** SIGCONT. */
  resume(): void
}

/** Where nodes that are started together keep what they write. */
export function newFolder(): string {
  return mkdtempSync(join(tmpdir(), 'redis-servers-'))
}

/**
 * Starts a server, or a sentinel, on a port of its own with a configuration file of its own.
 * @param parent of `newFolder`
 */
export async function startNode(
  parent: string,
  config: readonly string[],
  { sentinel = false, wrap = [] }: { sentinel?: boolean; wrap?: readonly string[] } = {},
): Promise<RedisNode> {
  const port = await freePort()
  const folder = join(parent, String(port))
  mkdirSync(folder)
  const file = join(folder, 'redis.conf') // a sentinel, and a server that changes its master, write to it
  writeFileSync(file, [`port ${port}`, `bind ${LOOPBACK}`, `dir ${folder}`, ...config, ''].join('\n'))
  const { binary, env } = await findServer()
  const command = [...wrap, binary, file, ...(sentinel ? ['--sentinel'] : [])] as [string, ...string[]]

  let printed = ''
  let server: WatchedProcess | undefined
  const admin = new Redis({
    host: LOOPBACK,
    port,
    lazyConnect: true,
    maxRetriesPerRequest: null,
    retryStrategy: () => ADMIN_RETRY_MS,
  })
  admin.on('error', () => {}) // it is going to be broken

  async function start(): Promise<void> {
    if (server !== undefined) return
    const started = startWatched(command, {
      env,
      scratch: parent,
      onLine: (line) => (printed += `${line}\n`),
    })
    server = started
    const ended = started.exited.finally(() => {
      if (server === started) server = undefined
    })
    if (admin.status === 'wait') await admin.connect().catch(() => {})
    // It says LOADING while it reads its file; a sentinel has no data.
    const answering = until(
      `redis-server on port ${port} to answer`,
      async () => admin.status === 'ready' && (await admin.ping()) === 'PONG',
      START_MS,
    )
    const failed = ended.then((how) => Promise.reject(new Error(`redis-server ended (${how}):\n${printed}`)))
    await Promise.race([answering, failed])
    failed.catch(() => {}) // it may end later as it likes
  }

  const node: RedisNode = {
    port,
    url: `redis://${LOOPBACK}:${port}`,
    get pid() {
      return server?.pid ?? 0
    },
    admin,
    log: () => printed,
    async kill() {
      const ending = server
      ending?.kill()
      await ending?.exited
    },
    start,
    stop: () => signal('SIGSTOP'),
    resume: () => signal('SIGCONT'),
  }

  function signal(name: NodeJS.Signals): void {
    if (server !== undefined) process.kill(server.pid, name)
  }

  await start()
  return node
}

/** Ends them and removes the data of all that were started in the folder. */
export async function closeAll(nodes: readonly RedisNode[], folder: string): Promise<void> {
  await Promise.all(
    nodes.map((node) => {
      node.admin.disconnect()
      return node.kill() // what it would save is removed
    }),
  )
  rmSync(folder, { recursive: true, force: true })
}

/** Installed here, or unpacked from Debian's packages. */
async function findServer() {
  const none = {
    port: 0,
    folder: '',
    persistent: false,
    extraArgs: [],
    cacheDir: undefined,
    say: () => {},
    signal: undefined,
  }
  const { command, env } = await findLaunch('path', none).catch(() => findLaunch('debian', none))
  return { binary: command[0], env }
}
