/**
 * The load generator: a process of its own that speaks HTTP/1.1 over bare sockets, one request at a time on each
 * connection. Either as fast as the answers come (for what a request costs), or at a fixed rate whether or not they
 * come: then a latency counts from the moment at which the request was due, so that a stall shows in all that waited
 * for it (coordinated omission). Every answer is looked at.
 */
import { connect } from 'node:net'
import type { Socket } from 'node:net'

export interface Batch {
  /** Request i goes to target i modulo their number. */
  targets: readonly { host: string; port: number }[]
  /** The whole request; `before + value + after` for each value. */
  before: string
  after: string
  values: readonly string[]
  connections: number
  /** undefined: each connection sends its next request when it has its answer. */
  ratePerSecond?: number | undefined
  /** What a right answer has for a status, and somewhere in it. */
  status: number
  contains?: string | undefined
  /** Whether to hand back the bodies, in the order of the values. */
  keepBodies?: boolean | undefined
  /** The end comes after this, whatever is still under way; those requests count as wrong. */
  timeoutMs: number
}

export interface BatchResult {
  requests: number
  seconds: number
  wrong: number
  /** One of the wrong answers. */
  wrongSample?: string | undefined
  bytesOut: number
  bytesIn: number
  latencyMs: { p50: number; p95: number; p99: number; max: number }
  bodies?: string[] | undefined
}

const TICK_MS = 1
const MS_PER_S = 1_000
const SAMPLE_CHARS = 600

interface Connection {
  /** Sends request `at`, which was due then. The connection must be idle. */
  send(at: number, dueMs: number): void
  close(): void
}

function run(batch: Batch): Promise<BatchResult> {
  const { targets, values, before, after, ratePerSecond } = batch
  const total = values.length
  const latencies = new Float64Array(total)
  const bodies: string[] = []
  let answered = 0
  let wrong = 0
  let wrongSample: string | undefined
  let bytesIn = 0
  let bytesOut = 0
  const started = performance.now()
  const { promise, resolve, reject } = Promise.withResolvers<BatchResult>()
  const connections: Connection[] = []
  const idle: Connection[][] = targets.map(() => [])
  /** The next request of each target. */
  const next = targets.map((_, at) => at)
  const dueMs = (at: number) =>
    ratePerSecond === undefined ? performance.now() : started + (at * MS_PER_S) / ratePerSecond

  function finish(): void {
    clearInterval(ticker)
    clearTimeout(limit)
    for (const connection of connections) connection.close()
    const sorted = latencies.subarray(0, answered).toSorted()
    const quantile = (share: number) => sorted[Math.min(answered - 1, Math.floor(answered * share))] ?? NaN
    resolve({
      requests: answered,
      seconds: (performance.now() - started) / MS_PER_S,
      wrong: wrong + (total - answered),
      wrongSample,
      bytesIn,
      bytesOut,
      latencyMs: { p50: quantile(0.5), p95: quantile(0.95), p99: quantile(0.99), max: sorted.at(-1) ?? NaN },
      bodies: batch.keepBodies ? bodies : undefined,
    })
  }

  /** Sends what is due to idle connections of a target. */
  function sendDue(target: number): void {
    const now = performance.now()
    const free = idle[target] ?? []
    for (let at = next[target] ?? total; at < total && free.length > 0; at += targets.length) {
      const due = dueMs(at)
      if (due > now + TICK_MS / 2) break
      next[target] = at + targets.length
      // The one that has been idle for longest: a server hangs up on a connection over which nothing ever comes.
      free.shift()?.send(at, due)
    }
  }

  function open(target: number): Connection {
    const { host = '', port = 0 } = targets[target] ?? {}
    let socket: Socket | undefined
    let received = ''
    let sentAt = -1
    let sentDueMs = 0
    let isClosed = false

    function dial(): void {
      socket = connect({ host, port, noDelay: true })
      socket.setEncoding('latin1')
      socket.on('data', (chunk) => take(String(chunk)))
      socket.on('error', (error) => fail(error.message))
      socket.on('close', () => {
        if (sentAt >= 0) fail('the connection was closed')
        if (!isClosed) dial()
      })
    }

    function fail(why: string): void {
      if (sentAt >= 0) settle(false, why)
    }

    function settle(isRight: boolean, answer: string): void {
      latencies[answered] = performance.now() - sentDueMs
      answered += 1
      if (!isRight) {
        wrong += 1
        wrongSample ??= answer.slice(0, SAMPLE_CHARS)
      }
      sentAt = -1
      received = ''
      idle[target]?.push(connection)
      if (answered === total) finish()
      else sendDue(target)
    }

    function take(chunk: string): void {
      bytesIn += chunk.length
      received = received === '' ? chunk : received + chunk
      const bodyAt = received.indexOf('\r\n\r\n') + 4
      if (bodyAt < 4) return
      const head = received.slice(0, bodyAt).toLowerCase()
      const length = lengthOf(head)
      const isWhole =
        length === undefined ? received.endsWith('0\r\n\r\n') : received.length >= bodyAt + length
      if (!isWhole) return
      const isRight =
        received.startsWith(`${batch.status}`, 9) &&
        (batch.contains === undefined || received.includes(batch.contains))
      if (batch.keepBodies) bodies[sentAt] = received.slice(bodyAt)
      if (head.includes('\r\nconnection: close')) {
        const old = socket
        dial()
        old?.removeAllListeners('close')
        old?.destroy()
      }
      settle(isRight, received)
    }

    const connection: Connection = {
      send(at, due) {
        sentAt = at
        sentDueMs = due
        const request = before + values[at] + after
        bytesOut += request.length
        socket?.write(request, 'latin1')
      },
      close() {
        isClosed = true
        sentAt = -1
        socket?.destroy()
      },
    }
    dial()
    return connection
  }

  for (let at = 0; at < batch.connections; at += 1) {
    const target = at % targets.length
    const connection = open(target)
    connections.push(connection)
    idle[target]?.push(connection)
  }
  const tick = () => {
    for (let target = 0; target < targets.length; target += 1) sendDue(target)
  }
  const ticker = setInterval(tick, TICK_MS)
  const limit = setTimeout(finish, batch.timeoutMs)
  if (total === 0) reject(new Error('there is nothing to send'))
  else tick()
  return promise
}

/** undefined: it is chunked. An answer without a body says neither. */
function lengthOf(head: string): number | undefined {
  const [, length] = /\r\ncontent-length: *(\d+)/.exec(head) ?? []
  if (length !== undefined) return Number(length)
  return head.includes('\r\ntransfer-encoding: chunked') ? undefined : 0
}

process.on('message', (batch: Batch) => {
  run(batch).then(
    (result) => process.send?.(result),
    (error: unknown) => process.send?.({ fault: String(error) }),
  )
})
