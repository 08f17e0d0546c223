/**
 * Whoever started us through npm and kills npm means us. npm passes Ctrl-C on, but a SIGTERM or SIGKILL
 * sent to npm alone ends npm or its shell and leaves us running with nobody to end us. So the processes
 * between us and npm are watched.
 */
import { readFileSync } from 'node:fs'
import { identify, isAlive } from './process-id.ts'
import type { ProcessId } from './process-id.ts'

const WATCH_MS = 500
/** We are started by run.mjs, by npm's shell, by npm; more is not npm's doing. */
const GENERATIONS_MAX = 3

/** Calls back when npm is gone, or what stands between. Does nothing when npm did not start us. */
export function watchLauncher(onGone: () => void): void {
  if (process.env['npm_lifecycle_event'] === undefined || process.platform === 'win32') return
  const parent = process.ppid
  // macOS tells the beginning of a process only through `ps`, which is too much for twice a second.
  const ancestors = process.platform === 'linux' ? ancestorsUpToNpm() : []
  const timer = setInterval(() => {
    if (process.ppid === parent && ancestors.every(isAlive)) return
    clearInterval(timer)
    onGone()
  }, WATCH_MS)
  timer.unref()
}

function ancestorsUpToNpm(): ProcessId[] {
  const ancestors: ProcessId[] = []
  let pid = process.ppid
  for (let generation = 1; generation <= GENERATIONS_MAX; generation += 1) {
    ancestors.push(identify(pid))
    const { name, parent } = describe(pid)
    if (name.startsWith('npm')) return ancestors
    pid = parent
  }
  return [] // another package manager, or a stranger in between: the parent alone is watched
}

/** Linux only. A process that has just ended has no name and no parent. */
function describe(pid: number): { name: string; parent: number } {
  try {
    const [, name = '', parent] =
      /^\d+ \((.*)\) \S+ (\d+)/s.exec(readFileSync(`/proc/${pid}/stat`, 'utf8')) ?? []
    return { name, parent: Number(parent) }
  } catch {
    return { name: '', parent: 0 }
  }
}
