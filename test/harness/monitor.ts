/**
 * What clients and scripts send to Redis, by MONITOR on a socket of our own: ioredis takes a line that arrives
 * together with the OK for the answer to a command, which on a busy Redis happens.
 */
import { once } from 'node:events'
import { connect } from 'node:net'
import { onTestFinished } from 'vitest'
import { until } from './until.ts'

export interface MonitoredCommand {
  args: string[]
  /** Sent by a script, not by a client. */
  inScript: boolean
}

/** Listens from when it resolves until `stop()` or the end of the test. */
export async function startMonitor(redisUrl: string) {
  const { hostname, port } = new URL(redisUrl)
  const socket = connect(Number(port), hostname)
  onTestFinished(() => void socket.destroy())
  let text = ''
  socket.setEncoding('latin1').on('data', (chunk: string) => (text += chunk))
  await once(socket, 'connect')
  socket.write('MONITOR\r\n')
  await until('MONITOR to listen', () => text.includes('+OK\r\n'))
  return {
    /** All commands so far, in their order. */
    commands: (): MonitoredCommand[] => text.split('\r\n').slice(0, -1).flatMap(parseLine),
    stop: () => void socket.destroy(),
  }
}

/** `+1795361038.528769 [0 127.0.0.1:40080] "set" "key"`; in scripts the address is `lua`. */
function parseLine(line: string): MonitoredCommand[] {
  const [, source, rest] = /^\+[\d.]+ \[\d+ ([^\]]+)\] (.*)$/.exec(line) ?? []
  if (source === undefined || rest === undefined) return []
  return [
    {
      args: [...rest.matchAll(/"((?:[^"\\]|\\.)*)"/g)].map(([, arg = '']) => arg),
      inScript: source === 'lua',
    },
  ]
}
