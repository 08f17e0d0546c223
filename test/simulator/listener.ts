/**
 * The WeChat side: one HTTP or HTTPS listener, from the raw request to the recorded answer.
 *
 * A request goes this way: read → record → meet faults on the way in → decide (one synchronous step) →
 * meet faults on the way out → answer. Without fault rules all of it happens in the turn in which the
 * request arrived, which keeps the simulator fast enough to be the upstream of a benchmark.
 */
import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { createServer as createHttpServer } from 'node:http'
import { createServer as createHttpsServer } from 'node:https'
import type { Answer, Answers } from './answers.ts'
import type { Call, Endpoint } from './calls.ts'
import type { Fault, Faults } from './faults.ts'
import type { History, HistoryEntry, Outcome } from './history.ts'
import { styleOf } from './answers.ts'
import { parseTarget } from './calls.ts'
import { isObject } from './fields.ts'
import { drawDelayMs } from './faults.ts'
import { playFault, send } from './mischief.ts'

/** WeChat's own limit is unknown; a login needs some hundred bytes. */
const BODY_BYTES_MAX = 65_536

export interface WechatListenerSettings {
  /** The key and certificate (PEM) of an https listener; without, plain http. */
  tls?: { key: string; cert: string }
  /** How long an unused connection stays open, announced to the client in Keep-Alive. */
  keepAliveTimeoutMs: number
}

/** What goes on at the moment and what has, since the start. */
export interface TrafficStats {
  connections: { open: number; total: number; refused: number }
  requests: { inFlight: number; total: number }
}

