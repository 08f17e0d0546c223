/**
 * How many jobs a second does one worker do, one by one and in batches? In one run and by turns, because another run
 * is another machine. `npm run benchmark:provisioning-rate -- [--jobs N] [--engine postgres|pglite] [--rounds N]
 * [--concurrency N,…]`
 *
 * `first` are users whom nobody knows, `returning` the same ones again.
 */
import { parseArgs } from 'node:util'
import { drain, openQueue, startStores } from './provisioning.ts'
import type { WorkerSettings } from './provisioning.ts'

const { values } = parseArgs({
  options: {
    jobs: { type: 'string', default: '6000' },
    rounds: { type: 'string', default: '2' },
    engine: { type: 'string', default: 'postgres' },
    concurrency: { type: 'string', default: '128' },
  },
})
const jobs = Number(values.jobs)
const ONE_BY_ONE: WorkerSettings = { batching: false, concurrency: 16 }
const concurrencies = values.concurrency.split(',').map(Number)
const settings: WorkerSettings[] = [
  ONE_BY_ONE,
  // Whether it is the batches or the concurrency that makes the difference.
  { batching: false, concurrency: Math.max(...concurrencies) },
  ...concurrencies.map((concurrency) => ({ batching: true, concurrency })),
]

const stores = await startStores(values.engine === 'pglite' ? 'pglite' : 'postgres')
console.log(stores.how)
const rates = new Map<WorkerSettings, { first: number[]; returning: number[] }>()
for (let round = 1; round <= Number(values.rounds); round += 1) {
  for (const each of settings) {
    const measured = rates.get(each) ?? { first: [], returning: [] }
    rates.set(each, measured)
    const queue = await openQueue(stores.redisUrl, `${round}-${each.batching}-${each.concurrency}:`)
    const database = await stores.newDatabase()
    for (const [kind, seenAtMs] of [
      ['first', 1_000],
      ['returning', 2_000],
    ] as const) {
      await queue.fill(jobs, seenAtMs)
      console.log(`round ${round}, ${describe(each)}, ${kind}:`)
      measured[kind].push(await drain(queue, database, each))
    }
    await database.close()
    await queue.close()
  }
}
await stores.stop()

const base = rates.get(ONE_BY_ONE)
for (const [each, { first, returning }] of rates) {
  const [ofFirst, ofReturning] = [median(first), median(returning)]
  const ratios = [ofFirst / median(base?.first ?? []), ofReturning / median(base?.returning ?? [])]
  const [one = 0, other = 0] = ratios
  console.log(
    `${describe(each)}: first ${ofFirst} jobs/s (${one.toFixed(2)}), returning ${ofReturning} jobs/s (${other.toFixed(2)})`,
  )
}

function describe({ batching, concurrency }: WorkerSettings): string {
  return `${batching ? 'in batches' : 'one by one'}, ${concurrency} at once`
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.floor(sorted.length / 2)] ?? 0
}
