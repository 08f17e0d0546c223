/** Log lines as a person wants them on the terminal: only warnings and errors, one short line each. */

const WARN = 40
const LEVELS: Record<string, number> = { trace: 10, debug: 20, info: 30, warn: WARN, error: 50, fatal: 60 }
const LINE_CHARS_MAX = 160
/** Redis marks a warning with "#" after "pid:role date" (serverLogRaw() in its src/server.c). */
const REDIS_WARNING = /^\d+:[A-Z] .{10,30} # (.+)$/

/** The short form of a warning or an error; undefined for everything else. */
export function shortWarning(line: string): string | undefined {
  const entry = parse(line)
  if (entry === undefined) return REDIS_WARNING.exec(line)?.[1]?.slice(0, LINE_CHARS_MAX)
  return levelOf(entry) >= WARN ? describe(entry) : undefined
}

/** The short form of any line, to be shown when a process has died. */
export function shortLine(line: string): string {
  const entry = parse(line)
  return entry === undefined ? line.slice(0, LINE_CHARS_MAX) : describe(entry)
}

/** On every line, and of no use on the terminal. */
const COMMON_FIELDS = new Set(['level', 'time', 'name', 'pid', 'msg', 'err'])

/** "message: error (field value, field value)" */
function describe(entry: Record<string, unknown>): string {
  const { msg, err } = entry
  const cause = typeof err === 'object' && err !== null && 'message' in err ? err.message : undefined
  const message = [msg, cause].filter((part) => typeof part === 'string').join(': ')
  const fields = Object.entries(entry)
    .filter(([name, value]) => !COMMON_FIELDS.has(name) && /^(string|number|boolean)$/.test(typeof value))
    .map(([name, value]) => `${name} ${String(value)}`)
  const text = fields.length === 0 ? message : `${message} (${fields.join(', ')})`
  return text.replaceAll('\n', ' ').slice(0, LINE_CHARS_MAX)
}

function levelOf({ level }: Record<string, unknown>): number {
  return typeof level === 'number' ? level : (LEVELS[String(level)] ?? 0)
}

function parse(line: string): Record<string, unknown> | undefined {
  if (!line.startsWith('{')) return undefined
  try {
    const entry: unknown = JSON.parse(line)
    return typeof entry === 'object' && entry !== null ? { ...entry } : undefined
  } catch {
    return undefined // text that happens to begin with a brace
  }
}
