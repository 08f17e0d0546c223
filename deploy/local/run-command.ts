/** Runs a command of the system to its end, never longer than agreed. */
import { execFile } from 'node:child_process'
import { accessSync, constants, statSync } from 'node:fs'
import { delimiter, join } from 'node:path'

export interface CommandOptions {
  readonly timeoutMs: number
  readonly cwd?: string
  readonly env?: NodeJS.ProcessEnv
  readonly signal?: AbortSignal | undefined
}

const OUTPUT_BYTES_MAX = 4 * 1024 ** 2
/** Enough of a foreign error message to recognise it by. */
const REASON_CHARS_MAX = 200

/** Resolves with what it printed. Rejects with a short reason: it failed, took too long, or is missing. */
export async function runCommand(
  file: string,
  args: readonly string[],
  options: CommandOptions,
): Promise<string> {
  const { timeoutMs, cwd, env, signal } = options
  const { promise, resolve, reject } = Promise.withResolvers<string>()
  const settings = {
    timeout: timeoutMs,
    killSignal: 'SIGKILL' as const,
    maxBuffer: OUTPUT_BYTES_MAX,
    encoding: 'utf8' as const,
    ...(cwd === undefined ? {} : { cwd }),
    ...(env === undefined ? {} : { env }),
    ...(signal === undefined ? {} : { signal }),
  }
  execFile(file, args, settings, (error, stdout, stderr) => {
    if (error === null) resolve(stdout)
    else if (error.killed) reject(new Error(`${file} ${args[0]} took longer than ${timeoutMs / 1000} s`))
    else
      reject(new Error(`${file} ${args[0]}: ${lastLine(stderr) ?? error.message.slice(0, REASON_CHARS_MAX)}`))
  })
  return promise
}

/** Where a command is found on a PATH, as a shell would look for it; undefined when it is not there. */
export function findOnPath(name: string, path = process.env['PATH'] ?? ''): string | undefined {
  const names = process.platform === 'win32' ? [`${name}.exe`] : [name]
  for (const folder of path.split(delimiter)) {
    for (const candidate of names) {
      const file = join(folder, candidate)
      try {
        accessSync(file, constants.X_OK)
        if (folder !== '' && statSync(file).isFile()) return file
      } catch {
        // Not here; the next folder of PATH may have it.
      }
    }
  }
  return undefined
}

function lastLine(text: string): string | undefined {
  return text.trim().split('\n').at(-1)?.trim().slice(0, REASON_CHARS_MAX) || undefined
}
