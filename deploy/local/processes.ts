/** The gateway and the worker as processes of their own, as they run in production. */
import { spawn } from 'node:child_process'
import { get } from 'node:http'
import { readLines } from './log-file.ts'
import { isAlive } from './process-id.ts'
import type { ProcessId } from './process-id.ts'
import { StartRefused } from './refusal.ts'

export interface ChildProcess {
  readonly pid: number
  /** Resolves when it has ended, with how ("exit code 1", "signal SIGKILL"). */
  readonly exited: Promise<string>
  /** Lets it finish what it does; after a few seconds it is ended anyhow. */
  stop(): Promise<void>
  /** Ends it this instant. */
  kill(): void
}

const STOP_PATIENCE_MS = 4_000
const POLL_MS = 25
/** They began to end when their master died, so this is hardly ever waited for. */
const LEFT_BEHIND_MARGIN_MS = 1_000
const HEALTH_TIMEOUT_MS = 2_000

/**
 * Starts a TypeScript file in a process group of its own: Ctrl-C must reach only us, who end the parts in
 * their order. Should we be killed, child.ts ends it. `onLine` gets every line it prints.
 */
export function startProcess(
  entry: string,
  { env, onLine }: { env: NodeJS.ProcessEnv; onLine: (line: string) => void },
): ChildProcess {
  const child = spawn(process.execPath, ['--import', new URL('child.ts', import.meta.url).href, entry], {
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    env,
  })
  for (const stream of [child.stdout, child.stderr]) if (stream) readLines(stream, onLine)
  const { promise: exited, resolve } = Promise.withResolvers<string>()
  child.once('error', (error) => resolve(error.message))
  // "close" and not "exit": by then its last lines have been read too.
  child.once('close', (code, signal) => resolve(signal === null ? `exit code ${code}` : `signal ${signal}`))
  return {
    pid: child.pid ?? 0,
    exited,
    async stop() {
      child.kill('SIGTERM')
      const force = setTimeout(() => child.kill('SIGKILL'), STOP_PATIENCE_MS)
      await exited
      clearTimeout(force)
    },
    kill: () => void child.kill('SIGKILL'),
  }
}

/**
 * Waits until each address answers 200. Not for a log line: LOG_LEVEL may hide it.
 * @throws {StartRefused} with the words of `refusal` when that takes longer than `timeoutMs`.
 */
export async function untilHealthy(
  urls: readonly string[],
  { timeoutMs, signal, refusal }: { timeoutMs: number; signal: AbortSignal; refusal: string },
): Promise<void> {
  const deadline = Date.now() + timeoutMs
  for (const url of urls) {
    while (!(await isHealthy(url))) {
      signal.throwIfAborted()
      if (Date.now() > deadline) throw new StartRefused(refusal)
      await new Promise((resolve) => setTimeout(resolve, POLL_MS))
    }
  }
}

async function isHealthy(url: string): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>()
  const request = get(url, { timeout: HEALTH_TIMEOUT_MS, agent: false }, (response) => {
    response.resume()
    resolve(response.statusCode === 200)
  })
  request.on('error', () => resolve(false))
  request.on('timeout', () => request.destroy(new Error('no answer')))
  return promise
}

/**
 * Waits for processes whose master was killed. They notice that by themselves (child.ts, startWatched());
 * whoever does not is ended. Until then they hold ports and the database.
 */
export async function endProcesses(processes: readonly ProcessId[]): Promise<void> {
  const deadline = Date.now() + STOP_PATIENCE_MS + LEFT_BEHIND_MARGIN_MS
  for (const id of processes) {
    while (isAlive(id)) {
      // Only what is beyond doubt the process that was started; without its beginning it may be another.
      if (Date.now() > deadline && id.began !== undefined) process.kill(id.pid, 'SIGKILL')
      if (Date.now() > deadline + LEFT_BEHIND_MARGIN_MS) break
      await new Promise((resolve) => setTimeout(resolve, POLL_MS))
    }
  }
}
