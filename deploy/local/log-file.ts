/**
 * The log of one process of the local run: a file that is fresh at every start and never grows beyond
 * bounds, and the last lines in memory, to be shown when the process dies.
 */
import { closeSync, openSync, renameSync, writeSync } from 'node:fs'
import type { Readable } from 'node:stream'

export interface LogFile {
  readonly path: string
  write(line: string): void
  /** The last lines, oldest first. */
  tail(count: number): string[]
  close(): void
}

/** At the limit the file becomes `….1` and a new one begins, so a run takes at most twice this. */
const FILE_BYTES_MAX = 20 * 1024 ** 2
const TAIL_LINES = 50
/** A longer line is cut; no real one is. */
const LINE_CHARS_MAX = 64 * 1024

/** Opens (and empties) the file. `onFull` is told once when it cannot be written any more. */
export function openLogFile(path: string, onFull: (error: unknown) => void): LogFile {
  let fd = openSync(path, 'w', 0o600)
  let bytes = 0
  let full = false
  const last: string[] = []
  return {
    path,
    write(line) {
      last.push(line)
      if (last.length > TAIL_LINES) last.shift()
      if (full) return
      try {
        if (bytes > FILE_BYTES_MAX) {
          closeSync(fd)
          renameSync(path, `${path}.1`)
          fd = openSync(path, 'w', 0o600)
          bytes = 0
        }
        // Not a stream: nothing is lost when this process dies, and no queue can grow.
        bytes += writeSync(fd, `${line}\n`)
      } catch (error) {
        full = true
        onFull(error)
      }
    },
    tail: (count) => last.slice(-count),
    close() {
      if (!full) closeSync(fd)
      full = true
    },
  }
}

/** Calls back with every line of a stream, also with the unfinished last one. */
export function readLines(stream: Readable, onLine: (line: string) => void): void {
  let rest = ''
  stream.setEncoding('utf8')
  stream.on('data', (chunk: string) => {
    const lines = (rest + chunk).split('\n')
    rest = lines.pop() ?? ''
    for (const line of lines) onLine(line.slice(0, LINE_CHARS_MAX))
    if (rest.length > LINE_CHARS_MAX) {
      onLine(rest.slice(0, LINE_CHARS_MAX))
      rest = ''
    }
  })
  stream.on('end', () => {
    if (rest !== '') onLine(rest)
  })
  stream.on('error', () => {}) // the process behind it has ended, which is noticed elsewhere
}
