/**
 * Settings as they stand in an environment: each in its variable X, or in the file that X_FILE names.
 */
import { readFileSync } from 'node:fs'
import { SettingFault } from './setting-kinds.ts'
import { SETTINGS } from './settings.ts'
import type { SettingName, SettingValues } from './settings.ts'

export type Environment = Readonly<Record<string, string | undefined>>

/** Some of the settings, read; what is wrong with them is gathered, for the operator wants to hear it all. */
export interface Reading<Name extends SettingName> {
  readonly values: Pick<SettingValues, Name>
  readonly faults: string[]
  /** Not given at all. What was given and is faulty has its fault already, and "missing" would mislead. */
  isMissing(name: Name): boolean
}

/** Reads the variables of these names. Never throws for what the operator gave: that is a fault of the reading. */
export function readSettings<Name extends SettingName>(
  env: Environment,
  names: readonly Name[],
): Reading<Name> {
  const values: Partial<Record<SettingName, unknown>> = {}
  const given = new Set<Name>()
  const faults: string[] = []
  for (const name of names) {
    try {
      const text = readVariable(env, name)
      const value = SETTINGS[name].parse(text)
      values[name] = value
      if (text !== undefined && String(value) !== '') given.add(name) // a list may be given and be empty
    } catch (error) {
      if (!(error instanceof SettingFault)) throw error
      faults.push(`${name} ${error.message}`)
      given.add(name)
      values[name] = SETTINGS[name].parse(undefined) // so that the checks after this one can go on
    }
  }
  return { values: values as Pick<SettingValues, Name>, faults, isMissing: (name) => !given.has(name) }
}

/** X from X, or from the file that X_FILE names. Both at once is a fault, for nobody could tell which counts. */
function readVariable(env: Environment, name: string): string | undefined {
  const given = env[name]
  const file = env[`${name}_FILE`]
  if (file === undefined || file === '' || `${name}_FILE` in SETTINGS) return given === '' ? undefined : given
  if (given !== undefined && given !== '') throw new SettingFault(`is given twice, also as ${name}_FILE`)
  let text: string
  try {
    text = readFileSync(file, 'utf8').trim()
  } catch (error) {
    throw new SettingFault(`cannot be read from the file in ${name}_FILE (${errorCode(error)})`)
  }
  if (text === '') throw new SettingFault(`cannot be read from the file in ${name}_FILE (it is empty)`)
  return text
}

/** The short reason of a failed system call, such as ENOENT; its message could quote what was read. */
export function errorCode(error: unknown): string {
  return (error as NodeJS.ErrnoException).code ?? 'unreadable'
}
