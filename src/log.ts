/**
 * The log: one JSON line an event.
 *
 * Nothing secret is ever passed to it; the redaction below is the second fence, not the first. Errors are
 * reduced to name, message and stack, because libraries hang requests, arguments and options on theirs.
 */
import { pino } from 'pino'
import type { Logger, LoggerOptions } from 'pino'
import type { LogOutput } from './log-output.ts'

export type Log = Logger

const SECRET_FIELDS = [
  'secret',
  'session_key',
  'sessionKey',
  'code',
  'js_code',
  'token',
  'access_token',
  'authorization',
  'password',
]

/**
 * @param name of the process: gateway, worker
 * @param output where the lines go; pino's own way to stdout when there is none, which is for tests
 * @param moreFields asked for each line: what all lines have besides their own
 */
export function createLog(level: string, name: string, output?: LogOutput, moreFields?: () => object): Log {
  const options: LoggerOptions = {
    level,
    base: { name, pid: process.pid },
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label) => ({ level: label }) },
    redact: {
      paths: SECRET_FIELDS.flatMap((field) => [field, `*.${field}`, `*.*.${field}`]),
      censor: '[secret]',
    },
    serializers: { err: describeError },
    ...(moreFields && { mixin: moreFields }),
  }
  if (output === undefined) return pino(options)
  const log = pino(options, output)
  output.onRecovery((lines) => log.warn({ lines }, 'log lines were lost: nobody took them'))
  return log
}

/**
 * For lines whose every field is of a closed set: to look for secrets takes ten times as long as to write the line, which
 * counts where there is one for each request.
 */
export function withoutRedaction(log: Log): Log {
  return log.child({}, { redact: { paths: [] } })
}

/**
 * Lets one line a second of each kind through, and tells the next one how many were held back: an outage has every
 * request fail alike. Kinds come from a closed set.
 */
export function createThrottle(intervalMs = 1_000) {
  const kinds = new Map<string, { nextAtMs: number; held: number }>()
  return (kind: string, write: (held: number) => void): void => {
    const state = kinds.get(kind)
    const nowMs = performance.now()
    if (state !== undefined && nowMs < state.nextAtMs) {
      state.held += 1
      return
    }
    kinds.set(kind, { nextAtMs: nowMs + intervalMs, held: 0 })
    write(state?.held ?? 0)
  }
}

interface DescribedError {
  name: string
  message: string
  stack?: string | undefined
  cause?: DescribedError | undefined
}

const CAUSE_DEPTH_MAX = 3

function describeError(error: unknown, depth = 0): DescribedError {
  if (!(error instanceof Error)) return { name: 'NotAnError', message: typeof error }
  return {
    name: error.name,
    message: error.message,
    stack: error.stack,
    cause:
      error.cause === undefined || depth >= CAUSE_DEPTH_MAX
        ? undefined
        : describeError(error.cause, depth + 1),
  }
}
