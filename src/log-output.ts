/**
 * Where the log goes: stdout, which is never waited for.
 *
 * Who reads the log may stop reading (a collector hangs: the pipe is full), go away (EPIPE), or have no room
 * (ENOSPC). A gateway that waited for them would stand still with them, or could not end. So lines that nobody
 * takes are kept up to a bound, then dropped and counted; and when the way is free again the log says how many
 * are missing. pino's own output keeps without a bound and, when the process ends, waits without one.
 *
 * Lines of one turn of the event loop are written together.
 */
import { writeSync } from 'node:fs'

const STDOUT = 1
/** Some thousand lines: seconds of a busy gateway. */
const KEPT_BYTES_MAX = 524_288
const RETRY_MS = 50
/** For the last lines, when the process ends while the reader is slow. */
const LAST_LINES_MS = 200
const LAST_LINES_RETRY_MS = 10

export interface LogOutput {
  /** Takes one whole line. Never throws, never waits. */
  write(line: string): void
  /** How many lines were dropped since the start. */
  lost(): number
  /** Called when lines are taken again after `lines` were dropped. */
  onRecovery(listener: (lines: number) => void): void
}

/** One a process: it writes what is left when the process ends. */
export function createLogOutput(fd = STDOUT): LogOutput {
  // To touch process.stdout makes a pipe or socket non-blocking: a full one then says EAGAIN. And without a
  // listener, whatever else writes to stdout would end the process with its EPIPE.
  process.stdout.on('error', ignore)

  let kept: Buffer[] = []
  let keptBytes = 0
  let keptLines = 0
  let isScheduled = false
  let lost = 0
  let unreported = 0
  let tellRecovery: (lines: number) => void = ignore
  /** Part of a line is out and its rest is lost. */
  let isBroken = false

  process.once('exit', () => {
    const endsAtMs = performance.now() + LAST_LINES_MS
    while (flush() === 'busy' && performance.now() < endsAtMs) pauseThread(LAST_LINES_RETRY_MS)
  })

  return {
    write(line) {
      if (keptBytes > KEPT_BYTES_MAX) {
        drop(1)
        return
      }
      const bytes = Buffer.from(line)
      kept.push(bytes)
      keptBytes += bytes.length
      keptLines += 1
      if (isScheduled) return
      isScheduled = true
      setImmediate(flushInTime)
    },
    lost: () => lost,
    onRecovery(listener) {
      tellRecovery = listener
    },
  }

  function flushInTime(): void {
    isScheduled = false
    const outcome = flush()
    if (outcome === 'busy') {
      isScheduled = true
      setTimeout(flushInTime, RETRY_MS).unref()
    } else if (outcome === 'written' && unreported > 0) {
      const lines = unreported
      unreported = 0
      tellRecovery(lines)
    }
  }

  function flush(): 'written' | 'busy' | 'failed' {
    if (keptBytes === 0) return 'written'
    const bytes = Buffer.concat(isBroken ? [LINE_END, ...kept] : kept)
    let written = 0
    try {
      while (written < bytes.length) written += writeSync(fd, bytes, written)
      keep([], 0)
      isBroken = false
      return 'written'
    } catch (error) {
      const isBusy = (error as NodeJS.ErrnoException).code === 'EAGAIN'
      if (written > 0) isBroken = false
      if (isBusy) {
        if (written > 0) keep([bytes.subarray(written)], keptLines)
        return 'busy'
      }
      isBroken ||= written > 0 && bytes[written - 1] !== LINE_END[0]
      drop(keptLines)
      keep([], 0)
      return 'failed'
    }
  }

  function keep(rest: Buffer[], lines: number): void {
    kept = rest
    keptBytes = rest.reduce((sum, { length }) => sum + length, 0)
    keptLines = lines
  }

  function drop(lines: number): void {
    lost += lines
    unreported += lines
  }
}

const LINE_END = Buffer.from('\n')

function pauseThread(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms)
}

function ignore(): void {}
