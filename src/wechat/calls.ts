/**
 * One HTTP call to WeChat, with everything about it bounded, and with an honest account of a failure:
 * could WeChat have seen the request? On that depends whether a code may be sent again.
 *
 * The address of a call holds AppSecret and code, or an access_token, so it is a secret: CallError is made
 * from scratch and carries neither undici's error nor anything of the request.
 */
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import type { Socket } from 'node:net'
import { Agent, buildConnector } from 'undici'
import type { DiagnosticsChannel } from 'undici'
import { msUntilLate } from '../deadline.ts'
import { SLOTS } from './bulkhead.ts'
import { createLookup } from '../lookup.ts'
import type { Lookup } from '../lookup.ts'

/** One for each slot of the bulkhead: who has a slot has a connection. */
const CONNECTIONS_PER_HOST = SLOTS
const CONNECT_TIMEOUT_MS = 1_500
/**
 * Of several addresses the next is tried after so long. Node's own 250 ms give up a good route that is far away
 * (nodejs/node#54359).
 */
const ATTEMPT_TIMEOUT_MS = 500
/** However busy it is, a connection is replaced after so long: the name may have another address by then. */
const CONNECTION_MS_MAX = 30_000
/** Below the idle time after which servers commonly close, so that we seldom write to a closing socket. */
const KEEP_ALIVE_MS = 4_000
/** A login's answer has about 150 bytes. */
const BODY_BYTES_MAX = 65_536

const HEADERS = { accept: 'application/json', 'accept-encoding': 'identity' }
const JSON_HEADERS = { ...HEADERS, 'content-type': 'application/json; charset=utf-8' }

export type CallFailure =
  | 'unreachable' // DNS, connect or TLS failed, or there was no connection in time
  | 'timeout' // the deadline passed while WeChat was at it
  | 'reset' // the connection broke
  | 'oversize' // the answer was larger than any real one

/** A call that brought no answer. Its message is safe to log. */
export class CallError extends Error {
  readonly failure: CallFailure
  /** False only when not a byte of the request can have left this process. */
  readonly sent: boolean
  /**
   * The socket had served an earlier request and broke before a byte of the answer: the server had most
   * likely closed it for idleness and never saw this request.
   */
  readonly staleSocket: boolean

  constructor(
    failure: CallFailure,
    { sent, staleSocket, reason }: { sent: boolean; staleSocket: boolean; reason: string },
  ) {
    super(`${failure}: ${reason}`)
    this.name = 'CallError'
    this.failure = failure
    this.sent = sent
    this.staleSocket = staleSocket
  }
}

export interface Answer {
  status: number
  body: string
}

export interface Calls {
  /** @throws {CallError} and nothing else */
  get(origin: string, pathAndQuery: string, deadline: AbortSignal): Promise<Answer>
  /**
   * Sends a JSON text, with its length announced: WeChat answers 412 to a body in chunks.
   * @throws {CallError} and nothing else
   */
  post(origin: string, pathAndQuery: string, json: string, deadline: AbortSignal): Promise<Answer>
  close(): Promise<void>
}

