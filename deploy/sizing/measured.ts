/** What was measured, as `npm run benchmark:capacity` has written it: the only figures that sizing starts from. */
import { readFileSync } from 'node:fs'

export interface Measured {
  readonly date: string
  readonly command: string
  readonly machine: string
  readonly node: string
  readonly redis: string
  readonly redisBytes: {
    readonly userWithOneSession: number
    readonly furtherSession: number
    /** The claim of a code, and counters: gone after a minute. */
    readonly loginForAMinute: number
    readonly waitingJob: number
  }
  readonly postgresBytes: { readonly user: number }
  readonly cpuUs: {
    /** Of a user whom the worker has seen within PROVISION_REFRESH_SECONDS. */
    readonly login: { readonly gateway: number; readonly redis: number }
    /** Of any other. */
    readonly loginWithJob: { readonly gateway: number; readonly redis: number }
    readonly validation: { readonly gateway: number; readonly redis: number }
    readonly job: { readonly worker: number; readonly redis: number; readonly postgres: number }
  }
  readonly jobsPerSecondOfOneWorker: number
  readonly rssBytes: { readonly gateway: number; readonly worker: number }
}

const FILE = new URL('../../test/benchmarks/capacity.json', import.meta.url)

export function readMeasured(): Measured {
  return JSON.parse(readFileSync(FILE, 'utf8')) as Measured
}
