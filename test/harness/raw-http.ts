/** HTTP by hand, for requests that no client library would send. */
import { connect } from 'node:net'

const TIMEOUT_MS = 10_000

export interface RawReply {
  status: number
  /** Names in lower case. */
  headers: Record<string, string>
  text: string
  /** All that came, should it be more than one answer. */
  everything: string
}

/**
 * Sends bytes on a connection of their own, and gives the first answer when the server has closed it (ask for
 * that: `connection: close`). Never hangs up first.
 */
export async function sendRaw(url: string, bytes: string | Buffer): Promise<RawReply> {
  const { hostname, port } = new URL(url)
  let everything = ''
  await new Promise<void>((resolve, reject) => {
    const socket = connect({ host: hostname, port: Number(port) })
    socket.setTimeout(TIMEOUT_MS, () => {
      socket.destroy()
      reject(new Error(`the server has not closed the connection; it sent ${everything}`))
    })
    socket.setEncoding('latin1').on('data', (text: string) => {
      everything += text
    })
    socket.once('close', () => resolve())
    socket.on('error', () => {}) // a server may cut what it does not want to read
    socket.write(bytes)
  })
  return parse(everything)
}

/** A request with its length and `connection: close`. Header lines are taken as they are. */
export function rawRequest(
  line: string,
  headerLines: readonly string[] = [],
  body = Buffer.alloc(0),
): Buffer {
  const own = ['host: gateway', 'connection: close', `content-length: ${body.length}`]
  return Buffer.concat([Buffer.from([line, ...own, ...headerLines, '', ''].join('\r\n'), 'latin1'), body])
}

function parse(everything: string): RawReply {
  const final = everything.replace(/^(HTTP\/1\.1 1\d\d [^\r]*\r\n\r\n)+/, '') // "100 Continue" announces an answer
  const headEnd = final.indexOf('\r\n\r\n')
  const [statusLine = '', ...lines] = final.slice(0, headEnd).split('\r\n')
  const headers = Object.fromEntries(
    lines.map((line) => {
      const colon = line.indexOf(':')
      return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()]
    }),
  )
  const rest = final.slice(headEnd + 4)
  const text = rest.slice(0, Number(headers['content-length'] ?? rest.length))
  return { status: Number(statusLine.split(' ')[1] ?? 0), headers, text, everything }
}
