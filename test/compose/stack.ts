/** The stack of docker-compose.yml under a project name of its own: nothing that runs here already is touched. */
import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { freePort } from '../../deploy/local/ports.ts'
import { runCommand } from '../../deploy/local/run-command.ts'

const ROOT = new URL('../../', import.meta.url).pathname
const COMMAND_TIMEOUT_MS = 60_000
const UP_TIMEOUT_MS = 180_000
const BUILD_TIMEOUT_MS = 900_000
const PULL_TIMEOUT_MS = 120_000

export interface Service {
  readonly image: string
  readonly build?: { readonly target: string }
}

export interface Container {
  readonly name: string
  readonly service: string
  readonly state: string
  /** '' where the image has no check. */
  readonly health: string
  readonly exitCode: number
}

export type Stack = Awaited<ReturnType<typeof openStack>>

/** Prepares it; nothing is started yet. */
export async function openStack() {
  const project = `wechat-login-check-${randomBytes(3).toString('hex')}`
  const secrets = mkdtempSync(join(tmpdir(), 'compose-secrets-'))
  const [publicPort, simulatorPort, prometheusPort, grafanaPort] = await Promise.all([
    freePort(),
    freePort(),
    freePort(),
    freePort(),
  ])
  const env = {
    ...process.env,
    SECRETS_DIR: secrets, // the operator's own stay out of it
    PUBLIC_ADDRESS: '127.0.0.1',
    PUBLIC_PORT: String(publicPort),
    SIMULATOR_PORT: String(simulatorPort),
    PROMETHEUS_PORT: String(prometheusPort),
    GRAFANA_PORT: String(grafanaPort),
  }
  const [program, ...first] = await composeCommand()
  const files = ['-f', 'docker-compose.yml', '-f', 'test/compose/check.yml']
  const compose = (args: readonly string[], timeoutMs = COMMAND_TIMEOUT_MS) =>
    runCommand(program, [...first, '-p', project, ...files, '--profile', 'demo', ...args], {
      cwd: ROOT,
      env,
      timeoutMs,
    })
  const labelled = ['--filter', `label=com.docker.compose.project=${project}`]

  return {
    project,
    compose,
    urls: {
      public: `http://127.0.0.1:${publicPort}`,
      control: `http://127.0.0.1:${simulatorPort}`,
      prometheus: `http://127.0.0.1:${prometheusPort}`,
    },
    build: (args: readonly string[] = []) => compose(['build', ...args], BUILD_TIMEOUT_MS),
    up: (args: readonly string[]) => compose(['up', '-d', ...args], UP_TIMEOUT_MS),

    async services(): Promise<Map<string, Service>> {
      const text = await compose(['config'])
      const { parse } = await import('yaml')
      return new Map(Object.entries((parse(text) as { services: Record<string, Service> }).services))
    },

    async containers(): Promise<Container[]> {
      const ids = (await docker(['ps', '-aq', ...labelled])).split('\n').filter(Boolean)
      if (ids.length === 0) return []
      const found = JSON.parse(await docker(['inspect', ...ids])) as Inspection[]
      return found.map(({ Name, State, Config }) => ({
        name: Name.slice(1),
        service: Config.Labels['com.docker.compose.service'] ?? '',
        state: State.Status,
        health: State.Health?.Status ?? '',
        exitCode: State.ExitCode,
      }))
    },

    /** What is left of it: containers, networks, volumes. */
    async remains(): Promise<string[]> {
      const lists = await Promise.all([
        docker(['ps', '-aq', ...labelled]),
        docker(['network', 'ls', '-q', ...labelled]),
        docker(['volume', 'ls', '-q', ...labelled]),
      ])
      return lists.join('\n').split('\n').filter(Boolean)
    },

    async down(): Promise<void> {
      await compose(['down', '--volumes', '--timeout', '60'], UP_TIMEOUT_MS)
      rmSync(secrets, { recursive: true, force: true })
    },
  }
}

interface Inspection {
  Name: string
  State: { Status: string; ExitCode: number; Health?: { Status: string } }
  Config: { Labels: Record<string, string> }
}

/** Runs the Docker client. */
export function docker(args: readonly string[], timeoutMs = COMMAND_TIMEOUT_MS): Promise<string> {
  return runCommand('docker', args, { timeoutMs })
}

/** Compose as a plugin of the client (v2), or as the program that it was before. */
async function composeCommand(): Promise<[string, ...string[]]> {
  try {
    await docker(['compose', 'version'])
    return ['docker', 'compose']
  } catch {
    await runCommand('docker-compose', ['version'], { timeoutMs: COMMAND_TIMEOUT_MS })
    return ['docker-compose']
  }
}

/** Whether an image is here, or can be fetched. */
export async function hasImage(name: string): Promise<boolean> {
  try {
    await docker(['image', 'inspect', name])
    return true
  } catch {
    return docker(['pull', '--quiet', name], PULL_TIMEOUT_MS).then(
      () => true,
      () => false,
    )
  }
}
