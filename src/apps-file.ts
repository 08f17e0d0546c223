/** WECHAT_APPS_FILE: the Mini Programs of a gateway that serves several, as a JSON list. */
import { readFileSync } from 'node:fs'
import { AppFault, parseAppEntry } from './app-entry.ts'
import type { App } from './app-entry.ts'
import { errorCode } from './reading.ts'

/** Reads it. What is wrong with it is added to `faults`, which quote nothing of it. */
export function readAppsFile(path: string, faults: string[]): App[] {
  let parsed: unknown
  try {
    parsed = JSON.parse(readFileSync(path, 'utf8'))
  } catch (error) {
    // A JSON error quotes the text around it, which may be a secret; its kind is enough.
    faults.push(
      `WECHAT_APPS_FILE cannot be used (${error instanceof SyntaxError ? 'not JSON' : errorCode(error)})`,
    )
    return []
  }
  if (!Array.isArray(parsed) || parsed.length === 0) {
    faults.push('WECHAT_APPS_FILE must hold a JSON list of {"appid", "secret"}')
    return []
  }
  const apps: App[] = []
  for (const [index, entry] of parsed.entries()) {
    try {
      apps.push(parseAppEntry(entry))
    } catch (error) {
      if (!(error instanceof AppFault)) throw error
      faults.push(`WECHAT_APPS_FILE entry ${index + 1}: ${error.message}`)
    }
  }
  return apps
}
