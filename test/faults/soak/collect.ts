/**
 * Loaded into the gateways of the soak before they start: collects all garbage each minute.
 *
 * A gateway makes so little that lives long that V8 leaves it lying for most of an hour and then gives 60 MB back at
 * once: over 45 minutes that is a slope of −14 or +12 MB/h, of garbage. What grows in spite of this is kept by somebody.
 *
 * What is alive then goes into a file for the sampler: the one figure in which a leak shows and V8's own housekeeping
 * does not. Beside it what V8 holds of memory for it: the rest of the process' memory is libraries, buffers and malloc.
 */
import { renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { getHeapStatistics, setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

export interface Collected {
  /** Heap and buffers after the last collection of everything. */
  readonly liveBytes: number
  /** Memory that V8 has for its heap, used or not. */
  readonly v8Bytes: number
}

const COLLECTION_MS = 60_000

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void
setInterval(() => {
  collect()
  const { heapUsed, external } = process.memoryUsage()
  const collected: Collected = {
    liveBytes: heapUsed + external,
    v8Bytes: getHeapStatistics().total_physical_size,
  }
  const path = join(process.env['SOAK_FOLDER'] ?? '', `${process.pid}`)
  writeFileSync(`${path}.new`, JSON.stringify(collected))
  renameSync(`${path}.new`, path) // the sampler never meets half of it
}, COLLECTION_MS).unref()
