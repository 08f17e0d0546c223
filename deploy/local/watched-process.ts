/**
 * A foreign program (Redis, the Docker client) that must not outlive us, even when we are killed with
 * SIGKILL and can do nothing any more.
 *
 * A shell starts it and leaves a second, tiny shell behind that reads from a pipe whose other end only we
 * hold. When we die the system closes that end, the read ends, and the program is told to stop. (Linux
 * could do this with PR_SET_PDEATHSIG, which neither Node nor macOS has.)
 */
import { spawn } from 'node:child_process'
import { Writable } from 'node:stream'
import { readLines } from './log-file.ts'

export interface WatchedProcess {
  readonly pid: number
  /** Resolves when it has ended, for whatever reason, with how ("exit code 1", "signal SIGTERM"). */
  readonly exited: Promise<string>
  /** Asks it to end, by `signal` (SIGTERM), and makes it after `patienceMs`. */
  stop(patienceMs: number, signal?: NodeJS.Signals): Promise<void>
  /** Ends it this instant. */
  kill(): void
}

// $$ is the process that becomes the program. A word on the pipe means that it has ended by itself. The
// second's delay lets the gateway and the worker, which are ending at the same moment, say goodbye to it.
const WATCH = `
folder=$1; shift
( read -r word <&3 || { sleep 1; kill -TERM $$; sleep 1; [ -z "$folder" ] || rm -rf "$folder"; } ) >/dev/null 2>&1 &
exec 3<&-
exec "$@"`

/**
 * Starts the program in a process group of its own: Ctrl-C must not reach it before those who use it.
 * `onLine` gets every line it prints; `scratch` is a folder to remove should we be killed; `identity` is whom to run
 * it as.
 */
export function startWatched(
  command: readonly [string, ...string[]],
  options: {
    env?: NodeJS.ProcessEnv | undefined
    scratch?: string | undefined
    identity?: { uid: number; gid: number } | undefined
    onLine: (line: string) => void
  },
): WatchedProcess {
  const [file, ...args] = command
  // Windows has no such shell; there the program may stay behind after a kill, and the next start ends it.
  const [program, words] =
    process.platform === 'win32'
      ? [file, args]
      : ['/bin/sh', ['-c', WATCH, 'sh', options.scratch ?? '', file, ...args]]
  const child = spawn(program, words, {
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
    env: options.env ?? process.env,
    ...options.identity,
  })
  for (const stream of [child.stdout, child.stderr]) if (stream) readLines(stream, options.onLine)
  // The fourth and not stdin, which Node closes before anybody learns of the exit.
  const leash = child.stdio[3]
  leash?.on('error', () => {}) // the watching shell may be gone already

  const { promise: exited, resolve } = Promise.withResolvers<string>()
  child.once('error', (error) => resolve(error.message))
  child.once('exit', (code, signal) => {
    if (leash instanceof Writable) leash.end('ended\n')
    resolve(signal === null ? `exit code ${code}` : `signal ${signal}`)
  })
  return {
    pid: child.pid ?? 0,
    exited,
    async stop(patienceMs, signal = 'SIGTERM') {
      child.kill(signal)
      const force = setTimeout(() => child.kill('SIGKILL'), patienceMs)
      await exited
      clearTimeout(force)
    },
    kill: () => void child.kill('SIGKILL'),
  }
}
