/** Jobs as they may be shown: whatever may name a person is cut short. */

const SHOWN_CHARACTERS = 4
/** Opaque, or the app's; every other text of a job, of whatever version, may name a person. */
const HARMLESS_FIELDS: ReadonlySet<string> = new Set(['sub', 'appid', 'receipt'])

/** The payload of a job, of any shape. */
export function maskJob(data: unknown): unknown {
  if (Array.isArray(data)) return data.map(maskJob)
  if (typeof data !== 'object' || data === null) return maskText(data)
  return Object.fromEntries(
    Object.entries(data).map(([name, value]) => [name, HARMLESS_FIELDS.has(name) ? value : maskJob(value)]),
  )
}

/** The first letters of a text; anything else as it is. */
export function maskText(value: unknown): unknown {
  if (typeof value !== 'string' || value.length <= SHOWN_CHARACTERS) return value
  return `${value.slice(0, SHOWN_CHARACTERS)}…`
}
