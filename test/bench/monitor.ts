/** Counts what clients, and scripts, send to Redis (MONITOR). */
import { once } from 'node:events'
import { connect } from 'node:net'

export async function startMonitor(redisUrl: string) {
  const { hostname, port } = new URL(redisUrl)
  const socket = connect(Number(port), hostname)
  let sent = 0
  let inScripts = 0
  let rest = ''
  socket.setEncoding('latin1')
  await once(socket, 'connect')
  socket.write('MONITOR\r\n')
  await once(socket, 'data') // +OK
  socket.on('data', (chunk) => {
    const lines = (rest + String(chunk)).split('\r\n')
    rest = lines.pop() ?? ''
    for (const line of lines) {
      if (/^\+[\d.]+ \[\d+ lua\]/.test(line)) inScripts += 1
      else sent += 1
    }
  })
  return {
    stop() {
      socket.destroy()
      return { sent, inScripts }
    },
  }
}
