/**
 * Asks a Redis a few questions over a bare socket. The local run needs PING and INFO only, before the
 * gateway's own client exists, and must tell "nothing listens" from "wrong password" in words.
 *
 * Source: https://redis.io/docs/latest/develop/reference/protocol-spec/
 */
import { connect } from 'node:net'
import { connect as connectTls } from 'node:tls'
import { errorCode } from './refusal.ts'

const REDIS_PORT = 6379
/** INFO server is 1 KB; anything near this is not Redis. */
const REPLY_BYTES_MAX = 64 * 1024

/**
 * Sends the commands on one connection and resolves with one reply each.
 * Rejects with the reason in words: not reachable, no answer within `timeoutMs`, or Redis' own error.
 */
export async function askRedis(
  url: string,
  commands: readonly string[][],
  timeoutMs: number,
): Promise<string[]> {
  const { protocol, hostname, port, username, password } = new URL(url)
  const target = { host: hostname.replace(/^\[|\]$/g, ''), port: Number(port || REDIS_PORT) }
  const login =
    password === '' ? [] : [['AUTH', ...(username === '' ? [] : [username]), password].map(decode)]
  const questions = [...login, ...commands]

  const { promise, resolve, reject } = Promise.withResolvers<string[]>()
  const socket = protocol === 'rediss:' ? connectTls({ ...target, servername: target.host }) : connect(target)
  const deadline = setTimeout(() => reject(new Error(`no answer within ${timeoutMs / 1000} s`)), timeoutMs)
  let received = ''
  socket.setEncoding('latin1') // one character a byte, so that lengths can be counted
  socket.on('error', (error) => reject(new Error(errorCode(error))))
  socket.on('close', () => reject(new Error('it closed the connection')))
  socket.on('data', (chunk: string) => {
    received += chunk
    if (received.length > REPLY_BYTES_MAX) reject(new Error('its answer is not that of a Redis'))
    try {
      const replies = parseReplies(received)
      if (replies.length >= questions.length) resolve(replies.slice(login.length))
    } catch (error) {
      reject(error)
    }
  })
  for (const words of questions) socket.write(encode(words))
  try {
    return await promise
  } finally {
    clearTimeout(deadline)
    socket.destroy()
  }
}

/** The fields of an INFO reply. */
export function parseInfo(reply: string): Map<string, string> {
  const fields = new Map<string, string>()
  for (const line of reply.split('\r\n')) {
    const colon = line.indexOf(':')
    if (colon > 0) fields.set(line.slice(0, colon), line.slice(colon + 1))
  }
  return fields
}

/** The complete replies so far: simple and bulk strings, which is all that PING, INFO and AUTH give. */
function parseReplies(received: string): string[] {
  const replies: string[] = []
  let at = 0
  for (;;) {
    const end = received.indexOf('\r\n', at)
    if (end === -1) return replies
    const line = received.slice(at + 1, end)
    switch (received[at]) {
      case '+':
        replies.push(line)
        at = end + 2
        break
      case '$': {
        const after = end + 2 + Number(line)
        if (received.length < after + 2) return replies
        replies.push(received.slice(end + 2, after))
        at = after + 2
        break
      }
      case '-':
        throw new Error(line)
      case undefined:
      default:
        throw new Error('its answer is not that of a Redis')
    }
  }
}

function encode(words: readonly string[]): string {
  return `*${words.length}\r\n${words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`).join('')}`
}

function decode(word: string): string {
  return decodeURIComponent(word)
}
