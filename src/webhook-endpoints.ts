/**
 * WEBHOOKS_FILE: who is told of which events, as a JSON list.
 *
 *   {name, url, secrets: [newest, older], events?, include_openid?, concurrency?}
 *
 * A name is a metric's label and stands in the database, so it must not change while deliveries wait.
 */
import { readFileSync } from 'node:fs'
import { isIP } from 'node:net'
import { createAddressGuard } from './address-guard.ts'
import type { AddressGuard } from './address-guard.ts'
import { errorCode } from './reading.ts'
import type { Reading } from './reading.ts'
import { Secret } from './secret.ts'

/** What an endpoint may be called. */
export const ENDPOINT_NAME = /^[a-z0-9][a-z0-9_-]{0,39}$/

/** Everything that is told. An endpoint that names no events gets all but user.login, which there are many of. */
export const EVENT_TYPES = [
  'user.created',
  'user.linked',
  'user.merged',
  'user.login',
  'user.unlinked',
  'user.erased',
  'session.revoked',
] as const
export type EventType = (typeof EVENT_TYPES)[number]
const UNASKED_EVENT_TYPES = EVENT_TYPES.filter((type) => type !== 'user.login')

export interface WebhookEndpoint {
  readonly name: string
  readonly url: string
  /** Each signs, so that a receiver may know either while one is being rotated. */
  readonly secrets: readonly Secret<Buffer>[]
  readonly events: ReadonlySet<EventType>
  /** Whether appid, openid and unionid are in what it gets. */
  readonly includeOpenid: boolean
  /** Deliveries that one worker makes to it at once. */
  readonly concurrency: number
}

export interface WebhooksConfig {
  readonly endpoints: readonly WebhookEndpoint[]
  /** Networks that are private and yet may be delivered to, CIDR. */
  readonly privateNetworks: readonly string[]
}

/** What readWebhooks() reads. */
export const WEBHOOK_SETTINGS = ['WEBHOOKS_FILE', 'WEBHOOK_PORTS', 'WEBHOOK_PRIVATE_NETWORKS'] as const

const ENDPOINTS_MAX = 20
const SECRETS_MAX = 3
/** As Standard Webhooks has it. */
const SECRET_PREFIX = 'whsec_'
const SECRET_BYTES_MIN = 24
const SECRET_BYTES_MAX = 64
/** A random secret of 24 bytes has fewer different ones about once in 10^16. */
const SECRET_DISTINCT_MIN = 8
const CONCURRENCY_DEFAULT = 8
const CONCURRENCY_MAX = 64
const URL_LENGTH_MAX = 2_048
const FIELDS: ReadonlySet<string> = new Set([
  'name',
  'url',
  'secrets',
  'events',
  'include_openid',
  'concurrency',
])

/** What is wrong with an entry, in words that hold nothing of it. */
class EndpointFault extends Error {}

/** What the settings say of webhooks; what is wrong with them is added to the faults, which quote nothing. */
export function readWebhooks(
  { values, faults }: Reading<(typeof WEBHOOK_SETTINGS)[number]>,
  production: boolean,
): WebhooksConfig {
  const { WEBHOOKS_FILE: file, WEBHOOK_PRIVATE_NETWORKS: privateNetworks } = values
  const guard = createAddressGuard(privateNetworks)
  if (production && !guard('127.0.0.1'))
    faults.push('WEBHOOK_PRIVATE_NETWORKS permits loopback, which NODE_ENV=production does not accept')
  const ports = new Set(values.WEBHOOK_PORTS)
  const endpoints: WebhookEndpoint[] = []
  for (const [index, entry] of (file === undefined ? [] : readEntries(file, faults)).entries()) {
    try {
      const endpoint = parseEndpoint(entry, { guard, ports })
      if (endpoints.some(({ name }) => name === endpoint.name))
        throw new EndpointFault('repeats the name of another')
      endpoints.push(endpoint)
    } catch (error) {
      if (!(error instanceof EndpointFault)) throw error
      faults.push(`WEBHOOKS_FILE entry ${index + 1}: ${error.message}`)
    }
  }
  return { endpoints, privateNetworks }
}

function readEntries(path: string, faults: string[]): unknown[] {
  let parsed: unknown
  try {
    parsed = JSON.parse(readFileSync(path, 'utf8'))
  } catch (error) {
    // A JSON error quotes the text around it, which may be a secret; its kind is enough.
    const why = error instanceof SyntaxError ? 'not JSON' : errorCode(error)
    faults.push(`WEBHOOKS_FILE cannot be used (${why})`)
    return []
  }
  if (Array.isArray(parsed) && parsed.length <= ENDPOINTS_MAX) return parsed
  faults.push(`WEBHOOKS_FILE must hold a JSON list of at most ${ENDPOINTS_MAX} of {"name", "url", "secrets"}`)
  return []
}

