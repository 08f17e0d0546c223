/**
 * A signal in the first half second, in which a process loads its modules. It would end the process as killed; and
 * as the first process of a container it would be ignored, for the kernel spares a PID 1 that does not listen.
 */

const SIGNALS = ['SIGTERM', 'SIGINT', 'SIGHUP'] as const

/**
 * From now on a signal ends the process with 0.
 * @returns takes that back. To be called when others listen already: with its last listener a signal that is on its
 *   way would be lost.
 */
export function leaveOnSignal(): () => void {
  for (const signal of SIGNALS) process.once(signal, leave)
  return () => {
    for (const signal of SIGNALS) process.off(signal, leave)
  }
}

function leave(): void {
  process.exit(0)
}
