/**
 * Loaded into a Node process under measurement (`--import`): says what the operating system does not know of it, and
 * takes profiles of CPU and of allocations. It listens on the socket that BENCH_PROBE names and does nothing else until it is asked.
 */
import { writeFileSync } from 'node:fs'
import { Session } from 'node:inspector/promises'
import { createServer } from 'node:net'
import { PerformanceObserver } from 'node:perf_hooks'
import { getHeapStatistics } from 'node:v8'

/** Each sample costs; at 200 µs a gateway takes twice as long for a login. */
const PROFILE_INTERVAL_US = 1_000
const ALLOCATION_INTERVAL_BYTES = 4_096

/** What the probe answers to `stats`. */
export interface ProbeStats {
  gcMs: number
  /** Since the process began. */
  allocatedBytes: number
  heapUsedBytes: number
}

let gcMs = 0
new PerformanceObserver((list) => {
  for (const { duration } of list.getEntries()) gcMs += duration
}).observe({ entryTypes: ['gc'] })

let session: Session | undefined

/** Of CPU, or of what is allocated, also of what does not live long. */
async function startProfile(ofAllocations: boolean): Promise<void> {
  session = new Session()
  session.connect()
  if (ofAllocations) {
    await session.post('HeapProfiler.startSampling', {
      samplingInterval: ALLOCATION_INTERVAL_BYTES,
      includeObjectsCollectedByMajorGC: true,
      includeObjectsCollectedByMinorGC: true,
    })
    return
  }
  await session.post('Profiler.enable')
  await session.post('Profiler.setSamplingInterval', { interval: PROFILE_INTERVAL_US })
  await session.post('Profiler.start')
}

async function stopProfile(ofAllocations: boolean, path: string): Promise<void> {
  if (session === undefined) throw new Error('no profile was started')
  const { profile } = ofAllocations
    ? await session.post('HeapProfiler.stopSampling')
    : await session.post('Profiler.stop')
  session.disconnect()
  session = undefined
  writeFileSync(path, JSON.stringify(profile))
}

function stats(): ProbeStats {
  const { used_heap_size, ...heap } = getHeapStatistics()
  const { total_allocated_bytes } = heap as unknown as { total_allocated_bytes: number }
  return { gcMs, allocatedBytes: total_allocated_bytes, heapUsedBytes: used_heap_size }
}

async function answer(command: string): Promise<object> {
  const [verb, path = ''] = command.trim().split(' ')
  if (verb === 'start-profile') await startProfile(false)
  if (verb === 'stop-profile') await stopProfile(false, path)
  if (verb === 'start-allocations') await startProfile(true)
  if (verb === 'stop-allocations') await stopProfile(true, path)
  return stats()
}

createServer((socket) => {
  socket.once('data', (command) => {
    answer(command.toString()).then(
      (found) => socket.end(JSON.stringify(found)),
      (error: unknown) => socket.end(JSON.stringify({ fault: String(error) })),
    )
  })
  socket.on('error', () => {})
})
  .listen(process.env['BENCH_PROBE'])
  .unref()
