/** Takes whatever is sent to it, at once and unread: in the place of a collector of traces. */
import { createServer } from 'node:http'
import { once } from 'node:events'
import type { Closing } from './closing.ts'

/** Resolves to its address; it ends with `closing`. */
export async function startSink(closing: Closing): Promise<string> {
  const server = createServer((request, response) => {
    request
      .resume()
      .on('end', () => response.writeHead(200, { 'content-type': 'application/json' }).end('{}'))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  closing.defer(() => {
    server.close()
    server.closeAllConnections()
  })
  const address = server.address()
  if (address === null || typeof address === 'string') throw new TypeError('a TCP server has a port')
  return `http://127.0.0.1:${address.port}`
}
