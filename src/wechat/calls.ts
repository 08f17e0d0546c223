/**
 * One HTTP call to WeChat, with everything about it bounded, and with an honest account of a failure:
 * could WeChat have seen the request? On that depends whether a code may be sent again.
 *
 * The address of a call holds AppSecret and code, so it is a secret: CallError is made from scratch and
 * carries neither undici's error nor anything of the request.
 */
import { Agent, buildConnector } from 'undici'

const CONNECTIONS_PER_HOST = 64
const CONNECT_TIMEOUT_MS = 1_500
/** Below the idle time after which servers commonly close, so that we seldom write to a closing socket. */
const KEEP_ALIVE_MS = 4_000
/** A login's answer has about 150 bytes. */
const BODY_BYTES_MAX = 65_536

export type CallFailure =
  | 'unreachable' // DNS, connect or TLS failed, or no connection came free in time
  | 'timeout' // the deadline passed while WeChat was at it
  | 'reset' // the connection broke
  | 'oversize' // the answer was larger than any real one

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
  close(): Promise<void>
}

export function createCalls(): Calls {
  const brokenAfterUse = new WeakSet<Error>()
  const agent = new Agent({
    connections: CONNECTIONS_PER_HOST,
    pipelining: 1,
    allowH2: false, // one known behaviour; HTTP/2 is undici's default
    keepAliveTimeout: KEEP_ALIVE_MS,
    keepAliveMaxTimeout: KEEP_ALIVE_MS,
    maxResponseSize: BODY_BYTES_MAX,
    // The deadline covers everything; undici's own timers are coarse and do not see a trickle.
    headersTimeout: 0,
    bodyTimeout: 0,
    connect: markingConnector(brokenAfterUse),
  })

  return {
    get: (origin, path, deadline) =>
      new Promise((resolve, reject) => {
        let sent = false
        let answered = false
        let abort: ((reason: Error) => void) | undefined
        let status = 0
        const chunks: Buffer[] = []

        const fail = (error: Error) => {
          deadline.removeEventListener('abort', onDeadline)
          const staleSocket = sent && !answered && (brokenAfterUse.has(error) || bytesReadBefore(error) > 0)
          reject(
            new CallError(failureOf(error, deadline, sent), { sent, staleSocket, reason: reasonOf(error) }),
          )
        }
        const onDeadline = () => {
          const reason = new Error('deadline')
          if (abort === undefined) fail(reason)
          else abort(reason)
        }
        if (deadline.aborted) {
          fail(new Error('deadline'))
          return
        }
        deadline.addEventListener('abort', onDeadline, { once: true })

        agent.dispatch(
          {
            origin,
            path,
            method: 'GET',
            headers: { accept: 'application/json', 'accept-encoding': 'identity' },
          },
          {
            onRequestStart(controller) {
              if (deadline.aborted) {
                controller.abort(new Error('deadline')) // rejected already; never let it out
                return
              }
              sent = true
              abort = (reason) => controller.abort(reason)
            },
            onResponseStart(_controller, statusCode) {
              answered = true
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
      }),
    close: () => agent.destroy(),
  }
}

/** Connects as undici does, and remembers which errors came from a socket that had been used before. */
function markingConnector(brokenAfterUse: WeakSet<Error>): buildConnector.connector {
  const connect = buildConnector({ timeout: CONNECT_TIMEOUT_MS, allowH2: false })
  return (options, callback) => {
    connect(options, (error, socket) => {
      socket?.once('error', (broken) => {
        if (socket.bytesRead > 0) brokenAfterUse.add(broken)
      })
      if (error) callback(error, null)
      else callback(null, socket)
    })
  }
}

function bytesReadBefore(error: Error): number {
  return (error as { socket?: { bytesRead?: number } }).socket?.bytesRead ?? 0
}

function failureOf(error: Error, deadline: AbortSignal, sent: boolean): CallFailure {
  if (!sent) return 'unreachable'
  if ((error as NodeJS.ErrnoException).code === 'UND_ERR_RES_EXCEEDED_MAX_SIZE') return 'oversize'
  return deadline.aborted ? 'timeout' : 'reset'
}

/** The error's code, never its message: undici's messages can quote what they could not parse. */
function reasonOf(error: Error): string {
  return (error as NodeJS.ErrnoException).code ?? error.name
}
