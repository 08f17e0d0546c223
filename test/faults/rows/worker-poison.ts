/** W3: jobs that harm, each until it is dead, mended and replayed; and a worker that hangs as a whole. */
import { setTimeout as pause } from 'node:timers/promises'
import { poisoned } from '../../harness/poison.ts'
import { until } from '../../harness/until.ts'
import { newNonce } from '../client.ts'
import { checkInvariants } from '../invariants.ts'
import { quantile } from '../ledger.ts'
import {
  drained,
  jobsIn,
  provisioningDelays,
  runJobs,
  sumOverWorkers,
  supervise,
  timesWritten,
} from '../provisioning.ts'
import type { Bench, Row } from '../row.ts'
import { startStand } from '../stand.ts'

const POISON = 'oPoisonPoisonPoisonPoison28c'
const LOGINS_PER_SECOND = 30
const BASELINE_MS = 20_000
const NO_POISON = { NODE_OPTIONS: '', POISON: '' }

type Harm = 'throw' | 'crash' | 'block'

async function runPoison(bench: Bench, harm: Harm, deadWithinMs: number): Promise<void> {
  const stand = await startStand(bench, {
    gateways: 1,
    workers: 2,
    workerEnv: harm === 'throw' ? {} : poisoned([`${harm}:${POISON}`]),
  })
  if (harm === 'throw') {
    await stand.database?.query(`create function refuse() returns trigger language plpgsql as
      $$ begin if new.openid = '${POISON}' then raise exception 'no'; end if; return new; end $$`)
    await stand.database?.query(
      'create trigger refuse before insert on identities for each row execute function refuse()',
    )
  }
  const stopSupervisor = supervise(bench, stand.workers)
  const load = await stand.load({ loginsPerSecond: LOGINS_PER_SECOND })
  await pause(3_000) // the first jobs warm everything up
  const baselineMs = performance.now()
  await pause(BASELINE_MS)

  const poisonedMs = performance.now()
  const [issued] = await stand.wechat.codes(1, { openid: POISON })
  await stand.client.login({
    target: stand.gateway().url,
    code: issued?.code ?? '',
    openid: POISON,
    nonce: newNonce(),
  })
  await until(
    'the poison to be dead',
    async () => (await jobsIn(stand, 'failed')) === 1,
    deadWithinMs + 30_000,
  )
  const deadMs = performance.now()
  bench.figure('dead after', (deadMs - poisonedMs) / 1_000, { unit: 's', max: deadWithinMs / 1_000 })
  await load.stop()
  await drained(stand, 60_000)

  const p99 = async (fromMs: number, toMs: number) =>
    quantile(await provisioningDelays(stand, { fromMs, toMs }, [POISON]), 0.99)
  const [before, meanwhile] = [await p99(baselineMs, poisonedMs), await p99(poisonedMs, deadMs)]
  bench.figure('p99 of the other jobs before', before, { unit: 'ms' })
  bench.figure('p99 of the other jobs meanwhile', meanwhile, { unit: 'ms' })
  bench.figure('p99, meanwhile to before', meanwhile / before, { max: 2 })
  const crashes = stand.workers.flatMap((worker) => worker.unexpectedEnds()).length
  bench.figure('workers that it ended', crashes, { max: harm === 'crash' ? 1 : 0 })
  const inQuarantine = timesWritten(stand.workers, '"job ended the process that it ran in"')
  bench.figure('its crashes in all', inQuarantine + (harm === 'throw' ? 0 : 1), {
    is: harm === 'throw' ? 0 : 3,
  })
  bench.figure('dead jobs in the metrics', await jobsIn(stand, 'failed'), { is: 1 })
  const deaths = await sumOverWorkers(stand, 'provisioning_jobs_total', { outcome: 'dead' })
  bench.figure('deaths in the metrics', deaths, { is: 1 })

  await checkReplay(bench, stand, harm, stopSupervisor)
  await checkInvariants(bench, stand, {
    ...(harm === 'crash' && { without: { I8: 'the job ends a worker, which its supervisor starts again' } }),
  })
}

