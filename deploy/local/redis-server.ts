/**
 * A Redis for development and tests, from wherever one can be had, in this order:
 *
 *   url      the one that REDIS_URL names; used as it is
 *   path     redis-server or valkey-server, installed on this machine
 *   docker   a container, when an engine answers
 *   debian   Debian's packages, unpacked into a folder of ours
 *
 * npm has no package with a Redis server in it, hence the search.
 */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { freePort, LOOPBACK } from './ports.ts'
import { removeContainer, removeContainerSoon } from './redis-docker.ts'
import { endRecorded, removeRecord, writeRecord } from './redis-record.ts'
import { findLaunch, REDIS_WAYS } from './redis-ways.ts'
import type { Launch, RedisWay } from './redis-ways.ts'
import { askRedis, parseInfo } from './redis-wire.ts'
import { messageOf, StartRefused } from './refusal.ts'
import { startWatched } from './watched-process.ts'
import type { WatchedProcess } from './watched-process.ts'

export interface RedisOptions {
  /** REDIS_URL: use that one and start nothing. */
  readonly url?: string | undefined
  /** Data survives a restart, in `dataDir`/redis. False: nothing is kept. */
  readonly persistent: boolean
  /** Needed when persistent. */
  readonly dataDir?: string
  /** Where unpacked packages are kept for the next time; default `dataDir`, else .data in the repository. */
  readonly cacheDir?: string
  /** Default: a free one. */
  readonly port?: number
  readonly extraArgs?: readonly string[]
  /** The ways that may be tried, in this order; default all. */
  readonly ways?: readonly RedisWay[]
  /** Default true. */
  readonly allowDocker?: boolean
  /** Told what takes long. */
  readonly say?: (line: string) => void
  /** Gets every line of Redis' log. */
  readonly onLog?: ((line: string) => void) | undefined
  readonly signal?: AbortSignal
}

export interface RunningRedis {
  readonly url: string
  readonly port: number
  /** Of the server, or of the Docker client; undefined when it is not ours. */
  readonly pid: number | undefined
  /** For people: "/usr/bin/redis-server, version 7.0.15, on 127.0.0.1:40123". */
  readonly how: string
  /** Resolves with how, when it ends. Never for a Redis that is not ours. */
  readonly exited: Promise<string>
  /** Ends it if it is ours. May be called twice. */
  readonly stop: () => Promise<void>
  /** The same at once, with no goodbye: for the last moment of this process. */
  readonly kill: () => void
}

const DEFAULT_PORT = 6379
const ANSWER_TIMEOUT_MS = 3_000
/** A container takes a second; loading much data takes longer. */
const START_TIMEOUT_MS = 20_000
const POLL_MS = 10
const STOP_PATIENCE_MS = 4_000
/** A port that was free can be taken a moment later; three times in a row it is something else. */
const PORT_TRIES = 3
const REASON_LINES = 3
/** BullMQ advises against less. */
const VERSION_MIN = [6, 2] as const

/**
 * Starts a Redis, or finds the one given, and waits until it answers. It ends with this process, also when
 * that is killed.
 * @throws {StartRefused} with the reason of every way that was tried.
 */
export async function startRedis(options: RedisOptions): Promise<RunningRedis> {
  if (options.url !== undefined) return useGiven(options.url)

  const folder = prepareFolder(options)
  if (options.persistent) await endRecorded(folder)
  const allowed = (way: RedisWay) => way !== 'docker' || options.allowDocker !== false
  const reasons: string[] = []
  for (const way of (options.ways ?? (['path', 'docker', 'debian'] as const)).filter(allowed)) {
    try {
      return await tryWay(way, folder, options)
    } catch (error) {
      options.signal?.throwIfAborted()
      reasons.push(`  ${REDIS_WAYS[way]}: ${messageOf(error)}\n`)
    }
  }
  if (!options.persistent) rmSync(folder, { recursive: true, force: true })
  throw new StartRefused(
    `No Redis could be started.\n${reasons.join('')}` +
      'Install one (Debian, Ubuntu: sudo apt-get install redis-server; macOS: brew install redis), ' +
      'start Docker, or set REDIS_URL.',
  )
}

async function useGiven(url: string): Promise<RunningRedis> {
  if (!URL.canParse(url) || !/^rediss?:$/.test(new URL(url).protocol)) {
    throw new StartRefused('REDIS_URL must look like redis://127.0.0.1:6379')
  }
  const { hostname, port } = new URL(url)
  const place = `${hostname}:${port || DEFAULT_PORT}` // without the password that the URL may carry
  try {
    const version = await askVersion(url)
    return {
      url,
      port: Number(port || DEFAULT_PORT),
      pid: undefined,
      how: `yours on ${place} (REDIS_URL), version ${version}`,
      exited: new Promise(() => {}),
      stop: async () => {},
      kill: () => {},
    }
  } catch (error) {
    throw new StartRefused(
      `REDIS_URL names ${place}, which does not answer as it should: ${messageOf(error)}. ` +
        'Start that Redis or correct REDIS_URL; without REDIS_URL one is started for you.',
      { cause: error },
    )
  }
}

