/** A Mini Program's side of the wire, reduced to what tests ask: status, headers, JSON body. */
import { Agent, request } from 'undici'

export interface Reply {
  status: number
  headers: Record<string, string | string[] | undefined>
  /** Parsed when it is JSON; the text otherwise. */
  body: ReplyBody
  text: string
}

/** Fields that tests look at; which of them are there is what the tests find out. */
export interface ReplyBody {
  [field: string]: unknown
  token: string
  sub: string
  openid: string
  unionid?: string
  provisioned: boolean
  user_id?: string
  expires_in: number
  code: string
  retry: string
  errcode?: number
  sessions: { id: string; device: string; current: boolean; issued_at: number; expires_in: number }[]
}

export interface LoginInput {
  code: string
  appid?: string
  nonce?: string
}

const REPLY_TIMEOUT_MS = 20_000

export function createClient(baseUrl: string) {
  const agent = new Agent({ connections: 256, keepAliveTimeout: 10_000 })

  async function send(
    method: string,
    path: string,
    options: { headers?: Record<string, string>; body?: string } = {},
  ): Promise<Reply> {
    const { statusCode, headers, body } = await request(baseUrl + path, {
      method: method as 'GET',
      headers: options.headers ?? {},
      body: options.body ?? null,
      dispatcher: agent,
      signal: AbortSignal.timeout(REPLY_TIMEOUT_MS),
    })
    const text = await body.text()
    return { status: statusCode, headers, body: parse(text), text }
  }

  return {
    send,
    login: (input: LoginInput, headers: Record<string, string> = {}) =>
      send('POST', '/login', {
        headers: { 'content-type': 'application/json', ...headers },
        body: JSON.stringify(input),
      }),
    get: (path: string, token?: string) => send('GET', path, { headers: bearer(token) }),
    delete: (path: string, token?: string) => send('DELETE', path, { headers: bearer(token) }),
    /** Sends JSON. */
    post: (path: string, body: unknown, token?: string) =>
      send('POST', path, {
        headers: { 'content-type': 'application/json', ...bearer(token) },
        body: JSON.stringify(body),
      }),
    close: () => agent.destroy(),
  }
}

export type Client = ReturnType<typeof createClient>

function bearer(token: string | undefined): Record<string, string> {
  return token === undefined ? {} : { authorization: `Bearer ${token}` }
}

function parse(text: string): ReplyBody {
  try {
    return JSON.parse(text) as ReplyBody
  } catch {
    return text as unknown as ReplyBody
  }
}