/** Opens no connection before the first call. */
export function createCalls({ lookup = createLookup() }: { lookup?: Lookup } = {}): Calls {
  const staleness = watchSockets(lookup)
  const agent = new Agent({
    connections: CONNECTIONS_PER_HOST,
    pipelining: 1,
    allowH2: false, // one known behaviour; HTTP/2 is undici's default
    keepAliveTimeout: KEEP_ALIVE_MS,
    keepAliveMaxTimeout: KEEP_ALIVE_MS,
    clientTtl: CONNECTION_MS_MAX,
    maxResponseSize: BODY_BYTES_MAX,
    // The deadline covers everything; undici's own timers are coarse and do not see a trickle.
    headersTimeout: 0,
    bodyTimeout: 0,
    connect: staleness.connector,
  })

  return {
    get: (origin, path, deadline) => send({ origin, path }, deadline),
    post: (origin, path, json, deadline) => send({ origin, path, json }, deadline),
    async close() {
      staleness.stop()
      await agent.destroy()
    },
  }

  function send(
    { origin, path, json }: { origin: string; path: string; json?: string },
    deadline: AbortSignal,
  ): Promise<Answer> {
    return new Promise((resolve, reject) => {
      let sent = false
      let abort: ((reason: Error) => void) | undefined
      let status = 0
      const chunks: Buffer[] = []

      const fail = (error: Error) => {
        deadline.removeEventListener('abort', onDeadline)
        const staleSocket = sent && staleness.brokeUnanswered(error)
        reject(
          new CallError(failureOf(error, deadline, sent), { sent, staleSocket, reason: reasonOf(error) }),
        )
      }
      const onDeadline = () => {
        // Timers come before sockets in a turn of the event loop. When it was late, the answer may have lain here
        // in time: it is read first, or our own slowness would open the circuit of a host that is well.
        setImmediate(() => {
          const reason = new Error('deadline')
          if (abort === undefined) fail(reason)
          else abort(reason)
        })
      }
      if (msUntilLate(deadline) <= 0) {
        fail(new Error('deadline'))
        return
      }
      deadline.addEventListener('abort', onDeadline, { once: true })

      agent.dispatch(
        {
          origin,
          path,
          method: json === undefined ? 'GET' : 'POST',
          headers: json === undefined ? HEADERS : JSON_HEADERS,
          body: json ?? null, // text, so undici announces its length
        },
        {
          onRequestStart(controller) {
            // While it waited for its connection it was rejected, or has become too late for an answer: it must
            // not leave. To throw keeps the connection for the living; controller.abort() would close it, once
            // for each of the dead.
            if (msUntilLate(deadline) <= 0) throw new Error('deadline')
            sent = true
            abort = (reason) => controller.abort(reason)
          },
          onResponseStart(_controller, statusCode) {
            status = statusCode
          },
          onResponseData(_controller, chunk) {
            chunks.push(chunk)
          },
          onResponseEnd() {
            deadline.removeEventListener('abort', onDeadline)
            resolve({ status, body: Buffer.concat(chunks).toString('utf8') })
          },
          onResponseError: (_controller, error) => fail(error),
        },
      )
    })
  }
}

/**
 * Connects as undici does, and can tell of an error whether it broke a socket that had served before and
 * had not received a byte since its last request went out.
 *
 * undici does not say which socket a request uses, but for its diagnostics channel. The channel is the
 * process's, so sockets of others are seen too: they fall out of the weak map. The request line is on the
 * channel as well and is left alone.
 */
function watchSockets(lookup: Lookup) {
  const bytesReadAtRequest = new WeakMap<Socket, number>()
  const unanswered = new WeakSet<Error>()
  const connect = buildConnector({
    timeout: CONNECT_TIMEOUT_MS,
    allowH2: false,
    autoSelectFamily: true,
    autoSelectFamilyAttemptTimeout: ATTEMPT_TIMEOUT_MS,
    lookup: lookup.find,
  })

  const onRequest = (message: unknown) => {
    const { socket } = message as DiagnosticsChannel.ClientSendHeadersMessage
    bytesReadAtRequest.set(socket, socket.bytesRead)
  }
  subscribe(SEND_HEADERS, onRequest)

  const connector: buildConnector.connector = (options, callback) => {
    connect(options, (error, socket) => {
      socket?.once('error', (broken) => {
        const before = bytesReadAtRequest.get(socket) ?? 0
        if (before > 0 && socket.bytesRead === before) unanswered.add(broken)
      })
      if (error === null) return callback(null, socket)
      lookup.doubt(options.hostname)
      callback(error, null)
    })
  }
  return {
    connector,
    brokeUnanswered: (error: Error) => unanswered.has(error),
    stop: () => unsubscribe(SEND_HEADERS, onRequest),
  }
}

const SEND_HEADERS = 'undici:client:sendHeaders'

function failureOf(error: Error, deadline: AbortSignal, sent: boolean): CallFailure {
  if (!sent) return 'unreachable'
  if ((error as NodeJS.ErrnoException).code === 'UND_ERR_RES_EXCEEDED_MAX_SIZE') return 'oversize'
  return deadline.aborted ? 'timeout' : 'reset'
}

/** The error's code, never its message: undici's messages can quote what they could not parse. */
function reasonOf(error: Error): string {
  return (error as NodeJS.ErrnoException).code ?? error.name
}
