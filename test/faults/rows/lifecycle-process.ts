/** N: starting and stopping, whenever and however often it is asked for. */
import { freePort } from '../../../deploy/local/ports.ts'
import { until } from '../../harness/until.ts'
import { newNonce } from '../client.ts'
import { checkInvariants } from '../invariants.ts'
import { PROGRAM_ROOT, startProgram } from '../program.ts'
import type { Program } from '../program.ts'
import type { Bench, Row } from '../row.ts'
import { startStand } from '../stand.ts'
import type { Stand } from '../stand.ts'

const STORM_ROUNDS = 6
const STORM_COPIES = 60
const STORM_WECHAT_MS = 300
const END_MS_MAX = 25_000
const WARMING_ROUNDS = 20
const READY_MS_MAX = 5_000
/** src/codes.ts; a claim whose gateway died is taken over when it ends. */
const LEASE_MS = 1_500
/** Sixty logins at once at three young processes: 335 ms measured, beside other load of the same machine. */
const TAKEOVER_MS = 500

export const lifecycleProcessRows: readonly Row[] = [
  {
    id: 'N4',
    title: `SIGTERM in a storm of ${STORM_COPIES * 4} copies of one code, ${STORM_ROUNDS} rounds`,
    pass: 'one exchange and one session a code; everybody is answered, also on the gateway that goes',
    async run(bench) {
      // Copies go to the one that leaves, without a load balancer that would have turned away: all within its delay.
      const stand = await startStand(bench, { env: { DRAIN_DELAY_MS: '3000' } })
      await stand.wechat.fault({ kind: 'delay', ms: STORM_WECHAT_MS })
      for (const [round, issued] of (await stand.wechat.codes(STORM_ROUNDS)).entries()) {
        const nonce = newNonce()
        const send = (at: number) =>
          stand.client.login({ target: stand.gateway(at % 3).url, ...issued, nonce })
        const storm = Array.from({ length: STORM_COPIES * 3 }, (_, at) => send(at))
        await until(
          'the code to be at WeChat',
          async () => (await stand.wechat.history({ code: issued.code })).length > 0,
        )
        const leaving = stand.gateway(round % 3)
        const ended = leaving.end('SIGTERM')
        storm.push(...Array.from({ length: STORM_COPIES }, (_, at) => send(at))) // it drains, and answers
        const answers = await Promise.all(storm)
        bench.check(
          `round ${round}: ${stand.ledger.summary({ kind: 'login' })}`,
          answers.every(({ status }) => status === 200),
        )
        bench.check(`round ${round}: sessions`, new Set(answers.map(({ token }) => token)).size === 1)
        bench.check(`round ${round}: ends with 0`, (await ended) === 0)
        await leaving.start()
      }
      bench.figure('answers 200', stand.ledger.count({ status: 200 }), {
        is: STORM_ROUNDS * STORM_COPIES * 4,
      })
      await checkInvariants(bench, stand)
    },
  },
  {
    id: 'N10',
    title: 'SIGTERM, SIGINT, both, SIGTERM during the start, a port that is taken, a log that nobody takes',
    pass: 'the exit code that says what happened, and no end takes longer than 25 s',
    short: true,
    async run(bench) {
      const stand = await startStand(bench, { workers: 1 })
      const ends = createEnds(bench)
      for (const program of [stand.gateway(0), stand.worker()]) {
        for (const signal of ['SIGTERM', 'SIGINT'] as const) {
          await ends.note(`${program.name}: ${signal}`, 0, program.end(signal))
          await program.start()
        }
        await ends.note(`${program.name}: SIGTERM while it starts`, 0, endWhileStarting(program))
        await program.start()
      }
      await twice(stand.gateway(0), ends)
      await takenPort(stand, ends)
      await logOnFullDisk(stand, bench, ends)
      bench.figure('slowest end', ends.slowestMs(), { unit: 'ms', max: END_MS_MAX })
      bench.figure('wrong exit codes', ends.wrong(), { is: 0 })
      await checkInvariants(bench, stand)
    },
  },
  {
    id: 'N11',
    title: 'all gateways killed at once, with logins in them, and started again',
    pass: 'ready within 5 s; no code is held by a dead gateway for longer than its lease',
    async run(bench) {
      const stand = await startStand(bench)
      const removeDelay = await stand.wechat.fault({ kind: 'delay', ms: 2_000 })
      const codes = (await stand.wechat.codes(60)).map((issued) => ({ ...issued, nonce: newNonce() }))
      const send = (at: number) => {
        const code = codes[at]
        if (code === undefined) throw new Error('there is a code for each')
        return { target: stand.gateway(at % 3).url, ...code }
      }
      const broken = codes.map((_, at) =>
        stand.client.send('other', send(at).target, {
          method: 'POST',
          path: '/login',
          body: { code: codes[at]?.code, nonce: codes[at]?.nonce },
        }),
      )
      await until(
        'all codes to be at WeChat',
        async () => (await stand.wechat.summary()).codes.exchanged >= 30,
      )
      const killedMs = performance.now()
      await Promise.all(stand.gateways.map((gateway) => gateway.end('SIGKILL')))
      await Promise.all(broken)
      await removeDelay()
      const startedMs = performance.now()
      const readyMs = await Promise.all(
        stand.gateways.map(async (gateway) => {
          await gateway.start()
          return performance.now() - startedMs
        }),
      )
      bench.figure('slowest to be ready', Math.max(...readyMs), { unit: 'ms', max: READY_MS_MAX })

      // The first logins of a process take a second on two cores, whoever holds their codes.
      for (let i = 0; i < WARMING_ROUNDS; i += 1) {
        const fresh = await stand.wechat.codes(stand.gateways.length * 2)
        await Promise.all(
          fresh.map((issued, at) =>
            stand.client.login({ target: stand.gateway(at % 3).url, ...issued, nonce: newNonce() }),
          ),
        )
      }

      const leaseLeftMs = Math.max(0, LEASE_MS - (performance.now() - killedMs))
      const answers = await Promise.all(codes.map((_, at) => stand.client.login(send(at))))
      bench.say(`  ${stand.ledger.summary({ kind: 'login' })}`)
      const settled = answers.filter(
        ({ status, errorCode }) => status === 200 || errorCode === 'code_consumed',
      )
      bench.figure('codes answered', settled.length, { is: codes.length })
      bench.figure(
        'slowest answer beyond the lease',
        Math.max(...answers.map(({ ms }) => ms)) - leaseLeftMs,
        {
          unit: 'ms',
          max: TAKEOVER_MS,
        },
      )
      await checkInvariants(bench, stand, { exchangesPerCode: 2, resetsAllowed: true })
    },
  },
]

