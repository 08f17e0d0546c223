/**
 * What stops `npm start` with one plain line instead of a stack trace: something the person at the
 * keyboard can put right (a taken port, a full disk, no Redis to be had).
 */

/** Its message is complete, names what to change, and is shown as it is. Any other error is a bug. */
export class StartRefused extends Error {}

/** The system's name for what went wrong (ENOSPC, EACCES, …), or the message where it has none. */
export function errorCode(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  return 'code' in error && typeof error.code === 'string' ? error.code : error.message
}

/** The message of anything that was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

/** A failed write under DATA_DIR in words, or undefined when the error is about something else. */
export function explainWriteFailure(error: unknown, dataDir: string): StartRefused | undefined {
  const code = errorCode(error)
  const change = 'set DATA_DIR to another folder'
  if (code === 'ENOSPC' || code === 'EDQUOT') return diskIsFull(dataDir, code)
  const path = error instanceof Error && 'path' in error ? String(error.path) : ''
  if (!path.startsWith(dataDir)) return undefined
  switch (code) {
    case 'EACCES':
    case 'EPERM':
    case 'EROFS':
      return new StartRefused(
        `DATA_DIR (${dataDir}) cannot be written (${code}). Make it writable, or ${change}.`,
      )
    case 'ENOTDIR':
    case 'EEXIST':
      return new StartRefused(
        `DATA_DIR (${dataDir}) is not a folder (${code}). Remove that file, or ${change}.`,
      )
    default:
      return undefined
  }
}

/** `detail` is the system's code or the numbers. */
export function diskIsFull(dataDir: string, detail: string): StartRefused {
  return new StartRefused(
    `The disk of DATA_DIR (${dataDir}) is full (${detail}). Free some space, or set DATA_DIR to another folder.`,
  )
}
