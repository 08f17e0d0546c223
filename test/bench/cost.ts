/** What requests cost: CPU from the operating system's books, and what Redis says of itself. */
import { readdirSync, readFileSync } from 'node:fs'
import { connect } from 'node:net'
import { askRedis, parseInfo } from '../../deploy/local/redis-wire.ts'
import type { ProbeStats } from './probe.ts'

const NS_PER_US = 1_000
const US_PER_S = 1_000_000
const REDIS_TIMEOUT_MS = 5_000

/** User and system time of all threads that live, in microseconds: exact to the nanosecond where Linux keeps schedstat. */
export function cpuUs(pids: readonly number[]): number {
  let ns = 0
  for (const pid of pids) {
    for (const task of readdirSync(`/proc/${pid}/task`)) {
      ns += Number(readFileSync(`/proc/${pid}/task/${task}/schedstat`, 'utf8').split(' ')[0])
    }
  }
  return ns / NS_PER_US
}

/** Resident memory of them together. */
export function rssBytes(pids: readonly number[]): number {
  return pids.reduce((sum, pid) => {
    const [, kilobytes] = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? []
    return sum + 1024 * Number(kilobytes)
  }, 0)
}

export interface RedisBooks {
  cpuUs: number
  /** Reads of a socket: one for each packet of commands that arrived together. */
  reads: number
  bytesIn: number
  bytesOut: number
  usedBytes: number
  /** What was done of each command, also by scripts. */
  calls: ReadonlyMap<string, number>
  /** The time it was in each command, µs; that of a script has in it that of the commands it makes. */
  inCommandsUs: ReadonlyMap<string, number>
}

export async function redisBooks(url: string): Promise<RedisBooks> {
  const [, text = ''] = await askRedis(url, [['PING'], ['INFO', 'everything']], REDIS_TIMEOUT_MS)
  const info = parseInfo(text)
  const number = (name: string) => Number(info.get(name))
  const ofCommands = (field: string) =>
    [...info].flatMap(([name, value]): [string, number][] =>
      name.startsWith('cmdstat_')
        ? [[name.slice('cmdstat_'.length), Number(new RegExp(`${field}=(\\d+)`).exec(value)?.[1])]]
        : [],
    )
  return {
    cpuUs: US_PER_S * (number('used_cpu_sys') + number('used_cpu_user')),
    reads: number('total_reads_processed'),
    bytesIn: number('total_net_input_bytes'),
    bytesOut: number('total_net_output_bytes'),
    usedBytes: number('used_memory'),
    calls: new Map(ofCommands('calls')),
    inCommandsUs: new Map(ofCommands('usec')),
  }
}

/** Asks the probe in a process under measurement (probe.ts). */
export function askProbe(path: string, command = 'stats'): Promise<ProbeStats> {
  return new Promise((resolve, reject) => {
    let text = ''
    const socket = connect(path, () => socket.write(command))
    socket.on('error', reject)
    socket.on('data', (chunk) => (text += chunk.toString()))
    socket.on('end', () => {
      const answer = JSON.parse(text) as ProbeStats & { fault?: string }
      if (answer.fault === undefined) resolve(answer)
      else reject(new Error(answer.fault))
    })
  })
}
