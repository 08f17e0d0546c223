/**
 * One `npm start` per DATA_DIR: two would share one embedded database, which it does not survive.
 *
 * The kernel keeps the lock, by way of SQLite (Node has no flock of its own), so it is gone the moment its
 * holder is, however that ended, and no stale lock has to be judged. The file beside it says who holds it
 * and what that one has started, for the message and for cleaning up after a holder that was killed.
 */
import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { DatabaseSync } from 'node:sqlite'
import { identify, isAlive } from './process-id.ts'
import type { ProcessId } from './process-id.ts'
import { StartRefused } from './refusal.ts'

export interface Lock {
  /** What the last holder had started, if it died without ending it. Some may be about to end. */
  readonly leftBehind: readonly ProcessId[]
  /** Notes a process that would be left behind if this one were killed. */
  addChild(pid: number): void
  /** Tells a second start where this one listens. */
  listensOn(url: string): void
  readonly release: () => void
}

interface Holder {
  readonly pid: number
  readonly url?: string
  readonly children: readonly ProcessId[]
}

/** SQLite's "database is locked": https://www.sqlite.org/rescode.html#busy */
const SQLITE_BUSY = 5

/**
 * Takes DATA_DIR for this process. Never waits.
 * `dataDir` is for the message only.
 * @throws {StartRefused} naming the holder and where it listens.
 */
export function takeLock(file: string, dataDir: string): Lock {
  const holderFile = `${file}.json`
  let database: DatabaseSync
  try {
    database = new DatabaseSync(file, { timeout: 0 })
    database.exec('begin exclusive')
  } catch (error) {
    if (!isBusy(error)) throw error
    const holder = readHolder(holderFile)
    throw new StartRefused(
      `Already running: ${holder ? `process ${holder.pid}` : 'another process'} uses ${dataDir}` +
        `${holder?.url ? ` and listens on ${holder.url}` : ''}. ` +
        'End it with Ctrl-C there, or start a second one with its own DATA_DIR, PORT and ADMIN_PORT.',
    )
  }
  const leftBehind = readHolder(holderFile)?.children ?? []
  let holder: Holder = { pid: process.pid, children: [] }
  const change = (changes: Partial<Holder>) => {
    holder = { ...holder, ...changes }
    writeHolder(holderFile, holder)
  }
  change({ children: leftBehind })
  return {
    leftBehind,
    addChild: (pid) => change({ children: [...holder.children.filter(isAlive), identify(pid)] }),
    listensOn: (url) => change({ url }),
    release() {
      if (!database.isOpen) return
      rmSync(holderFile, { force: true })
      database.close()
    },
  }
}

/** By way of a second name, so that nobody reads half of it. */
function writeHolder(file: string, holder: Holder): void {
  writeFileSync(`${file}.new`, JSON.stringify(holder), { mode: 0o600 })
  renameSync(`${file}.new`, file)
}

function readHolder(file: string): Holder | undefined {
  try {
    const value: unknown = JSON.parse(readFileSync(file, 'utf8'))
    return isHolder(value) ? value : undefined
  } catch {
    return undefined // none, or spoilt by a crash of the machine; it is needed for comfort only
  }
}

function isHolder(value: unknown): value is Holder {
  if (typeof value !== 'object' || value === null || !('pid' in value) || !('children' in value)) return false
  return typeof value.pid === 'number' && Array.isArray(value.children)
}

function isBusy(error: unknown): boolean {
  return error instanceof Error && 'errcode' in error && error.errcode === SQLITE_BUSY
}
