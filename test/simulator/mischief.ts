/**
 * Plays a fault on an answer: what the client gets to see instead of, or made of, the true one.
 *
 * Everything here writes to one response and stops by itself when the client leaves, so an endless body
 * or a trickle ends with its connection.
 */
import { gzipSync } from 'node:zlib'
import type { ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { Answer } from './answers.ts'
import type { Fault } from './faults.ts'

const CHUNK_BYTES = 65_536
const GARBAGE_BYTES = 512
/** Larger than any client should accept, small enough to be sent in a second. */
const HUGE_BYTES = 100_000_000
/** What the bomb unpacks to; it is a thousandth of that on the wire. */
const BOMB_BYTES = 1_000_000_000
const BOMB_MEMBER_BYTES = 1_000_000
/** Between half an answer and the reset. At once, the reset would take the half back from the client. */
const RESET_AFTER_HALF_MS = 20

const HTML = (status: number): string =>
  `<html>\r\n<head><title>${status} Bad Gateway</title></head>\r\n<body>\r\n<center><h1>${status} Bad Gateway` +
  '</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n'

/** Where the fault is played. `socket` is the TCP socket, also under TLS. */
export interface Stage {
  response: ServerResponse
  socket: Socket
}

type Truth = Omit<Answer, 'outcome'>

/** Sends an answer as it is. */
export function send(
  response: ServerResponse,
  { status, contentType, body }: Omit<Truth, 'body'> & { body: string | Buffer },
  headers: Record<string, string> = {},
): void {
  response.writeHead(status, {
    ...headers,
    ...(contentType !== '' && { 'content-type': contentType }),
    'content-length': Buffer.byteLength(body),
  })
  response.end(body)
}

/**
 * Plays the fault. `answer` is the true answer; it is undefined when WeChat has not decided, and then the
 * kinds that need one play on an empty body. The kinds delay and hold are played by their caller, who
 * waits; here they send the answer.
 */
export function playFault({ response, socket }: Stage, { action, random }: Fault, answer?: Answer): void {
  const truth = answer ?? { status: 200, contentType: 'text/plain', body: '' }
  switch (action.kind) {
    case 'delay':
    case 'hold':
    // An errcode has been made an answer already, in the style of its endpoint.
    case 'errcode':
      return send(response, truth)
    case 'hang_before':
    case 'hang_after':
      return
    case 'reset':
      if (action.when === 'mid_body') return sendHalf(response, truth, () => socket.resetAndDestroy())
      socket.resetAndDestroy()
      return
    case 'close':
      if (action.when === 'mid_body') return sendHalf(response, truth, () => response.socket?.destroySoon())
      response.socket?.destroySoon()
      return
    case 'trickle':
      return trickle(response, truth, action)
    case 'garbage':
      return send(response, { ...truth, body: random.bytes(action.bytes ?? GARBAGE_BYTES) })
    case 'truncate': {
      const body = Buffer.from(truth.body)
      return send(response, { ...truth, body: body.subarray(0, action.bytes ?? Math.floor(body.length / 2)) })
    }
    case 'empty':
      return send(response, { ...truth, body: '' })
    case 'bom':
      return send(response, { ...truth, body: `\uFEFF${truth.body}` })
    case 'html': {
      const status = action.status ?? 502
      return send(response, { status, contentType: 'text/html', body: HTML(status) })
    }
    case 'status':
      return send(response, { ...truth, status: action.status })
    case 'redirect':
      return send(
        response,
        { ...truth, status: action.status ?? 302, body: '' },
        { location: action.location },
      )
    case 'huge': {
      const padding = Buffer.alloc(CHUNK_BYTES, 'a')
      response.writeHead(200, { 'content-type': truth.contentType })
      response.write('{"errcode":-1,"errmsg":"')
      return pour(response, padding, action.bytes === undefined ? HUGE_BYTES : action.bytes || Infinity)
    }
    case 'gzip_bomb': {
      const unpacked = action.bytes ?? BOMB_BYTES
      // Members of a gzip file may follow each other, so one is packed and sent many times.
      const member = gzipSync(Buffer.alloc(BOMB_MEMBER_BYTES, ' '))
      response.writeHead(200, { 'content-type': truth.contentType, 'content-encoding': 'gzip' })
      return pour(response, member, Math.ceil(unpacked / BOMB_MEMBER_BYTES) * member.length)
    }
    case 'content_type':
      return send(response, { ...truth, contentType: action.contentType })
    case 'body':
      return send(
        response,
        {
          status: action.status ?? 200,
          contentType: action.contentType ?? truth.contentType,
          body: action.body,
        },
        action.headers,
      )
    default:
      return action satisfies never
  }
}

/** Sends the headers and the first half of the body, then does the rest. */
function sendHalf(response: ServerResponse, { status, contentType, body }: Truth, then: () => void): void {
  const bytes = Buffer.from(body === '' ? '{"errcode":0}' : body)
  response.writeHead(status, { 'content-type': contentType, 'content-length': bytes.length })
  response.write(bytes.subarray(0, Math.floor(bytes.length / 2)), () => {
    setTimeout(then, RESET_AFTER_HALF_MS)
  })
}

/** One byte every `ms`; endless: blanks before the body for ever, which JSON allows. */
function trickle(
  response: ServerResponse,
  { status, contentType, body }: Truth,
  { ms, endless }: { ms: number; endless?: boolean },
): void {
  const bytes = Buffer.from(body)
  response.writeHead(status, {
    'content-type': contentType,
    ...(!endless && { 'content-length': bytes.length }),
  })
  response.flushHeaders()
  let sent = 0
  const timer = setInterval(() => {
    if (endless) {
      response.write(' ')
      return
    }
    response.write(bytes.subarray(sent, sent + 1))
    sent += 1
    if (sent < bytes.length) return
    clearInterval(timer)
    response.end()
  }, ms)
  response.once('close', () => clearInterval(timer))
}

/** Writes `chunk` again and again until `total` bytes are out, as fast as the client takes them. */
function pour(response: ServerResponse, chunk: Buffer, total: number): void {
  let left = total
  function more(): void {
    while (left > 0 && !response.destroyed) {
      const piece = left < chunk.length ? chunk.subarray(0, left) : chunk
      left -= piece.length
      if (!response.write(piece)) {
        response.once('drain', more)
        return
      }
    }
    if (!response.destroyed) response.end()
  }
  more()
}
