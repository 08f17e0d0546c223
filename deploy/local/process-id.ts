/**
 * Names a process so that it can be recognised later. Its number alone does not do that: after a reboot,
 * and soon in a container, the same number belongs to somebody else. When it began is added to it.
 */
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { errorCode } from './refusal.ts'

export interface ProcessId {
  readonly pid: number
  /** When it began, in the system's own terms. Undefined where the system does not tell (Windows). */
  readonly began: string | undefined
}

/** No process begins like this, so an ended one is equal to none. */
const ENDED = 'ended'
const PS_TIMEOUT_MS = 2_000

/** The process that has this number now. */
export function identify(pid: number): ProcessId {
  return { pid, began: beginning(pid) }
}

/** Whether this very process still runs; one that has ended but was not collected yet does not. */
export function isAlive({ pid, began }: ProcessId): boolean {
  try {
    process.kill(pid, 0)
  } catch (error) {
    if (errorCode(error) !== 'EPERM') return false // EPERM: it lives and is another user's
  }
  return began !== ENDED && beginning(pid) === began
}

function beginning(pid: number): string | undefined {
  if (process.platform === 'win32') return undefined
  try {
    if (process.platform === 'linux') {
      // After the name, which may hold anything: the state is the 1st field, the start time the 20th.
      const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)?.split(' ') ?? []
      const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
      return fields[0] === 'Z' ? ENDED : `${boot}/${fields[19]}`
    }
    const options = { encoding: 'utf8', timeout: PS_TIMEOUT_MS } as const
    return execFileSync('ps', ['-o', 'lstart=', '-p', String(pid)], options).trim() || ENDED
  } catch {
    return ENDED // there is no such process, or it ended while it was looked at
  }
}