export function createWechatListener(
  {
    endpoints,
    answers,
    faults,
    history,
    now,
  }: {
    endpoints: Readonly<Record<string, Endpoint>>
    answers: Answers
    faults: Faults
    history: History
    now: () => number
  },
  { tls, keepAliveTimeoutMs }: WechatListenerSettings,
) {
  // The TCP sockets by the caller's address: under TLS a request knows only the socket above, which
  // cannot send a reset.
  const sockets = new Map<string, Socket>()
  const stats = { connections: 0, refused: 0, inFlight: 0, requests: 0 }

  const server: Server = tls ? createHttpsServer(tls, receive) : createHttpServer(receive)
  server.keepAliveTimeout = keepAliveTimeoutMs
  server.on('connection', (socket: Socket) => {
    stats.connections += 1
    const address = nameOf(socket)
    sockets.set(address, socket)
    socket.once('close', () => {
      // The port may have a new connection already.
      if (sockets.get(address) === socket) sockets.delete(address)
    })
    const fault = faults.matchConnection(plainIp(socket.remoteAddress))
    if (!fault) return
    stats.refused += 1
    if (fault.action.kind === 'close') socket.destroy()
    else socket.resetAndDestroy()
  })

  function receive(request: IncomingMessage, response: ServerResponse): void {
    stats.requests += 1
    stats.inFlight += 1
    response.once('close', () => {
      stats.inFlight -= 1
    })
    if (request.method === 'GET' || request.method === 'HEAD') {
      exchange(request, response, undefined)
      return
    }
    // As reported from the field: a body of unannounced length is refused before anything looks at it.
    if (request.headers['content-length'] === undefined) {
      turnAway(request, response, 412)
      return
    }
    readBody(request, response)
  }

  function readBody(request: IncomingMessage, response: ServerResponse): void {
    const chunks: Buffer[] = []
    let size = 0
    request.on('data', (chunk: Buffer) => {
      size += chunk.length
      if (size <= BODY_BYTES_MAX) chunks.push(chunk)
    })
    request.once('end', () => {
      if (size > BODY_BYTES_MAX) turnAway(request, response, 413)
      else exchange(request, response, parseBody(Buffer.concat(chunks).toString()))
    })
  }

  function turnAway(request: IncomingMessage, response: ServerResponse, status: 412 | 413): void {
    const call = readCall(request, undefined)
    const nobody = { appid: null, code: null, openid: null, secretRight: null }
    const entry = record(request, response, call, nobody)
    history.settle(entry, `http_${status}`)
    // The rest of the body is not worth reading, so the connection cannot be used again.
    send(response, { status, contentType: '', body: '' }, { connection: 'close' })
  }

  function exchange(request: IncomingMessage, response: ServerResponse, body: Call['body']): void {
    const call = readCall(request, body)
    const endpoint = Object.hasOwn(endpoints, call.path) ? endpoints[call.path] : undefined
    const identity = endpoint?.identify(call) ?? { appid: null, code: null, openid: null, secretRight: null }
    const entry = record(request, response, call, identity)

    const decide = (): Answer => {
      const answer = endpoint ? endpoint.answer(call) : answers.failure('api', 40066)
      entry.decided = answer.outcome
      return answer
    }
    const met = faults.match({ ...identity, path: call.path, ip: call.ip })
    if (met) {
      void meetFaults({ response, entry, call, decide, ...met })
      return
    }
    const answer = decide()
    history.settle(entry, answer.outcome)
    send(response, answer)
  }

  async function meetFaults(meeting: {
    response: ServerResponse
    entry: HistoryEntry
    call: Call
    decide: () => Answer
    delay: Fault | undefined
    fault: Fault | undefined
  }): Promise<void> {
    const { response, entry, call, decide, delay, fault } = meeting
    const { socket } = response
    entry.fault = (fault ?? delay)?.action.kind ?? null

    if (delay && !delay.decided) await wait(response, delay)
    if (fault?.action.kind === 'hold' && !fault.decided) await hold(response, fault)
    // A request that was lost on its way in: WeChat has never seen it.
    if (response.destroyed || !socket) return history.settle(entry, 'gone')

    const replaced = fault && fault.action.kind !== 'hold' && !fault.decided
    let answer = replaced ? undefined : decide()
    if (fault?.action.kind === 'errcode') {
      answer = answers.failure(styleOf(call.path), fault.action.errcode, fault.action.errmsg)
    }

    if (delay?.decided) await wait(response, delay)
    if (fault?.action.kind === 'hold' && fault.decided) await hold(response, fault)
    if (response.destroyed) return history.settle(entry, 'gone')

    if (!fault) {
      if (!answer) return
      history.settle(entry, answer.outcome)
      return send(response, answer)
    }
    history.settle(entry, outcomeOf(fault, answer))
    playFault({ response, socket: sockets.get(nameOf(socket)) ?? socket }, fault, answer)
  }

  function hold(response: ServerResponse, { ruleId }: Fault): Promise<void> {
    return faults.hold(ruleId, (leave) => response.once('close', leave))
  }

  function record(
    request: IncomingMessage,
    response: ServerResponse,
    call: Call,
    identity: ReturnType<Endpoint['identify']>,
  ): HistoryEntry {
    const startedMs = performance.now()
    const entry = history.begin({
      receivedAt: now(),
      method: call.method,
      path: call.path,
      parameters: call.query.names,
      bodyParameters: call.body ? Object.keys(call.body) : [],
      ip: call.ip,
      remotePort: request.socket.remotePort ?? 0,
      ...identity,
    })
    response.once('close', () => {
      entry.durationMs = performance.now() - startedMs
      entry.answered = response.writableFinished
    })
    return entry
  }

  return {
    server,
    stats: (): TrafficStats => ({
      connections: { open: sockets.size, total: stats.connections, refused: stats.refused },
      requests: { inFlight: stats.inFlight, total: stats.requests },
    }),
    /** Cuts every connection, whatever it is in the middle of. */
    cutConnections(): void {
      for (const socket of sockets.values()) socket.destroy()
    },
  }
}

/** Waits as the delay rule says, but not longer than the client does. */
function wait(response: ServerResponse, { action, random }: Fault): Promise<void> {
  const ms = action.kind === 'delay' ? drawDelayMs(action, random) : 0
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms)
    response.once('close', () => {
      clearTimeout(timer)
      resolve()
    })
  })
}

/** What the history says of a request that met a fault other than a delay. */
function outcomeOf({ action }: Fault, answer: Answer | undefined): Outcome {
  const isAnswered = action.kind === 'hold' || action.kind === 'errcode'
  return isAnswered && answer ? answer.outcome : action.kind
}

function readCall(request: IncomingMessage, body: Call['body']): Call {
  const { path, query } = parseTarget(request.url ?? '/')
  return { method: request.method ?? '', path, query, body, ip: plainIp(request.socket.remoteAddress) }
}

function parseBody(text: string): Call['body'] {
  try {
    const body: unknown = JSON.parse(text)
    return isObject(body) ? body : undefined
  } catch {
    // Not JSON: the endpoint answers 47001, as it does for a list or a number.
    return undefined
  }
}

function plainIp(address: string | undefined): string {
  return (address ?? '').replace(/^::ffff:/, '')
}

function nameOf({ remoteAddress, remotePort }: Socket): string {
  return `${remoteAddress} ${remotePort}`
}
