/**
 * What the local run has started, and its end: everything stops in order, whether somebody asked for it or
 * one part died. Until the last one is down nothing new is started.
 */
import { messageOf } from './refusal.ts'

export interface Part {
  readonly name: PartName
  /** Resolves when the part has ended, with how. Absent for what cannot end by itself. */
  readonly exited?: Promise<string>
  stop(): Promise<void> | void
  /** Ends it this instant; the process ends right afterwards. */
  kill(): void
}

/** The order of the end: first those who take requests, last what the others need for their goodbye. */
const STOP_ORDER = ['gateway', 'worker', 'simulator', 'redis', 'lock'] as const
export type PartName = (typeof STOP_ORDER)[number]

/** Between two Ctrl-C of a person lies more; npm and run.mjs may pass the same one on a second time. */
const SAME_SIGNAL_MS = 300

export interface Supervisor {
  /** Aborts when the end begins, also during the start. */
  readonly signal: AbortSignal
  /** Hands a started part over. Throws, and ends the part, when the end has begun. */
  readonly add: (part: Part) => void
  /** Whether it was handed over. */
  readonly has: (name: PartName) => boolean
  /** Begins the end; the first call decides on the exit code. */
  end(exitCode: number): void
  /** Resolves with the exit code when everything is down. */
  readonly over: Promise<number>
}

export interface Reports {
  /** A part ended by itself; the others are stopped next. */
  readonly onDeath: (name: PartName, how: string) => void
  /** Somebody asked for the end. */
  readonly onRequest: () => void
}

export function createSupervisor({ onDeath, onRequest }: Reports): Supervisor {
  const parts: Part[] = []
  const ending = new AbortController()
  const { promise: over, resolve } = Promise.withResolvers<number>()

  async function stopAll(exitCode: number) {
    parts.sort((a, b) => STOP_ORDER.indexOf(a.name) - STOP_ORDER.indexOf(b.name))
    for (const part of parts) {
      try {
        await part.stop()
      } catch (error) {
        console.error(`The ${part.name} did not stop: ${messageOf(error)}`)
        part.kill()
      }
    }
    resolve(exitCode)
  }

  function end(exitCode: number) {
    if (ending.signal.aborted) return
    ending.abort(new Error('the run is ending'))
    if (exitCode === 0) onRequest()
    void stopAll(exitCode)
  }

  async function watch({ name, exited }: Part) {
    const how = await exited
    if (how === undefined || ending.signal.aborted) return
    onDeath(name, how)
    end(1)
  }

  let firstSignalAt: number | undefined
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => {
      firstSignalAt ??= performance.now()
      // The handler of "exit" below kills what is still there.
      if (performance.now() - firstSignalAt > SAME_SIGNAL_MS) process.exit(1)
      end(0)
    })
  }
  process.on('exit', () => {
    for (const part of parts) part.kill()
  })

  return {
    signal: ending.signal,
    add(part) {
      if (ending.signal.aborted) part.kill()
      ending.signal.throwIfAborted()
      parts.push(part)
      void watch(part)
    },
    has: (name) => parts.some((part) => part.name === name),
    end,
    over,
  }
}
