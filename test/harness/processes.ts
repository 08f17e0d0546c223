/** Gateways and workers as real processes, which can be killed. */
import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import { createClient } from './client.ts'
import type { TestEnvironment } from './environment.ts'
import { NODE_ENVIRONMENT } from './node-environment.ts'

const START_TIMEOUT_MS = 20_000
const ROOT = new URL('../../', import.meta.url).pathname

export interface RunningProcess {
  child: ChildProcess
  url: string
  adminUrl: string | undefined
  /** All it has written, stdout and stderr. */
  output(): string
  /** Sends the signal and waits for its end. */
  end(signal: NodeJS.Signals): Promise<number | null>
}

export async function startGatewayProcess(env: TestEnvironment) {
  const running = await startProcess('src/main.ts', env, 'gateway ready')
  const client = createClient(running.url)
  const admin = createClient(running.adminUrl ?? '')
  onTestFinished(async () => {
    await Promise.all([client.close(), admin.close()])
  })
  return { ...running, ...client, admin }
}

export function startWorkerProcess(env: TestEnvironment) {
  return startProcess('workers/main.ts', env, 'worker ready')
}

/** A gateway that is not waited for: for what happens before it is ready, or when it cannot say so. */
export function launchGateway(env: TestEnvironment, stdout: 'pipe' | number = 'pipe') {
  return launch('src/main.ts', env, stdout)
}

/** The same of a worker. */
export function launchWorker(env: TestEnvironment) {
  return launch('workers/main.ts', env, 'pipe')
}

/** It is killed when the test ends. */
function launch(entry: string, env: TestEnvironment, stdout: 'pipe' | number) {
  const child = spawn(process.execPath, [join(ROOT, entry)], {
    cwd: mkdtempSync(join(tmpdir(), 'gateway-test-')),
    env: { ...NODE_ENVIRONMENT, ...env },
    stdio: ['ignore', stdout, 'pipe'],
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding('utf8').on('data', (text: string) => (output += text))
  }
  const end = async (signal: NodeJS.Signals) => {
    if (child.exitCode === null && child.signalCode === null) {
      const ended = once(child, 'exit')
      child.kill(signal)
      await ended
    }
    return child.exitCode
  }
  onTestFinished(async () => void (await end('SIGKILL')))
  return { child, output: () => output, end }
}

/** Resolves when the process has logged the line that says it is ready. */
async function startProcess(entry: string, env: TestEnvironment, readyLine: string): Promise<RunningProcess> {
  const { child, output, end } = launch(entry, env, 'pipe')
  const { url, adminUrl } = await new Promise<{ url: string; adminUrl?: string }>((resolve, reject) => {
    const timer = setTimeout(
      () => reject(new Error(`${entry} was not ready in time:\n${output()}`)),
      START_TIMEOUT_MS,
    )
    for (const stream of [child.stdout, child.stderr]) {
      stream?.on('data', () => {
        const line = output()
          .split('\n')
          .find((line) => line.includes(`"msg":"${readyLine}"`))
        if (line === undefined) return
        clearTimeout(timer)
        resolve(JSON.parse(line) as { url: string; adminUrl?: string })
      })
    }
    child.once('exit', (code) => reject(new Error(`${entry} ended with ${code}:\n${output()}`)))
  })
  return { child, url, adminUrl, output, end }
}
