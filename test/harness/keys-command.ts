/** `npm run keys`, as a process. */
import { runCommand } from './command.ts'
import type { EndedCommand } from './command.ts'
import type { TestEnvironment } from './environment.ts'

/** Runs it to its end, in an empty folder. */
export function runKeys(args: readonly string[], env: TestEnvironment = {}): Promise<EndedCommand> {
  return runCommand('src/keys/main.ts', args, env)
}
