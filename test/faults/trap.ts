/** A host that nobody should talk to: counts who does, and takes what they say. Closed, it is a host that is down. */
import { createServer } from 'node:net'
import type { AddressInfo, Socket } from 'node:net'
import type { Bench } from './row.ts'

export interface Trap {
  readonly url: string
  connections(): number
  close(): Promise<void>
}

/** Ends with the row. */
export async function startTrap(bench: Bench): Promise<Trap> {
  const sockets = new Set<Socket>()
  let connections = 0
  const server = createServer((socket) => {
    connections += 1
    sockets.add(socket)
    socket.on('error', () => {}).once('close', () => sockets.delete(socket))
  })
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve)
  })
  const { port } = server.address() as AddressInfo
  const close = async () => {
    for (const socket of sockets) socket.destroy()
    await new Promise((resolve) => {
      server.close(resolve)
    })
  }
  bench.defer(close)
  return { url: `http://127.0.0.1:${port}`, connections: () => connections, close }
}
