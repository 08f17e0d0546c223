/**
 * What measuring costs, in nanoseconds: a count and a time as src/metrics/kinds.ts keeps them beside prom-client's own, and
 * the time of a command of Redis as redis-watch.ts takes it beside ioredis' diagnostics channel, on a real Redis.
 *
 *   npm run benchmark:metrics
 */
import { tracingChannel } from 'node:diagnostics_channel'
import { Redis } from 'ioredis'
import { Counter, Histogram, Registry } from 'prom-client'
import { startRedis } from '../../deploy/local/redis-server.ts'
import { counter, createMetrics, histogram } from '../../src/metrics/kinds.ts'
import { timeAnswers } from '../../src/redis/watch.ts'

const COUNTS = 1_000_000
const COMMANDS = 20_000
const ROUNDS = 5
const BUCKETS = [0.0005, 0.001, 0.0025, 0.01, 0.025, 0.1, 0.25]
const LABELS = { route: '/login', method: 'POST', status: 200 }

const ours = createMetrics()
const theirs = new Registry()
const spec = { help: '…', labelNames: Object.keys(LABELS) }
const ourCounter = counter(ours, { name: 'counts_total', ...spec })
const theirCounter = new Counter({ name: 'counts_total', ...spec, registers: [theirs] })
const ourHistogram = histogram(ours, { name: 'times', buckets: BUCKETS, ...spec })
const theirHistogram = new Histogram({ name: 'times', buckets: BUCKETS, ...spec, registers: [theirs] })
const commands = histogram(ours, { name: 'commands', help: '…', labelNames: ['command'], buckets: BUCKETS })

report('a count, ours', () => ourCounter.inc(LABELS))
report("a count, prom-client's", () => theirCounter.inc(LABELS))
report('a time, ours', (n) => ourHistogram.observe(n / COUNTS, LABELS))
report("a time, prom-client's", (n) => theirHistogram.observe(LABELS, n / COUNTS))

const server = await startRedis({ persistent: false, allowDocker: false })
const plain = new Redis(server.url)
const timed = new Redis(server.url)
timeAnswers(timed, (command, seconds) => commands.observe(seconds, { command }))
const channel = tracingChannel('ioredis:command')
const subscribers = {
  start: (context: { startedMs: number }) => {
    context.startedMs = performance.now()
  },
  asyncEnd: ({ command, startedMs }: { command: string; startedMs: number }) =>
    commands.observe((performance.now() - startedMs) / 1_000, { command }),
}

const cpu = { plain: [] as number[], timed: [] as number[], traced: [] as number[] }
for (let round = 0; round <= ROUNDS; round += 1) {
  const measured = { plain: await cpuOf(plain), timed: await cpuOf(timed), traced: 0 }
  channel.subscribe(subscribers as never)
  measured.traced = await cpuOf(plain)
  channel.unsubscribe(subscribers as never)
  if (round === 0) continue // to warm up
  for (const kind of ['plain', 'timed', 'traced'] as const) cpu[kind].push(measured[kind])
}
const [bare, watched, traced] = [median(cpu.plain), median(cpu.timed), median(cpu.traced)]
console.log(`a command of Redis: ${bare.toFixed(0)} ns of CPU here`)
console.log(`  timed by redis-watch.ts: ${(watched - bare).toFixed(0)} more`)
console.log(`  by ioredis' diagnostics channel: ${(traced - bare).toFixed(0)} more`)
plain.disconnect()
timed.disconnect()
await server.stop()

function report(what: string, count: (n: number) => void): void {
  const times = Array.from({ length: ROUNDS }, () => {
    const startedMs = performance.now()
    for (let n = 0; n < COUNTS; n += 1) count(n)
    return ((performance.now() - startedMs) * 1e6) / COUNTS
  })
  console.log(`${what}: ${median(times).toFixed(0)} ns`)
}

/** CPU of this process for a command, many on their way at once, in nanoseconds. */
async function cpuOf(redis: Redis): Promise<number> {
  const before = process.cpuUsage()
  for (let sent = 0; sent < COMMANDS; sent += 50)
    await Promise.all(Array.from({ length: 50 }, (_, n) => redis.hmget('a-key', 'a', 'o', 'u', String(n))))
  const { user, system } = process.cpuUsage(before)
  return ((user + system) * 1e3) / COMMANDS
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0
}
