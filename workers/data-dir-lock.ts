/**
 * The lock on the folder of the embedded database. PGlite has none of its own: a second process opens the
 * same folder without complaint, and the two destroy each other's pages.
 *
 * The lock is one that the kernel keeps, taken by SQLite (built into Node, which has no flock of its own) on
 * a small file. It is gone the moment its process is, however that ended, so there is no stale lock to judge
 * by process ids, which are used again and mean nothing in the container next door. The file that names the
 * owner is for the message only.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join } from 'node:path'

const LOCK_FILE = 'database.lock'
const OWNER_FILE = 'database.owner'
/** SQLite's "database is locked": https://www.sqlite.org/rescode.html#busy */
const SQLITE_BUSY = 5

/** Another process, or another part of this one, has the folder. The message is for the operator. */
export class DataDirInUse extends Error {
  constructor(dataDir: string, owner: string) {
    super(
      `The embedded database in ${dataDir} is in use by ${owner}. It serves one worker only: stop that one, ` +
        'give this one another DATA_DIR, or set DATABASE_URL to a Postgres for several workers.',
    )
    this.name = 'DataDirInUse'
  }
}

export interface DataDirLock {
  /** Gives the folder up. Safe to call twice. */
  release(): void
}

/**
 * Takes the folder, making it if need be. Never waits.
 * @throws {DataDirInUse} naming the folder and the owner's process id.
 */
export async function lockDataDir(dataDir: string): Promise<DataDirLock> {
  await mkdir(dataDir, { recursive: true })
  // Loaded here, because Node 24 prints a warning that a worker on Postgres need not show.
  const { DatabaseSync } = await import('node:sqlite')
  const file = new DatabaseSync(join(dataDir, LOCK_FILE), { timeout: 0 })
  try {
    file.exec('begin exclusive')
  } catch (error) {
    file.close()
    if (!isBusy(error)) throw error
    throw new DataDirInUse(dataDir, readOwner(dataDir))
  }
  writeFileSync(join(dataDir, OWNER_FILE), `process ${process.pid} on ${hostname()}`)
  return {
    release() {
      if (file.isOpen) file.close()
    },
  }
}

function readOwner(dataDir: string): string {
  try {
    return readFileSync(join(dataDir, OWNER_FILE), 'utf8')
  } catch {
    return 'another process' // it has the lock and is about to write its name
  }
}

function isBusy(error: unknown): boolean {
  return error instanceof Error && 'errcode' in error && error.errcode === SQLITE_BUSY
}
