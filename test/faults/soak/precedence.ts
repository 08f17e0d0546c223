/**
 * Precedence over what else runs on the machine, where the system gives it (root, Linux). A measurement of an hour
 * takes little, and should not be spoilt by what takes all.
 *
 * Linux weighs sessions against each other and niceness only within one (sched_autogroup), so the program runs once more
 * in a session of its own, whose weight it then raises.
 */
import { spawn } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { setPriority } from 'node:os'

const PRIORITY = -10

/** Comes back in the process that has it; the one that was started waits, and ends as that does. */
export async function takePrecedence(): Promise<void> {
  if (process.platform !== 'linux' || process.getuid?.() !== 0) return
  if (sessionOf('self') !== process.pid) {
    const again = spawn(process.execPath, [...process.execArgv, ...process.argv.slice(1)], {
      detached: true,
      stdio: ['inherit', 'inherit', 'inherit', 'ipc'],
    })
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => again.kill(signal))
    again.once('exit', (code) => process.exit(code ?? 1))
    await new Promise(() => {})
  }
  process.on('disconnect', () => process.exit(1)) // who started it was killed
  try {
    setPriority(PRIORITY)
    writeFileSync('/proc/self/autogroup', String(PRIORITY))
  } catch {
    // It goes without.
  }
}

function sessionOf(pid: string): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[3])
}
