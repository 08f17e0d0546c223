/**
 * A server below HTTP, for what no HTTP server would do: take a request and hang up, stop in the middle of
 * a header, say nothing at all. It sees requests, not bytes: one piece of input is one request, which holds
 * for a client that sends a short GET in one write and waits for its answer.
 */
import { createServer } from 'node:net'
import type { AddressInfo, Socket } from 'node:net'
import { onTestFinished } from 'vitest'

export interface TcpRequest {
  /** 1 for the first connection, and so on. */
  connection: number
  /** 1 for the first request of its connection, and so on. */
  nth: number
  /** Request line and headers as they came. */
  text: string
}

export interface TcpServer {
  url: string
  /** All requests, oldest first. */
  requests: readonly TcpRequest[]
  connections(): number
}

/** Closed, with all its connections, when the test ends. */
export async function startTcpServer(
  answer: (socket: Socket, request: TcpRequest) => void,
): Promise<TcpServer> {
  const requests: TcpRequest[] = []
  const sockets = new Set<Socket>()
  let connections = 0
  const server = createServer((socket) => {
    const connection = (connections += 1)
    let nth = 0
    sockets.add(socket)
    socket.once('close', () => sockets.delete(socket))
    socket.on('error', () => {}) // the client may hang up at any time, and often shall
    socket.on('data', (bytes) => {
      const request = { connection, nth: (nth += 1), text: bytes.toString('latin1') }
      requests.push(request)
      answer(socket, request)
    })
  })
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve)
  })
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  const { port } = server.address() as AddressInfo
  return { url: `http://127.0.0.1:${port}`, requests, connections: () => connections }
}

/** An HTTP answer as WeChat sends it, keep-alive. */
export function httpAnswer(body: string): string {
  return `HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`
}
