/**
 * A plain HTTP client for the simulator's own tests: it shows what came over the wire and judges nothing.
 *
 * One request is one call of undici's request(), without retries, redirects or decompression. The agent
 * belongs to the test and is closed with it.
 */
import { Agent, request } from 'undici'
import { DEFAULT_APP } from './platform.ts'
import type { Simulator } from './server.ts'

/** An answer as it was received. */
export interface Received {
  status: number
  contentType: string | undefined
  headers: Record<string, string | string[] | undefined>
  /** The body as it was sent, not decompressed. */
  bytes: Buffer
  /** The body as text, a byte order mark included. */
  text: string
}

/** A query; what is undefined is left out. */
export type Parameters = Record<string, string | undefined>

export type Client = ReturnType<typeof createClient>

/** A client that knows the default app. Parameters set to undefined are left out. */
export function createClient(
  simulator: Simulator,
  { ca, connections }: { ca?: string; connections?: number } = {},
) {
  const agent = new Agent({
    ...(ca !== undefined && { connect: { ca } }),
    ...(connections !== undefined && { connections }),
    allowH2: false,
  })

  async function send(
    url: string,
    options: {
      method?: 'GET' | 'POST' | 'PUT' | 'DELETE'
      body?: string
      headers?: Record<string, string>
      signal?: AbortSignal
    } = {},
  ): Promise<Received> {
    const { statusCode, headers, body } = await request(url, { method: 'GET', ...options, dispatcher: agent })
    const contentType = headers['content-type']
    const bytes = Buffer.from(await body.arrayBuffer())
    return {
      status: statusCode,
      contentType: Array.isArray(contentType) ? contentType.join() : contentType,
      headers,
      bytes,
      text: bytes.toString(),
    }
  }

  const get = (path: string, parameters: Parameters, signal?: AbortSignal): Promise<Received> =>
    send(`${simulator.url}${path}?${writeQuery(parameters)}`, { ...(signal && { signal }) })

  return {
    agent,
    send,
    get,
    post: (path: string, body: unknown): Promise<Received> =>
      send(`${simulator.url}${path}`, { method: 'POST', body: JSON.stringify(body) }),
    /** code2Session with the default app's credentials, unless others are given. */
    exchange: (code: string | undefined, parameters: Parameters = {}, signal?: AbortSignal) =>
      get('/sns/jscode2session', { ...exchangeParameters(code), ...parameters }, signal),
    async control(method: 'GET' | 'POST' | 'PUT' | 'DELETE', path: string, body?: unknown) {
      const { status, text } = await send(`${simulator.controlUrl}${path}`, {
        method,
        ...(body !== undefined && { body: JSON.stringify(body) }),
      })
      return { status, content: parse(text) }
    },
    close: () => agent.destroy(),
  }
}

/** The parameters of a right code2Session call by the default app. */
export function exchangeParameters(code: string | undefined): Parameters {
  return {
    appid: DEFAULT_APP.appid,
    secret: DEFAULT_APP.secret,
    js_code: code,
    grant_type: 'authorization_code',
  }
}

/** The fields of a JSON text. */
export function parse(text: string): Record<string, unknown> {
  const fields: unknown = JSON.parse(text)
  if (typeof fields !== 'object' || fields === null) throw new Error(`not a JSON object: ${text}`)
  return { ...fields }
}

/** A query string without the parameters that are undefined. */
export function writeQuery(parameters: Parameters): string {
  return Object.entries(parameters)
    .filter(([, value]) => value !== undefined)
    .map(([name, value = '']) => `${name}=${encodeURIComponent(value)}`)
    .join('&')
}