/** The list, what it hides, and that the job is done once what it died of is gone. */
async function checkReplay(
  bench: Bench,
  stand: Awaited<ReturnType<typeof startStand>>,
  harm: Harm,
  stopSupervisor: () => Promise<void>,
): Promise<void> {
  const list = await runJobs(stand, 'list')
  bench.say(`  ${list.stdout.trim()}`)
  bench.check(
    'the list shows one dead job, without its openid',
    /^\S+ {2}20/.test(list.stdout) && !list.stdout.includes(POISON),
  )
  const id = list.stdout.split(' ')[0] ?? ''
  const shown = JSON.parse((await runJobs(stand, 'show', id)).stdout) as {
    attempts: number
    data: { openid: string }
  }
  bench.figure('its attempts', shown.attempts, { is: harm === 'throw' ? 8 : 1 })

  await stopSupervisor()
  if (harm === 'throw') await stand.database?.query('drop trigger refuse on identities')
  else {
    for (const worker of stand.workers) {
      await worker.end('SIGTERM')
      await worker.start({ env: NO_POISON })
    }
  }
  const replay = await runJobs(stand, 'replay', '--all')
  bench.check(
    `the replay says what it did: ${replay.stdout}`,
    replay.stdout === '1 dead job put back into the queue.\n',
  )
  bench.figure('drained after the replay', await drained(stand, 60_000), { unit: 'ms', max: 60_000 })
  bench.figure('dead jobs after the replay', await jobsIn(stand, 'failed'), { is: 0 })
}

export const workerPoisonRows: readonly Row[] = [
  {
    id: 'W3',
    title: 'a job that always fails',
    pass: 'dead after 8 attempts; p99 of the others ≤ 2×; seen, listed, and done by a replay once it is mended',
    long: true,
    alone: true,
    run: (bench) => runPoison(bench, 'throw', 180_000),
  },
  {
    id: 'W3-crash',
    title: 'a job that ends the process it runs in',
    pass: 'dead after 3 crashes, one of them a worker’s; p99 of the others ≤ 2×; done by a replay once it is mended',
    long: true,
    alone: true,
    run: (bench) => runPoison(bench, 'crash', 60_000),
  },
  {
    id: 'W3-block',
    title: 'a job that blocks the event loop for 30 s',
    pass: 'dead after 3 blocks; p99 of the others ≤ 2×; done by a replay once it is mended',
    long: true,
    alone: true,
    run: (bench) => runPoison(bench, 'block', 90_000),
  },
  {
    id: 'W3-stuck',
    title: 'a worker all of whose jobs hang',
    pass: 'it ends itself with 1 within 2 min; started again it does them all, and none is dead',
    long: true,
    async run(bench) {
      const stand = await startStand(bench, {
        gateways: 1,
        workers: 1,
        workerEnv: poisoned(['hang:*']),
      })
      const worker = stand.worker()
      const startedMs = performance.now()
      const load = await stand.load({ loginsPerSecond: 20 })
      await until('the worker to end', () => !worker.isRunning(), 180_000)
      bench.figure('ended itself after', (performance.now() - startedMs) / 1_000, { unit: 's', max: 120 })
      const [end = ''] = worker.unexpectedEnds()
      bench.check(`it ended with 1: ${end.slice(0, 40)}`, end.startsWith('worker 1 ended with 1:'))
      bench.check('it said why', worker.output().includes('jobs wait and none is done'))
      await worker.start({ env: NO_POISON })
      await load.stop()
      bench.figure('drained', (await drained(stand, 180_000)) / 1_000, { unit: 's', max: 180 })
      bench.figure('dead jobs', await jobsIn(stand, 'failed'), { is: 0 })
      await checkInvariants(bench, stand, {
        without: { I8: 'that the worker ends itself is what is tested' },
      })
    },
  },
]
