/** A command of this repository, `npm run keys` say, as a process. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestEnvironment } from './environment.ts'
import { NODE_ENVIRONMENT } from './node-environment.ts'

const ROOT = new URL('../../', import.meta.url).pathname
const END_TIMEOUT_MS = 60_000

export interface EndedCommand {
  code: number | null
  stdout: string
  stderr: string
}

/** Runs it to its end, in an empty folder. `entry` is its file, as package.json has it. */
export async function runCommand(
  entry: string,
  args: readonly string[],
  env: TestEnvironment = {},
): Promise<EndedCommand> {
  const cwd = mkdtempSync(join(tmpdir(), 'gateway-command-'))
  const child = spawn(process.execPath, [join(ROOT, entry), ...args], {
    cwd,
    env: { ...NODE_ENVIRONMENT, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: END_TIMEOUT_MS,
    killSignal: 'SIGKILL',
  })
  const ended: EndedCommand = { code: null, stdout: '', stderr: '' }
  child.stdout.setEncoding('utf8').on('data', (text: string) => (ended.stdout += text))
  child.stderr.setEncoding('utf8').on('data', (text: string) => (ended.stderr += text))
  await once(child, 'close')
  rmSync(cwd, { recursive: true })
  return { ...ended, code: child.exitCode }
}
