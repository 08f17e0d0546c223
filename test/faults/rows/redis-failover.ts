/** R5–R8: a master that dies, hangs or hands over, watched by sentinels or in a cluster. */
import { setTimeout as pause } from 'node:timers/promises'
import { createKeys } from '../../../src/redis/keys.ts'
import { checkInvariants } from '../invariants.ts'
import { acknowledgedJustBefore, deferred, failureWindowMs, REDIS_LOAD } from '../outage.ts'
import { startCluster, startSentinels } from '../redis-servers.ts'
import type { ClusterRedis } from '../redis-servers.ts'
import type { Bench, Row } from '../row.ts'
import { startStand } from '../stand.ts'
import { untilWarm } from '../warm-up.ts'

const WINDOW_MS_MAX = 5_000
/** A login whose master went between claim and session may have been exchanged; its client then sends it again. */
const EXCHANGES_MAX = 2

export const failoverRows: readonly Row[] = [
  {
    id: 'R5',
    title: 'a master with two replicas and three sentinels is killed, under load',
    pass: 'errors for ≤ 5 s; lost at most what was acknowledged in the last 100 ms',
    async run(bench) {
      const redis = await deferred(bench, startSentinels())
      const stand = await startStand(bench, { redis })
      const load = await stand.load(REDIS_LOAD)
      await untilWarm(bench, stand)
      const master = await redis.master()
      await master.kill()
      const fromMs = performance.now()
      await redis.promotedAfter(master)
      bench.say(`  promoted after ${Math.round(performance.now() - fromMs)} ms`)
      await pause(5_000)
      await load.stop()
      bench.say(`  ${stand.ledger.summary({ fromMs })}`)
      const lastMs = stand.ledger.lastFailureAfterMs(fromMs)
      bench.figure('last error after the kill', lastMs, { unit: 'ms', max: WINDOW_MS_MAX })
      bench.figure('answers 401', stand.ledger.count({ status: 401, fromMs }), { max: 0 })
      const sessionsLost = acknowledgedJustBefore(stand.ledger, fromMs)
      await checkInvariants(bench, stand, { sessionsLost, exchangesPerCode: EXCHANGES_MAX })
    },
  },
  {
    id: 'R6',
    title: 'the same master hangs for 15 s (SIGSTOP) and goes on, under load',
    pass: 'errors for ≤ 5 s; nothing that was acknowledged is on the old master alone',
    async run(bench) {
      const redis = await deferred(bench, startSentinels())
      const stand = await startStand(bench, { redis })
      const load = await stand.load(REDIS_LOAD)
      await untilWarm(bench, stand)
      const master = await redis.master()
      master.stop()
      const fromMs = performance.now()
      await pause(15_000)
      master.resume()
      const onMs = performance.now()
      await pause(6_000)
      await load.stop()
      bench.say(`  ${stand.ledger.summary({ fromMs })}`)
      const lastMs = stand.ledger.lastFailureAfterMs(fromMs)
      bench.figure('last error after it hung', lastMs, { unit: 'ms', max: WINDOW_MS_MAX })
      bench.figure('errors after it went on', stand.ledger.count({ status: 503, fromMs: onMs }), { is: 0 })
      bench.check('another server is the master', (await redis.master()) !== master)
      const sessionsLost = acknowledgedJustBefore(stand.ledger, fromMs)
      await checkInvariants(bench, stand, { sessionsLost, exchangesPerCode: EXCHANGES_MAX })
    },
  },
  {
    id: 'R7',
    title: 'five planned failovers (SENTINEL FAILOVER), under load',
    pass: 'errors for ≤ 1.5 s each; lost at most what was acknowledged while Sentinel had two masters',
    run: (bench) => runPlanned(bench, { pausingWrites: false }),
  },
  {
    id: 'R7-paused',
    title: 'five planned failovers with CLIENT PAUSE … WRITE before each, as README advises, under load',
    pass: 'nothing is lost; errors for as long as Sentinel takes, ≤ 3 s each',
    run: (bench) => runPlanned(bench, { pausingWrites: true }),
  },
  {
    id: 'R8',
    title: 'a master of a cluster (three, a replica each) is killed, under load',
    pass: 'no user of the other masters notices at a validation; its own are back in ≤ 5 s',
    async run(bench) {
      const redis = await deferred(bench, startCluster())
      const stand = await startStand(bench, { redis })
      const load = await stand.load(REDIS_LOAD)
      await untilWarm(bench, stand)
      const [master] = redis.servers
      if (master === undefined) throw new Error('a cluster has servers')
      const range = await slotsOf(redis)
      await master.kill()
      const fromMs = performance.now()
      await pause(9_000)
      await load.stop()
      bench.say(`  ${stand.ledger.summary({ fromMs })}`)
      const lastMs = stand.ledger.lastFailureAfterMs(fromMs)
      bench.figure('last error after the kill', lastMs, { unit: 'ms', max: WINDOW_MS_MAX })
      const failed = stand.ledger.find({ kind: 'validate', fromMs }).filter(({ status }) => status !== 200)
      const keys = createKeys('')
      const asker = redis.servers[1]?.admin
      let elsewhere = 0
      for (const { token = '' } of failed) {
        const slot = Number(await asker?.call('CLUSTER', 'KEYSLOT', keys.user(token.slice(4, 26))))
        if (slot < range.from || slot > range.to) elsewhere += 1
      }
      bench.figure(`of ${failed.length} failed validations those of other masters`, elsewhere, { is: 0 })
      const sessionsLost = acknowledgedJustBefore(stand.ledger, fromMs)
      await checkInvariants(bench, stand, { sessionsLost, exchangesPerCode: EXCHANGES_MAX })
    },
  },
]

/**
 * Sentinel promotes the replica first and tells the old master a second later, which goes on acknowledging: what it
 * took meanwhile is lost, with the other replica as its witness for min-replicas-to-write. Pausing its writes prevents
 * that, and makes the second one of errors: 0.2 s until the promotion and up to 1 s until Sentinel sees it, measured,
 * and the way of the news to the gateways.
 */
async function runPlanned(bench: Bench, { pausingWrites }: { pausingWrites: boolean }): Promise<void> {
  const redis = await deferred(bench, startSentinels())
  const stand = await startStand(bench, { redis })
  const { ledger } = stand
  const load = await stand.load(REDIS_LOAD)
  await untilWarm(bench, stand)
  let acknowledged = 0
  for (let i = 1; i <= 5; i += 1) {
    const fromMs = performance.now()
    await redis.failOver({ pausingWrites })
    acknowledged += ledger.count({ kind: 'login', status: 200, fromMs, toMs: performance.now() })
    await pause(3_000)
    const windowMs = failureWindowMs(ledger, { fromMs, toMs: performance.now() })
    bench.figure('errors for', windowMs, { unit: 'ms', max: pausingWrites ? 3_000 : 1_500 })
    await redis.settled(30_000)
  }
  await load.stop()
  bench.say(`  ${ledger.summary()}`)
  await checkInvariants(bench, stand, {
    sessionsLost: pausingWrites ? 0 : acknowledged,
    exchangesPerCode: EXCHANGES_MAX,
  })
}

/** Of the first server, as it was set up. */
async function slotsOf({ servers }: ClusterRedis): Promise<{ from: number; to: number }> {
  const [first] = servers
  const ranges = (await first?.admin.call('CLUSTER', 'SLOTS')) as [number, number, [string, number]][]
  const own = ranges.find(([, , [, port]]) => port === first?.port)
  if (own === undefined) throw new Error('the first server has slots')
  return { from: own[0], to: own[1] }
}
