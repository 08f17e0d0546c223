/**
 * A network that misbehaves, between two processes on this machine: latency, jitter, narrow bandwidth, slices, resets
 * after so many bytes, connections that are refused, cut, or swallow everything. What is set counts at once, also for
 * connections that are open.
 */
import { connect, createServer } from 'node:net'
import type { AddressInfo, Socket } from 'node:net'
import type { Bench } from './row.ts'

export interface Weather {
  /** Added to each direction. */
  latencyMs: number
  /** At random on top of it; the order of bytes is kept. */
  jitterMs: number
  /** Bytes at most in one write. */
  sliceBytes: number
  /** Of each direction of each connection. */
  bytesPerSecond: number
  /** A connection is reset after so many bytes from the server. */
  resetAfterBytes: number
  /** Takes connections and bytes and passes nothing on, in neither direction. */
  blackHole: boolean
  /** New connections are reset at once. */
  refusing: boolean
}

const FAIR: Weather = {
  latencyMs: 0,
  jitterMs: 0,
  sliceBytes: Infinity,
  bytesPerSecond: Infinity,
  resetAfterBytes: Infinity,
  blackHole: false,
  refusing: false,
}

export interface TcpProxy {
  readonly port: number
  /** What is not named goes on as it is. */
  set(weather: Partial<Weather>): void
  /** All fair again. */
  clear(): void
  /** Resets every connection. */
  cut(): void
  connections(): number
  /** All that were ever made. */
  accepted(): number
}

/** Passes everything on to 127.0.0.1:targetPort. Ends with the row. */
export async function startTcpProxy(
  bench: Pick<Bench, 'defer'>,
  targetPort: number,
  targetHost = '127.0.0.1',
): Promise<TcpProxy> {
  const weather = { ...FAIR }
  const pairs = new Set<[Socket, Socket]>()
  let accepted = 0

  const server = createServer({ allowHalfOpen: true, noDelay: true }, (client) => {
    accepted += 1
    client.on('error', () => {}) // either side may break off at any time
    if (weather.refusing) {
      client.resetAndDestroy()
      return
    }
    const upstream = connect({ port: targetPort, host: targetHost, allowHalfOpen: true, noDelay: true })
    upstream.on('error', () => client.resetAndDestroy())
    client.once('error', () => upstream.destroy())
    const pair: [Socket, Socket] = [client, upstream]
    pairs.add(pair)
    pump(client, upstream, () => 0)
    let received = 0
    pump(upstream, client, (bytes) => (received += bytes))
    for (const socket of pair)
      socket.once('close', () => {
        pairs.delete(pair)
        for (const other of pair) other.destroy()
      })
  })

  function pump(from: Socket, to: Socket, count: (bytes: number) => number): void {
    // One piece after another, so that the order is kept whatever the delays.
    let last = Promise.resolve()
    let freeAtMs = 0
    from.on('data', (bytes: Buffer) => {
      const arrivedMs = performance.now()
      last = last.then(() => pass(bytes, arrivedMs))
    })
    from.once('end', () => {
      last = last.then(() => void to.end())
    })

    async function pass(bytes: Buffer, arrivedMs: number): Promise<void> {
      for (let at = 0; at < bytes.length; at += weather.sliceBytes) {
        const piece = bytes.subarray(at, Math.min(bytes.length, at + weather.sliceBytes))
        freeAtMs = Math.max(freeAtMs, performance.now()) + (1000 * piece.length) / weather.bytesPerSecond
        const dueMs = Math.max(arrivedMs + weather.latencyMs + Math.random() * weather.jitterMs, freeAtMs)
        if (dueMs - performance.now() > 0.5)
          await new Promise((resolve) => setTimeout(resolve, dueMs - performance.now()))
        if (weather.blackHole) return
        if (count(piece.length) > weather.resetAfterBytes) {
          to.resetAndDestroy()
          return
        }
        to.write(piece)
      }
    }
  }

  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve)
  })
  const cut = () => {
    for (const pair of pairs) for (const socket of pair) socket.resetAndDestroy()
  }
  bench.defer(() => {
    cut()
    server.close()
  })
  return {
    port: (server.address() as AddressInfo).port,
    set: (changes) => void Object.assign(weather, changes),
    clear: () => void Object.assign(weather, FAIR),
    cut,
    connections: () => pairs.size,
    accepted: () => accepted,
  }
}
