/** Requests of a Mini Program and of a proxy, each noted in a ledger. None of them rejects. */
import { randomBytes } from 'node:crypto'
import { Agent, request } from 'undici'
import type { Attempt, AttemptKind, Ledger } from './ledger.ts'

const ANSWER_MS_MAX = 20_000
/** Sockets to one gateway; enough for a stall of seconds at the rates that rows use. */
const CONNECTIONS_MAX = 1_024

export interface LoginRequest {
  target: string
  code: string
  openid?: string
  appid?: string
  nonce?: string | undefined
  /** The phone's address; the gateways of a stand trust the bench as their proxy. */
  ip?: string | undefined
  /** Default: now. */
  dueMs?: number | undefined
  headers?: Record<string, string>
}

export type FaultClient = ReturnType<typeof createFaultClient>

/** @param agent how it keeps its connections, where a row is about that; it is closed with the client */
export function createFaultClient(
  ledger: Ledger,
  agent = new Agent({
    connections: CONNECTIONS_MAX,
    keepAliveTimeout: 30_000,
    connect: { timeout: 5_000 },
  }),
) {
  async function send(
    kind: AttemptKind,
    target: string,
    {
      method = 'GET',
      path,
      headers = {},
      body,
      dueMs = performance.now(),
      signal,
      known = {},
    }: {
      method?: string
      path: string
      headers?: Record<string, string>
      body?: unknown
      dueMs?: number | undefined
      signal?: AbortSignal | undefined
      known?: Partial<Attempt>
    },
  ): Promise<Attempt & { body: Record<string, unknown> }> {
    const attempt: Attempt = { kind, target, atMs: dueMs, ms: 0, status: 0, isProblem: false, ...known }
    let fields: Record<string, unknown> = {}
    try {
      const answer = await request(target + path, {
        method: method as 'GET',
        headers: { ...headers, ...(body === undefined ? {} : { 'content-type': 'application/json' }) },
        body: body === undefined ? null : JSON.stringify(body),
        dispatcher: agent,
        signal: signal ?? AbortSignal.timeout(ANSWER_MS_MAX),
      })
      const text = await answer.body.text()
      attempt.status = answer.statusCode
      const type = String(answer.headers['content-type'] ?? '')
      attempt.isProblem = type.startsWith('application/problem+json')
      if (type.includes('json')) fields = JSON.parse(text) as Record<string, unknown>
      const retryAfter = answer.headers['retry-after']
      if (retryAfter !== undefined) attempt.retryAfterSeconds = Number(retryAfter)
      if (attempt.isProblem) {
        attempt.errorCode = String(fields['code'])
        attempt.retry = String(fields['retry'])
      }
    } catch (error) {
      attempt.status = 0
      const { code, name } = error as NodeJS.ErrnoException
      attempt.fault = typeof code === 'string' ? code : name // a DOMException has a number
    }
    attempt.ms = performance.now() - dueMs
    if (kind === 'login' && attempt.status === 200) {
      attempt.token = String(fields['token'])
      attempt.sub = String(fields['sub'])
    }
    ledger.note(attempt)
    return { ...attempt, body: fields }
  }

  return {
    send,
    login({ target, code, openid, appid, nonce, ip, dueMs, headers }: LoginRequest) {
      return send('login', target, {
        method: 'POST',
        path: '/login',
        dueMs,
        headers: { ...(ip === undefined ? {} : { 'x-forwarded-for': ip }), ...headers },
        body: { code, ...(appid === undefined ? {} : { appid }), ...(nonce === undefined ? {} : { nonce }) },
        known: { code, nonce, openid, appid },
      })
    },
    validate: (target: string, token: string, dueMs?: number) =>
      send('validate', target, { path: '/auth', headers: bearer(token), dueMs, known: { token } }),
    logout: (target: string, token: string) =>
      send('logout', target, {
        method: 'DELETE',
        path: '/session',
        headers: bearer(token),
        known: { token },
      }),
    close: () => agent.destroy(),
  }
}

export function newNonce(): string {
  return randomBytes(16).toString('base64url')
}

function bearer(token: string): Record<string, string> {
  return { authorization: `Bearer ${token}` }
}
