/** What appears on the terminal while the parts run; everything else goes to their log files. */
import { join } from 'node:path'
import { shortPath } from './banner.ts'
import { openLogFile } from './log-file.ts'
import type { LogFile } from './log-file.ts'
import { errorCode } from './refusal.ts'
import { shortLine, shortWarning } from './short-log.ts'
import type { PartName } from './supervisor.ts'

export interface Terminal {
  readonly say: (line: string) => void
  /** Opens the part's log file; the result takes its lines and shows warnings and errors. */
  logOf(name: PartName, folder: string): (line: string) => void
  /** Shows why a part has died, as far as its log tells. */
  sayDeath(name: PartName, how: string): void
}

const LINES_SHOWN_AT_DEATH = 8
/** A part in trouble says so many times a second; the log file has it all. */
const WARNINGS_A_MINUTE = 20
const MINUTE_MS = 60_000

/** `isQuiet`: while true, the part's warnings go to its log only. */
export function createTerminal(isQuiet: (name: PartName) => boolean): Terminal {
  const logs = new Map<PartName, LogFile>()
  let minute = 0
  let shown = 0

  function warn(name: PartName, text: string, log: LogFile) {
    if (isQuiet(name)) return
    const now = Math.floor(performance.now() / MINUTE_MS)
    if (now !== minute) shown = 0
    minute = now
    shown += 1
    if (shown <= WARNINGS_A_MINUTE) console.error(`${name.padEnd(9)} ${text}`)
    else if (shown === WARNINGS_A_MINUTE + 1) console.error(`… more warnings in ${shortPath(log.path)}`)
  }

  return {
    say: (line) => console.log(line),
    logOf(name, folder) {
      const log = openLogFile(join(folder, `${name}.log`), (error) => {
        console.error(
          `${shortPath(log.path)} cannot be written any more (${errorCode(error)}); is the disk full?`,
        )
      })
      logs.set(name, log)
      return (line) => {
        log.write(line)
        const text = shortWarning(line)
        if (text !== undefined) warn(name, text, log)
      }
    },
    sayDeath(name, how) {
      const log = logs.get(name)
      const lines = log?.tail(LINES_SHOWN_AT_DEATH) ?? []
      console.error(
        `The ${name} ended unexpectedly (${how}). Its last log lines${log ? `, from ${shortPath(log.path)}` : ''}:`,
      )
      for (const line of lines) console.error(`  ${shortLine(line)}`)
      if (lines.some((line) => /ENOSPC|no space left/i.test(line)))
        console.error('The disk of DATA_DIR is full.')
    },
  }
}
