/**
 * One attempt to deliver: a POST by Standard Webhooks 1.0.0, to the public internet and nowhere else.
 * https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
 *
 * What keeps it out of private networks stands at the connection: an address that the guard forbids is not connected
 * to, whether it stood in the URL or came from DNS, and whatever DNS said a moment before. No redirect is followed,
 * and no proxy of the environment is used. A DNS that hangs costs an attempt its time, and the others nothing
 * (src/lookup.ts).
 */
import { createHmac } from 'node:crypto'
import { Agent as HttpAgent, request as httpRequest } from 'node:http'
import type { IncomingMessage, RequestOptions } from 'node:http'
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https'
import { isIP } from 'node:net'
import type { LookupFunction } from 'node:net'
import type { AddressGuard } from '../../src/address-guard.ts'
import type { Lookup } from '../../src/lookup.ts'
import type { Secret } from '../../src/secret.ts'
import type { WebhookEndpoint } from '../../src/webhook-endpoints.ts'

/** All of it: name, connection, TLS, request, and the answer's headers. */
const TIMEOUT_MS = 15_000
/** An answer's body is of no interest; it is read for so long, so that the connection can serve again. */
const BODY_MS = 1_000
const BODY_BYTES_MAX = 64 * 1024
const HEADER_BYTES_MAX = 16 * 1024
/** Of an idle connection: below what servers usually grant. */
const IDLE_MS = 4_000

export type Answer =
  | { readonly kind: 'answered'; readonly status: number; readonly retryAfterSeconds: number | undefined }
  | { readonly kind: 'failed'; readonly reason: FailureReason }

/** forbidden: the guard refused every or any address. network: refused, reset, no such name, no valid answer. */
export type FailureReason = 'timeout' | 'forbidden' | 'tls' | 'network'

export interface Poster {
  /** Sends a message once. Never rejects; the answer quotes nothing of the other side. */
  post(message: { id: string; payload: string }): Promise<Answer>
  /** Breaks off what is still being sent. */
  close(): void
}

export interface PosterDeps {
  readonly guard: AddressGuard
  /** One for all posters: it bounds how many questions are open. */
  readonly lookup: Lookup
  readonly timeoutMs?: number
}

/** Builds it, with connections of its own that go on serving. */
export function createPoster(
  endpoint: Pick<WebhookEndpoint, 'url' | 'secrets' | 'concurrency'>,
  { guard, lookup, timeoutMs = TIMEOUT_MS }: PosterDeps,
): Poster {
  const url = new URL(endpoint.url)
  const isHttps = url.protocol === 'https:'
  const agentOptions = { keepAlive: true, maxSockets: endpoint.concurrency, timeout: IDLE_MS }
  const agent = isHttps ? new HttpsAgent(agentOptions) : new HttpAgent(agentOptions)
  const send = isHttps ? httpsRequest : httpRequest
  const closing = new AbortController()
  const host = url.hostname.replace(/^\[(.*)\]$/, '$1')

  return {
    async post({ id, payload }) {
      // Of an address that stands in the URL itself the lookup is not asked.
      if (isIP(host) !== 0 && guard(host)) return { kind: 'failed', reason: 'forbidden' }
      const body = Buffer.from(payload)
      const timestamp = Math.floor(Date.now() / 1_000).toString()
      const signal = AbortSignal.any([closing.signal, AbortSignal.timeout(timeoutMs)])
      const options: RequestOptions = {
        method: 'POST',
        agent,
        signal,
        lookup: guardedLookup(guard, lookup),
        maxHeaderSize: HEADER_BYTES_MAX,
        headers: {
          'content-type': 'application/json',
          'content-length': body.length,
          'user-agent': 'wechat-login-gateway',
          'webhook-id': id,
          'webhook-timestamp': timestamp,
          'webhook-signature': sign(endpoint.secrets, `${id}.${timestamp}.`, body),
        },
      }
      try {
        const response = await new Promise<IncomingMessage>((resolve, reject) => {
          const request = send(url, options, resolve)
          request.on('error', reject)
          request.end(body)
        })
        discardBody(response)
        const status = response.statusCode ?? 0
        return { kind: 'answered', status, retryAfterSeconds: retryAfterOf(response) }
      } catch (error) {
        lookup.doubt(host)
        return { kind: 'failed', reason: reasonOf(error) }
      }
    },
    close() {
      closing.abort()
      agent.destroy()
    },
  }
}

/** One signature for each secret, over the very bytes of the body. */
export function sign(secrets: readonly Secret<Buffer>[], prefix: string, body: Buffer): string {
  return secrets
    .map((secret) => {
      const mac = createHmac('sha256', secret.reveal()).update(prefix).update(body).digest('base64')
      return `v1,${mac}`
    })
    .join(' ')
}

class ForbiddenAddress extends Error {
  override readonly name = 'ForbiddenAddress'
}

/** What is connected to is what was judged: net.connect() gets its addresses from here. */
function guardedLookup(guard: AddressGuard, { find }: Lookup): LookupFunction {
  return (hostname, options, callback) => {
    find(hostname, { ...options, all: true }, (error, found) => {
      if (error !== null) return callback(error, [])
      const addresses = Array.isArray(found) ? found : []
      const [first] = addresses
      // A name that leads to a forbidden address as well as to others is not trusted with either.
      if (first === undefined || addresses.some(({ address }) => guard(address)))
        return callback(new ForbiddenAddress(), [])
      if (options.all) callback(null, addresses)
      else callback(null, first.address, first.family)
    })
  }
}

function discardBody(response: IncomingMessage): void {
  const giveUp = () => response.destroy()
  const timer = setTimeout(giveUp, BODY_MS)
  let bytes = 0
  response.on('data', (chunk: Buffer) => {
    bytes += chunk.length
    if (bytes > BODY_BYTES_MAX) giveUp()
  })
  response.on('error', () => {}) // it was destroyed, or broke off: its status has been heard
  response.on('close', () => clearTimeout(timer))
}

/** Retry-After in either of its forms (RFC 9110, 10.2.3). */
function retryAfterOf({ headers }: IncomingMessage): number | undefined {
  const text = headers['retry-after']
  if (text === undefined) return undefined
  const seconds = /^\d{1,9}$/.test(text) ? Number(text) : (Date.parse(text) - Date.now()) / 1_000
  return Number.isFinite(seconds) ? Math.max(0, seconds) : undefined
}

function reasonOf(error: unknown): FailureReason {
  const {
    name = '',
    code = '',
    errors,
  } = (error ?? {}) as {
    name?: string
    code?: string
    errors?: readonly unknown[]
  }
  if (name === 'ForbiddenAddress' || errors?.some((each) => reasonOf(each) === 'forbidden'))
    return 'forbidden'
  if (name === 'AbortError' || name === 'TimeoutError' || code === 'ETIMEDOUT') return 'timeout'
  const isTls = /^ERR_(TLS|SSL)_|^EPROTO$|CERT|SELF_SIGNED|^UNABLE_TO_(GET|VERIFY)/.test(code)
  return isTls ? 'tls' : 'network'
}
