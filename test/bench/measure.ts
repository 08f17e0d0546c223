/** One window of load on one contender, and what it cost. */
import { askProbe, cpuUs, redisBooks, rssBytes } from './cost.ts'
import { startMonitor } from './monitor.ts'
import type { Contender } from './contenders.ts'
import type { Batch, BatchResult } from './generator.ts'
import type { Load } from './load.ts'

/** Everything but the latencies and the rate is for one request. */
export interface Sample {
  perSecond: number
  latencyMs: BatchResult['latencyMs']
  cpuUs: number
  redisCpuUs: number
  /** Both; what a login costs an operator. */
  sumUs: number
  gcUs: number
  allocatedKb: number
  clientBytes: number
  redisBytes: number
  rssMb: number
}

const BYTES_PER_KB = 1_000
const BYTES_PER_MB = 1_000_000
const US_PER_MS = 1_000

export async function measure(load: Load, contender: Contender, batch: Batch): Promise<Sample> {
  const before = await books(contender)
  const result = await load.run(batch)
  const after = await books(contender)
  const each = (of: (at: typeof before) => number) => (of(after) - of(before)) / result.requests
  const own = each(({ cpu }) => cpu)
  const redis = each(({ redis }) => redis?.cpuUs ?? 0)
  return {
    perSecond: result.requests / result.seconds,
    latencyMs: result.latencyMs,
    cpuUs: own,
    redisCpuUs: redis,
    sumUs: own + redis,
    gcUs: each(({ probe }) => (probe?.gcMs ?? 0) * US_PER_MS),
    allocatedKb: each(({ probe }) => (probe?.allocatedBytes ?? 0) / BYTES_PER_KB),
    clientBytes: (result.bytesIn + result.bytesOut) / result.requests,
    redisBytes: each(({ redis }) => (redis?.bytesIn ?? 0) + (redis?.bytesOut ?? 0)),
    rssMb: rssBytes(contender.pids()) / BYTES_PER_MB,
  }
}

async function books({ pids, probe, redisUrl }: Contender) {
  return {
    probe: probe === undefined ? undefined : await askProbe(probe),
    redis: redisUrl === undefined ? undefined : await redisBooks(redisUrl),
    cpu: cpuUs(pids()),
  }
}

/** Commands sent and round trips made for one request, by sending one at a time to each target. What goes on in the background is among it. */
export async function countRedis(
  load: Load,
  redisUrl: string,
  batch: Batch,
): Promise<{ redisCommands: number; redisInScripts: number; redisTrips: number }> {
  const monitor = await startMonitor(redisUrl)
  const before = await redisBooks(redisUrl)
  // Each target needs a connection of its own.
  const { requests } = await load.run({ ...batch, connections: batch.targets.length })
  const after = await redisBooks(redisUrl)
  const { sent, inScripts } = monitor.stop()
  // The second asking for the books is itself a read, with two commands.
  return {
    redisCommands: (sent - 2) / requests,
    redisInScripts: inScripts / requests,
    redisTrips: (after.reads - before.reads - 1) / requests,
  }
}