function prepareFolder({ persistent, dataDir }: RedisOptions): string {
  if (!persistent) return mkdtempSync(join(tmpdir(), 'redis-'))
  if (dataDir === undefined) throw new TypeError('a persistent Redis needs a dataDir')
  const folder = join(dataDir, 'redis')
  mkdirSync(folder, { recursive: true, mode: 0o700 })
  return folder
}

async function tryWay(way: RedisWay, folder: string, options: RedisOptions): Promise<RunningRedis> {
  const { persistent, dataDir, cacheDir = dataDir, extraArgs = [], say = () => {}, signal } = options
  for (let attempt = 1; ; attempt += 1) {
    const port = options.port ?? (await freePort())
    const launch = await findLaunch(way, { port, folder, persistent, extraArgs, cacheDir, say, signal })
    try {
      return await launchRedis(launch, { port, folder, options })
    } catch (error) {
      const unlucky = /address already in use|port is already allocated/i.test(messageOf(error))
      if (!unlucky || options.port !== undefined || attempt === PORT_TRIES) throw error
    }
  }
}

interface Place {
  readonly port: number
  readonly folder: string
  readonly options: RedisOptions
}

async function launchRedis({ what, command, env, container }: Launch, place: Place): Promise<RunningRedis> {
  const { port, folder, options } = place
  const url = `redis://${LOOPBACK}:${port}`
  const last: string[] = []
  const server = startWatched(command, {
    env,
    scratch: options.persistent ? undefined : folder,
    onLine(line) {
      last.push(line.trim())
      if (last.length > REASON_LINES) last.shift()
      options.onLog?.(line)
    },
  })
  const end = async () => {
    await server.stop(STOP_PATIENCE_MS)
    if (container !== undefined) await removeContainer(container)
  }
  let info: Map<string, string>
  try {
    info = await untilReady(url, server, options.signal)
    requireVersion(info)
  } catch (error) {
    await end()
    throw new Error([messageOf(error), ...last].join(' | '), { cause: error })
  }
  if (options.persistent)
    writeRecord(folder, { pid: server.pid, port, runId: info.get('run_id') ?? '', container })

  let stopping: Promise<void> | undefined
  const stop = async () => {
    await end()
    if (options.persistent) removeRecord(folder)
    else rmSync(folder, { recursive: true, force: true })
  }
  return {
    url,
    port,
    pid: server.pid,
    how: `${what}, version ${versionOf(info)}, on ${LOOPBACK}:${port}`,
    exited: server.exited,
    stop: () => (stopping ??= stop()),
    kill() {
      if (stopping === undefined && container !== undefined) removeContainerSoon(container)
      server.kill()
    },
  }
}

/** Redis answers PING with an error while it loads its data, so that is waited for as well. */
async function untilReady(
  url: string,
  server: WatchedProcess,
  signal?: AbortSignal,
): Promise<Map<string, string>> {
  const deadline = Date.now() + START_TIMEOUT_MS
  const ended = server.exited.then((how) => ({ how }))
  for (;;) {
    signal?.throwIfAborted()
    const asked = askInfo(url).then(
      (info) => ({ info }),
      () => ({}), // not yet
    )
    const result: { info?: Map<string, string>; how?: string } = await Promise.race([asked, ended])
    if (result.info !== undefined) return result.info
    if (result.how !== undefined) throw new Error(`it ended at once (${result.how})`)
    if (Date.now() > deadline) throw new Error(`it did not answer within ${START_TIMEOUT_MS / 1000} s`)
    await new Promise((resolve) => setTimeout(resolve, POLL_MS))
  }
}

async function askInfo(url: string): Promise<Map<string, string>> {
  const [, info = ''] = await askRedis(url, [['PING'], ['INFO', 'server']], ANSWER_TIMEOUT_MS)
  return parseInfo(info)
}

async function askVersion(url: string): Promise<string> {
  const info = await askInfo(url)
  requireVersion(info)
  return versionOf(info)
}

function versionOf(info: Map<string, string>): string {
  return info.get('valkey_version') ?? info.get('redis_version') ?? 'unknown'
}

function requireVersion(info: Map<string, string>): void {
  const [major = 0, minor = 0] = (info.get('redis_version') ?? '').split('.').map(Number)
  if (major < VERSION_MIN[0] || (major === VERSION_MIN[0] && minor < VERSION_MIN[1])) {
    throw new Error(`version ${versionOf(info)} is older than ${VERSION_MIN.join('.')}`)
  }
}
