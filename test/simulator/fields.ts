/**
 * Reads what a test tells the simulator, strictly: an unknown field or a value out of range is an
 * InputError that names the field and what it takes. A misspelt fault rule that silently never matches
 * would make a test pass for the wrong reason.
 */

/** What was asked of the simulator makes no sense; the control port answers it with 400. */
export class InputError extends Error {
  override name = 'InputError'
}

/** Checks one value; throws an InputError that begins with the field's name. */
export type Reader<T> = (value: unknown, name: string) => T

/** The fields of one input, each with its reader. */
export type Fields = Record<string, Reader<unknown>>

/** The reader of a field that may not be left out. */
export type Must<T> = Reader<T> & { readonly must: true }

/** What readFields returns: a field is optional unless its reader is a Must. */
export type Read<F extends Fields> = {
  [K in keyof F as F[K] extends Must<unknown> ? never : K]?: ReturnType<F[K]>
} & { [K in keyof F as F[K] extends Must<unknown> ? K : never]: ReturnType<F[K]> }

/** Reads an object of known fields. `where` opens the message ("POST /codes"). */
export function readFields<F extends Fields>(input: unknown, where: string, fields: F): Read<F> {
  if (!isObject(input)) throw new InputError(`${where} takes a JSON object`)
  const read: Record<string, unknown> = {}
  for (const [name, value] of Object.entries(input)) {
    const reader = Object.hasOwn(fields, name) ? fields[name] : undefined
    if (!reader) {
      throw new InputError(`${where} does not know "${name}"; it takes ${Object.keys(fields).join(', ')}`)
    }
    if (value !== undefined) read[name] = reader(value, `${where}: ${name}`)
  }
  for (const [name, reader] of Object.entries(fields)) {
    if ('must' in reader && !(name in read)) throw new InputError(`${where}: ${name} is missing`)
  }
  // Every field was read by its own reader and the obligatory ones are there, which is what Read<F> says.
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion
  return read as Read<F>
}

/** Makes a field obligatory. */
export function must<T>(reader: Reader<T>): Must<T> {
  return Object.assign((value: unknown, name: string) => reader(value, name), { must: true } as const)
}

/** Whether the value is a JSON object (not a list, not null). */
export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** A text of 1 (or `min`) to `max` characters. */
export function text(max: number, min = 1): Reader<string> {
  return (value, name) => {
    if (typeof value === 'string' && value.length >= min && value.length <= max) return value
    throw new InputError(`${name} must be a text of ${min} to ${max} characters`)
  }
}

/** A whole number between `min` and `max`. */
export function integer(min: number, max: number): Reader<number> {
  return (value, name) => {
    if (typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max) return value
    throw new InputError(`${name} must be a whole number from ${min} to ${max}`)
  }
}

/** A number between `min` and `max`. */
export function number(min: number, max: number): Reader<number> {
  return (value, name) => {
    if (typeof value === 'number' && value >= min && value <= max) return value
    throw new InputError(`${name} must be a number from ${min} to ${max}`)
  }
}

/** true or false. */
export const flag: Reader<boolean> = (value, name) => {
  if (typeof value === 'boolean') return value
  throw new InputError(`${name} must be true or false`)
}

/** One of the listed values. */
export function oneOf<const T extends string | number>(...allowed: T[]): Reader<T> {
  return (value, name) => {
    const found = allowed.find((candidate) => candidate === value)
    if (found !== undefined) return found
    throw new InputError(`${name} must be one of ${allowed.join(', ')}`)
  }
}

/** null, or what the reader takes. */
export function nullable<T>(reader: Reader<T>): Reader<T | null> {
  return (value, name) => (value === null ? null : reader(value, name))
}

/** A list of 0 to `max` values. */
export function listOf<T>(reader: Reader<T>, max: number): Reader<T[]> {
  return (value, name) => {
    if (!Array.isArray(value) || value.length > max) {
      throw new InputError(`${name} must be a list of at most ${max}`)
    }
    return value.map((item: unknown, index) => reader(item, `${name}[${index}]`))
  }
}

/** Any JSON object. */
export const object: Reader<Record<string, unknown>> = (value, name) => {
  if (isObject(value)) return value
  throw new InputError(`${name} must be a JSON object`)
}

/** An object of texts, such as HTTP headers. */
export const texts: Reader<Record<string, string>> = (value, name) => {
  const entries = Object.entries(object(value, name))
  const read = text(65_536, 0)
  return Object.fromEntries(entries.map(([key, item]) => [key, read(item, `${name}.${key}`)]))
}
