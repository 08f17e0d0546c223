/**
 * component_access_tokens: read from a file that the operator's third-party platform writes.
 *
 *   {"<component_appid>": "<component_access_token>", …}
 *
 * A component may have one holder of its token, for getting a new one ends the old; and it is got with a ticket
 * that WeChat pushes to the platform every ten minutes. So the platform keeps it, and the gateway reads it again
 * when the file has changed. Whoever writes the file should write another and rename it.
 */
import { readFile, stat } from 'node:fs/promises'
import { Secret } from '../../secret.ts'
import { isRecord } from '../answer.ts'
import { withinDeadline } from '../within-deadline.ts'

/** How old a look at the file may be. A new token and the one before it are both valid for minutes. */
const LOOK_AGAIN_MS = 1_000
/** Some hundred components. */
const FILE_BYTES_MAX = 65_536
/** Real ones have 130 to 200 characters. */
const TOKEN_FORM = /^[\x21-\x7e]{16,1024}$/

export interface ComponentTokens {
  /** The token in the file, at most a second ago; undefined when there is none. */
  get(componentAppid: string, deadline: AbortSignal): Promise<Secret<string> | undefined>
  /** Looks at the file now; undefined unless there is another token than this one. */
  getNewerThan(
    componentAppid: string,
    refused: Secret<string>,
    deadline: AbortSignal,
  ): Promise<Secret<string> | undefined>
}

/**
 * A file that cannot be read leaves what was read before. Rejects only when the deadline passes.
 * @param path undefined: there are no tokens
 * @param onFault told once of a file that cannot be used, in words that hold nothing of it
 */
export function createComponentTokens(
  path: string | undefined,
  onFault: (reason: string) => void,
): ComponentTokens {
  let tokens = new Map<string, Secret<string>>()
  let readVersion: string | undefined
  let lastFault: string | undefined
  let lookedAtMs = -Infinity
  let looking: Promise<void> | undefined

  return {
    async get(componentAppid, deadline) {
      if (performance.now() - lookedAtMs >= LOOK_AGAIN_MS) await withinDeadline(look(), deadline)
      return tokens.get(componentAppid)
    },
    async getNewerThan(componentAppid, refused, deadline) {
      await withinDeadline(look(), deadline)
      const found = tokens.get(componentAppid)
      return found?.reveal() === refused.reveal() ? undefined : found
    },
  }

  /** One look at a time; all who wait share it. */
  function look(): Promise<void> {
    looking ??= lookNow().finally(() => {
      lookedAtMs = performance.now()
      looking = undefined
    })
    return looking
  }

  async function lookNow(): Promise<void> {
    if (path === undefined) return
    try {
      const { mtimeMs, size, ino } = await stat(path)
      const version = `${mtimeMs} ${size} ${ino}`
      if (version === readVersion) return
      if (size > FILE_BYTES_MAX) throw new FileFault('is too large')
      tokens = parseTokens(await readFile(path, 'utf8'))
      readVersion = version
      lastFault = undefined
    } catch (error) {
      const reason = error instanceof FileFault ? error.message : errorCode(error)
      if (reason !== lastFault) onFault(reason)
      lastFault = reason
    }
  }
}

/** What is wrong with the file, in words that hold nothing of it. */
class FileFault extends Error {}

function parseTokens(text: string): Map<string, Secret<string>> {
  let parsed: unknown
  try {
    parsed = JSON.parse(text)
  } catch {
    throw new FileFault('is not JSON') // the parser's own words quote the text, which holds tokens
  }
  if (!isRecord(parsed)) throw new FileFault('is not a JSON object')
  const tokens = new Map<string, Secret<string>>()
  for (const [componentAppid, token] of Object.entries(parsed)) {
    if (typeof token !== 'string' || !TOKEN_FORM.test(token)) throw new FileFault('holds a malformed token')
    tokens.set(componentAppid, new Secret(token))
  }
  return tokens
}

function errorCode(error: unknown): string {
  return `cannot be read (${(error as NodeJS.ErrnoException).code ?? 'unknown'})`
}
