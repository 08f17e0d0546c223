/** DATA_DIR: all that the one-command run leaves behind is in this one folder. Deleting it starts afresh. */
import { existsSync, mkdirSync, rmSync, statfsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { diskIsFull } from './refusal.ts'

export interface DataDir {
  readonly path: string
  readonly logs: string
  /** Node's compiled code, which makes the second start faster. */
  readonly compileCache: string
  readonly secretsFile: string
  readonly lockFile: string
  /** Nothing was started here before, so some things take longer. */
  readonly isNew: boolean
}

// The embedded database takes 45 MB when it is made, an unpacked Redis 7 MB, compiled code 10 MB.
const FREE_BYTES_FIRST_START = 100 * 1024 ** 2
/** Redis and the database grow while they run; below this they would soon stop with obscure errors. */
const FREE_BYTES_LATER_START = 20 * 1024 ** 2
/** More than one block, so that a quota shows as well. */
const PROBE_BYTES = 64 * 1024

/** The folder and what is where in it; touches nothing. */
export function locateDataDir(path: string): DataDir {
  const secretsFile = join(path, 'development-secrets.json')
  return {
    path,
    logs: join(path, 'logs'),
    compileCache: join(path, 'compile-cache'),
    secretsFile,
    lockFile: join(path, 'local.lock'),
    isNew: !existsSync(secretsFile),
  }
}

/**
 * Makes the folder if need be and tries to write into it.
 * @throws {StartRefused} when its disk is nearly full; the system's error when it cannot be written.
 */
export function prepareDataDir({ path, logs, isNew }: DataDir): void {
  // The database and the logs are nobody else's business on a shared machine.
  mkdirSync(path, { recursive: true, mode: 0o700 })
  mkdirSync(logs, { recursive: true })
  const probe = join(path, `.probe-${process.pid}`)
  try {
    writeFileSync(probe, Buffer.alloc(PROBE_BYTES, 1))
  } finally {
    rmSync(probe, { force: true })
  }
  const { bavail, bsize } = statfsSync(path)
  const needed = isNew ? FREE_BYTES_FIRST_START : FREE_BYTES_LATER_START
  if (bavail * bsize < needed) {
    throw diskIsFull(path, `${megabytes(bavail * bsize)} MB free, ${megabytes(needed)} MB needed`)
  }
}

function megabytes(bytes: number): number {
  return Math.floor(bytes / 1024 ** 2)
}
