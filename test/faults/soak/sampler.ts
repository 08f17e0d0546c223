/** What is looked at every few seconds, from outside: the processes by /proc and /metrics, Redis by its own words. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import { sumOf } from '../metrics-text.ts'
import type { Program } from '../program.ts'
import type { Bench } from '../row.ts'
import type { Stand } from '../stand.ts'
import type { Collected } from './collect.ts'

export interface ProcessSample {
  rssBytes: number
  heapBytes: number
  /** After the last collection of everything; undefined where none is made (collect.ts). */
  collected: Collected | undefined
  descriptors: number
  timers: number
  /** Sockets, pipes and the like that Node holds. */
  handles: number
  /** Seconds of CPU so far. */
  cpuSeconds: number
}

export interface StoreSample {
  /** By the first part of their names. */
  keys: Record<string, number>
  usedBytes: number
  clients: number
}

export interface Sample {
  processes: Record<string, ProcessSample>
  store: StoreSample
}

const SCAN_COUNT = 1_000

/** Takes samples of a stand. @param liveFolder where collect.ts writes. Its connection to Redis is closed with the row. */
export function createSampler(
  bench: Bench,
  stand: Stand,
  { liveFolder }: { liveFolder: string },
): () => Promise<Sample> {
  const redis = new Redis(stand.redis.env['REDIS_URL'] ?? '', { connectionName: 'soak' })
  redis.on('error', (error: Error) => bench.say(`  the sampler's Redis: ${error.message}`))
  bench.defer(() => redis.disconnect())
  const programs = [...stand.gateways, ...stand.workers]

  return async () => {
    const [store, ...processes] = await Promise.all([
      sampleStore(redis),
      ...programs.map((program) => sampleProcess(program, liveFolder)),
    ])
    return { processes: Object.fromEntries(processes), store }
  }
}

async function sampleProcess(
  program: Program & { metrics(): Promise<string> },
  liveFolder: string,
): Promise<[string, ProcessSample]> {
  const text = await program.metrics()
  return [
    program.name,
    {
      rssBytes: program.rssBytes(),
      heapBytes: sumOf(text, 'nodejs_heap_size_used_bytes'),
      collected: readCollected(join(liveFolder, `${program.pid}`)),
      descriptors: program.descriptors(),
      timers: sumOf(text, 'nodejs_active_resources', { type: 'Timeout' }),
      handles: sumOf(text, 'nodejs_active_handles_total'),
      cpuSeconds: sumOf(text, 'process_cpu_seconds_total'),
    },
  ]
}

function readCollected(path: string): Collected | undefined {
  return existsSync(path) ? (JSON.parse(readFileSync(path, 'utf8')) as Collected) : undefined
}

async function sampleStore(redis: Redis): Promise<StoreSample> {
  const keys: Record<string, number> = {}
  let cursor = '0'
  do {
    const [next, found] = await redis.scan(cursor, 'COUNT', SCAN_COUNT)
    cursor = next
    for (const key of found) {
      const kind = kindOf(key)
      keys[kind] = (keys[kind] ?? 0) + 1
    }
  } while (cursor !== '0')
  const info = await redis.info()
  return { keys, usedBytes: infoField(info, 'used_memory'), clients: infoField(info, 'connected_clients') }
}

/** As the page of keys in src/redis/keys.ts has them: `limit:login_per_ip` is one kind, `code` another. */
function kindOf(key: string): string {
  if (key.startsWith('{provision}')) return 'queue'
  const [first = '', second = ''] = key.split(':')
  return first === 'limit' || first === 'wechat' ? `${first}:${second}` : first
}

function infoField(info: string, name: string): number {
  return Number(new RegExp(`^${name}:(\\d+)`, 'm').exec(info)?.[1])
}