interface Permitted {
  readonly guard: AddressGuard
  readonly ports: ReadonlySet<string>
}

/** @throws {EndpointFault} */
function parseEndpoint(entry: unknown, permitted: Permitted): WebhookEndpoint {
  if (typeof entry !== 'object' || entry === null || Array.isArray(entry))
    throw new EndpointFault('must be an object')
  const fields = entry as Record<string, unknown>
  const unknown = Object.keys(fields).filter((name) => !FIELDS.has(name)).length
  if (unknown > 0) throw new EndpointFault(`has a field that is none of ${[...FIELDS].join(', ')}`)
  const { name, include_openid: includeOpenid = false, concurrency = CONCURRENCY_DEFAULT } = fields
  if (typeof name !== 'string' || !ENDPOINT_NAME.test(name))
    throw new EndpointFault('name must be up to 40 of a-z 0-9 _ -')
  if (typeof includeOpenid !== 'boolean') throw new EndpointFault('include_openid must be true or false')
  if (
    typeof concurrency !== 'number' ||
    !Number.isInteger(concurrency) ||
    concurrency < 1 ||
    concurrency > CONCURRENCY_MAX
  )
    throw new EndpointFault(`concurrency must be a whole number from 1 to ${CONCURRENCY_MAX}`)
  return {
    name,
    url: parseUrl(fields['url'], permitted),
    secrets: parseSecrets(fields['secrets']),
    events: new Set(parseEvents(fields['events'])),
    includeOpenid,
    concurrency,
  }
}

function parseUrl(text: unknown, { guard, ports }: Permitted): string {
  const isSound = typeof text === 'string' && text.length <= URL_LENGTH_MAX && URL.canParse(text)
  if (!isSound) throw new EndpointFault('url must be an address that begins with https://')
  const url = new URL(text)
  const host = hostOf(url)
  if (url.username !== '' || url.password !== '')
    throw new EndpointFault('url must hold neither user nor password')
  if (url.protocol === 'http:' ? !isLoopbackPermitted(host, guard) : url.protocol !== 'https:')
    throw new EndpointFault('url must begin with https://')
  const port = url.port === '' ? (url.protocol === 'https:' ? '443' : '80') : url.port
  if (!ports.has(port)) throw new EndpointFault('url has a port that is not in WEBHOOK_PORTS')
  // A name is judged by the address that it leads to, when it is connected to.
  if (isIP(host) !== 0 && guard(host))
    throw new EndpointFault('url leads to an address that is not public (WEBHOOK_PRIVATE_NETWORKS)')
  return url.href
}

/** URL has made one of all the ways to write an address: decimal, octal, hexadecimal, shortened. */
function hostOf({ hostname }: URL): string {
  return hostname.replace(/^\[(.*)\]$/, '$1')
}

/** Without encryption only to this machine, and only where somebody has said so. */
function isLoopbackPermitted(host: string, guard: AddressGuard): boolean {
  if (host === 'localhost') return !guard('127.0.0.1')
  return (host === '::1' || (isIP(host) === 4 && host.startsWith('127.'))) && !guard(host)
}

function parseSecrets(given: unknown): Secret<Buffer>[] {
  const isList = Array.isArray(given) && given.length >= 1 && given.length <= SECRETS_MAX
  if (!isList) throw new EndpointFault(`secrets must be a list of 1 to ${SECRETS_MAX}`)
  return given.map((text: unknown) => {
    const encoded =
      typeof text === 'string' && text.startsWith(SECRET_PREFIX) ? text.slice(SECRET_PREFIX.length) : ''
    const bytes = /^[A-Za-z0-9+/]+={0,2}$/.test(encoded) ? Buffer.from(encoded, 'base64') : Buffer.alloc(0)
    const { length } = bytes
    if (length < SECRET_BYTES_MIN || length > SECRET_BYTES_MAX || new Set(bytes).size < SECRET_DISTINCT_MIN)
      throw new EndpointFault(
        'each of secrets must be whsec_ and the base64 of 24 to 64 random bytes; `echo whsec_$(openssl rand -base64 32)` makes one',
      )
    return new Secret(bytes)
  })
}

function parseEvents(given: unknown = UNASKED_EVENT_TYPES): readonly EventType[] {
  const isKnown = (type: unknown): type is EventType => EVENT_TYPES.includes(type as EventType)
  if (!Array.isArray(given) || given.length === 0 || !given.every(isKnown))
    throw new EndpointFault(`events must be a list of ${EVENT_TYPES.join(', ')}`)
  return given
}
