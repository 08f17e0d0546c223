/** How each way of getting a Redis turns into a command to run. */
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { LOOPBACK } from './ports.ts'
import { unpackDebianRedis } from './redis-debian.ts'
import { prepareContainer } from './redis-docker.ts'
import { findOnPath } from './run-command.ts'

/** For the message when all have failed. */
export const REDIS_WAYS = {
  path: 'installed here',
  docker: 'in Docker',
  debian: 'from Debian packages',
} as const

export type RedisWay = keyof typeof REDIS_WAYS

export interface LaunchOptions {
  readonly port: number
  readonly folder: string
  readonly persistent: boolean
  readonly extraArgs: readonly string[]
  readonly cacheDir: string | undefined
  readonly say: (line: string) => void
  readonly signal: AbortSignal | undefined
}

/** What is to be run. */
export interface Launch {
  readonly what: string
  readonly command: readonly [string, ...string[]]
  readonly env?: NodeJS.ProcessEnv
  readonly container?: string
}

/** Where unpacked packages are kept when nobody says where: once for all test runs of this checkout. */
const cacheDirOfRepository = join(dirname(dirname(dirname(fileURLToPath(import.meta.url)))), '.data')

/** Rejects with the reason when this way is not open on this machine. */
export async function findLaunch(way: RedisWay, options: LaunchOptions): Promise<Launch> {
  const { port, folder, persistent, extraArgs, cacheDir, say, signal } = options
  const serverArgs = [
    // Snapshots never; every write to a log, so that a restart of `npm start` finds all sessions again.
    '--save',
    '',
    '--appendonly',
    persistent ? 'yes' : 'no',
    // Any other policy would drop sessions and jobs when memory is short; BullMQ insists on it too.
    '--maxmemory-policy',
    'noeviction',
    ...extraArgs,
  ]
  if (way === 'docker') {
    const kept = persistent ? folder : undefined
    const { image, name, command } = await prepareContainer({ port, folder: kept, serverArgs, say, signal })
    return { what: `${image} in Docker`, command, container: name }
  }
  const localArgs = ['--bind', LOOPBACK, '--port', String(port), '--dir', folder, ...serverArgs]
  if (way === 'debian') {
    const { command, env } = await unpackDebianRedis({
      cacheDir: cacheDir ?? cacheDirOfRepository,
      say,
      signal,
    })
    return { what: 'redis-server from unpacked Debian packages', command: [command, ...localArgs], env }
  }
  const command = findOnPath('redis-server') ?? findOnPath('valkey-server')
  if (command === undefined) throw new Error('neither redis-server nor valkey-server is on the PATH')
  return { what: command, command: [command, ...localArgs] }
}
