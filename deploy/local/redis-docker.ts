/** Redis in a container, for a machine that has no Redis but a Docker engine. */
import { spawn } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { findOnPath, runCommand } from './run-command.ts'

export interface RedisContainer {
  readonly name: string
  readonly image: string
  /** To be run in the foreground: it ends when the container does, and the container with it. */
  readonly command: readonly [string, ...string[]]
}

export interface ContainerOptions {
  readonly port: number
  /** Folder of the data, or undefined to keep none. */
  readonly folder: string | undefined
  readonly serverArgs: readonly string[]
  readonly say: (line: string) => void
  readonly signal?: AbortSignal | undefined
}

/** An engine that is there answers in a tenth of this; one that is not makes the client wait. */
const ENGINE_TIMEOUT_MS = 4_000
const PULL_TIMEOUT_MS = 120_000
const REMOVE_TIMEOUT_MS = 10_000
const IMAGE = 'redis:7-alpine'
const REDIS_IMAGE = /^(.+\/)?(redis|valkey):[\w.-]+$/

/** Rejects with the reason when no engine answers or no image is to be had. */
export async function prepareContainer(options: ContainerOptions): Promise<RedisContainer> {
  const { port, folder, serverArgs, say, signal } = options
  if (findOnPath('docker') === undefined) throw new Error('there is no docker command')
  if (/^(tcp|ssh):/.test(process.env['DOCKER_HOST'] ?? '')) {
    throw new Error('DOCKER_HOST is another machine, whose ports are not ours')
  }
  const engine = { timeoutMs: ENGINE_TIMEOUT_MS, signal }
  // Some clients answer without an engine, and only the empty version gives it away.
  const version = await runCommand('docker', ['info', '--format', '{{.ServerVersion}}'], engine)
  if (version.trim() === '') throw new Error('docker is installed, but no engine answers')

  const image = await findImage({ say, signal })
  const name = containerName(folder)
  await removeContainer(name)
  const mount = folder === undefined ? [] : ['-v', `${folder}:/data`, ...asOurselves()]
  return {
    name,
    image,
    command: [
      ...(['docker', 'run', '--rm', '--name', name, '-p', `127.0.0.1:${port}:6379`] as const),
      ...mount,
      image,
      image.includes('valkey') ? 'valkey-server' : 'redis-server',
      // All addresses of the container; the machine's side of the port is 127.0.0.1 only.
      ...'--bind 0.0.0.0 --protected-mode no --port 6379 --dir'.split(' '),
      folder === undefined ? '/tmp' : '/data',
      ...serverArgs,
    ],
  }
}

/** Ends and removes a container; none of that name is fine. */
export async function removeContainer(name: string): Promise<void> {
  try {
    await runCommand('docker', ['rm', '--force', name], { timeoutMs: REMOVE_TIMEOUT_MS })
  } catch {
    // It is gone already, or so is the engine and the container with it.
  }
}

/** The same without waiting, for the moment in which this process ends. */
export function removeContainerSoon(name: string): void {
  const child = spawn('docker', ['rm', '--force', name], { detached: true, stdio: 'ignore' })
  child.on('error', () => {}) // nobody is left to be told
  child.unref()
}

/** The same name for the same data: a container that an earlier run left behind is found by it. */
function containerName(folder: string | undefined): string {
  const id =
    folder === undefined
      ? randomBytes(4).toString('hex')
      : createHash('sha256').update(folder).digest('hex').slice(0, 8)
  return `wechat-login-gateway-redis-${id}`
}

async function findImage({ say, signal }: Pick<ContainerOptions, 'say' | 'signal'>): Promise<string> {
  const list = await runCommand('docker', ['image', 'ls', '--format', '{{.Repository}}:{{.Tag}}'], {
    timeoutMs: ENGINE_TIMEOUT_MS,
    signal,
  })
  const local = list.split('\n').filter((name) => REDIS_IMAGE.test(name))
  const image = local.find((name) => name === IMAGE) ?? local[0]
  if (image !== undefined) return image
  say(`Fetching the image ${IMAGE} for Redis (once) …`)
  await runCommand('docker', ['pull', '--quiet', IMAGE], { timeoutMs: PULL_TIMEOUT_MS, signal })
  return IMAGE
}

/** So that the files belong to us and not to the container's redis user. */
function asOurselves(): string[] {
  const uid = process.getuid?.()
  const gid = process.getgid?.()
  return uid === undefined || gid === undefined ? [] : ['--user', `${uid}:${gid}`]
}