/** What each end of a process was, against what it should have been. */
function createEnds(bench: Bench) {
  const taken: number[] = []
  let wrong = 0
  return {
    async note(what: string, wanted: number, end: Promise<number | null>): Promise<void> {
      const startedMs = performance.now()
      const code = await end
      taken.push(performance.now() - startedMs)
      if (code !== wanted) wrong += 1
      bench.check(`${what}: exit code ${code}, not ${wanted}`, code === wanted)
    },
    slowestMs: () => Math.max(...taken),
    wrong: () => wrong,
  }
}

type Ends = ReturnType<typeof createEnds>

/** After its first words, and before it is ready. */
async function endWhileStarting(program: Program): Promise<number | null> {
  await program.end('SIGTERM')
  const before = program.output().length
  await program.start({ awaitReady: false })
  await until('it to say something', () => program.output().length > before, END_MS_MAX)
  return program.end('SIGTERM')
}

async function twice(gateway: Program, ends: Ends): Promise<void> {
  await gateway.end('SIGTERM')
  await gateway.start({ env: { DRAIN_DELAY_MS: '20000' } })
  gateway.signal('SIGTERM')
  await gateway.wrote('"msg":"draining"')
  await ends.note(`${gateway.name}: told twice`, 1, gateway.end('SIGTERM'))
  await gateway.start()
}

async function takenPort(stand: Stand, ends: Ends): Promise<void> {
  const [one, other] = [stand.gateway(0), stand.gateway(1)]
  await other.end('SIGTERM')
  await other.start({ env: { PORT: new URL(one.url).port }, awaitReady: false })
  await ends.note('a port that is taken', 1, ended(other))
  await other.start()
}

/** Waits for the end of what ends by itself. */
async function ended(program: Program): Promise<number | null> {
  program.signal('SIGWINCH') // means nothing to it, and says to the bench that it may end
  await until(`${program.name} to end`, () => !program.isRunning(), END_MS_MAX)
  return program.end('SIGTERM')
}

async function logOnFullDisk(stand: Stand, bench: Bench, ends: Ends): Promise<void> {
  const port = await freePort()
  const gateway = await startProgram({
    name: 'a gateway with a full disk',
    command: ['sh', '-c', `exec "${process.execPath}" "${PROGRAM_ROOT}src/main.ts" > /dev/full`],
    env: { ...stand.gatewayEnv, PORT: String(port), ADMIN_PORT: '0' },
  })
  bench.defer(() => gateway.end('SIGKILL'))
  await until('it to be ready', async () => {
    const answer = await fetch(`http://127.0.0.1:${port}/readyz`).catch(() => undefined)
    return answer?.status === 200
  })
  const [issued] = await stand.wechat.codes(1)
  const login = await stand.client.login({
    target: `http://127.0.0.1:${port}`,
    code: issued?.code ?? '',
    ...issued,
  })
  bench.check(`a login with a full disk: ${login.status}`, login.status === 200)
  await ends.note('a full disk', 0, gateway.end('SIGTERM'))
}
