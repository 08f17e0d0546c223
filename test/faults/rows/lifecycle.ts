/** N: load balancers, and gateways that come and go behind them. */
import { setTimeout as pause } from 'node:timers/promises'
import { checkInvariants } from '../invariants.ts'
import { absentOf, startLoadBalancer } from '../load-balancer.ts'
import { startPhones } from '../phones.ts'
import type { Bench, Row } from '../row.ts'
import { startStand } from '../stand.ts'
import type { Gateway, Stand } from '../stand.ts'
import { lifecycleClientRows } from './lifecycle-clients.ts'
import { lifecycleProcessRows } from './lifecycle-process.ts'

const PHONES = 50
const REQUESTS_MIN = 15_000
/** Slower than this and the row would go on for ever; then the figure of requests fails. */
const ROLLS_MAX = 8
const EXIT_MS_MAX = 15_000
/** As an operator has it, and as the configurations of the load balancers are made for. */
const DRAINING = { DRAIN_DELAY_MS: '5000' }
/** So that logins are under way when a gateway is killed. */
const WECHAT_MS = 50
const KILL_INTERVAL_MS = 10_000
const REFUSALS_SHOWN = 5

export const lifecycleRows: readonly Row[] = [
  rollingRow('N1', 'haproxy'),
  rollingRow('N2', 'nginx'),
  killingRow('N3', 'haproxy', { seconds: 60 }),
  killingRow('N3-nginx', 'nginx', { seconds: 60 }),
  killingRow('N3-long', 'haproxy', { seconds: 300 }),
  ...lifecycleProcessRows,
  ...lifecycleClientRows,
]

function rollingRow(id: string, name: 'haproxy' | 'nginx'): Row {
  return {
    id,
    title: `rolling restart of three gateways behind ${name}, ${PHONES} phones posting on and on`,
    pass: `0 failed of ≥ ${REQUESTS_MIN} requests; each gateway ends with 0 within 15 s`,
    alone: true,
    absent: absentOf(name),
    async run(bench) {
      const stand = await startStand(bench, { env: DRAINING })
      const balancer = await startLoadBalancer(bench, name, stand)
      const phones = startPhones(stand, { target: balancer.url, count: PHONES })
      bench.defer(() => phones.stop())

      const exits: { code: number | null; ms: number }[] = []
      for (let roll = 1; roll <= ROLLS_MAX; roll += 1) {
        for (const gateway of stand.gateways) exits.push(await restart(gateway))
        bench.say(`  roll ${roll}: ${phones.requests()} requests`)
        if (phones.requests() >= REQUESTS_MIN) break
      }
      await phones.stop()

      bench.say(`  ${stand.ledger.summary()}`)
      sayRefusals(bench, stand)
      bench.figure('requests', phones.requests(), { min: REQUESTS_MIN })
      bench.figure('failed', failed(stand), { is: 0 })
      bench.figure('restarts', exits.length, { min: stand.gateways.length })
      bench.figure('slowest end of a gateway', Math.max(...exits.map(({ ms }) => ms)), {
        unit: 'ms',
        max: EXIT_MS_MAX,
      })
      bench.figure('ends with another code than 0', exits.filter(({ code }) => code !== 0).length, { is: 0 })
      bench.figure('p99', stand.ledger.quantile(0.99, { kind: 'login' }), { unit: 'ms' })
      await checkInvariants(bench, stand)
    },
  }
}

/** How it ended. Resolves when it is ready again, and the load balancer may know of it. */
async function restart(gateway: Gateway): Promise<{ code: number | null; ms: number }> {
  const startedMs = performance.now()
  const code = await gateway.end('SIGTERM')
  const ms = performance.now() - startedMs
  await gateway.start()
  await pause(1_500) // a health check of the load balancer, as an orchestrator leaves between two
  return { code, ms }
}

/** Why gateways refused what they should have answered, in their own words. */
function sayRefusals(bench: Bench, { gateways }: Stand): void {
  const lines = gateways.flatMap((gateway) =>
    gateway
      .output()
      .split('\n')
      .filter((line) => line.includes('"request refused"') || line.includes('"request failed"'))
      .map((line) => `  ${gateway.name}: ${line}`),
  )
  for (const line of lines.slice(0, REFUSALS_SHOWN)) bench.say(line)
}

const failed = ({ ledger }: Stand) => ledger.attempts.filter(({ status }) => status !== 200).length

function killingRow(id: string, name: 'haproxy' | 'nginx', { seconds }: { seconds: number }): Row {
  return {
    id,
    title: `kill -9 of a gateway every 10 s for ${seconds} s, behind ${name}`,
    pass: 'no client without an answer, none with a 5xx; a code that died with its gateway is answered new_code',
    alone: true,
    long: seconds > 60,
    absent: absentOf(name),
    async run(bench) {
      const stand = await startStand(bench, { env: DRAINING })
      await stand.wechat.fault({ kind: 'delay', ms: WECHAT_MS })
      const balancer = await startLoadBalancer(bench, name, stand)
      const phones = startPhones(stand, { target: balancer.url, count: PHONES })
      bench.defer(() => phones.stop())
      const kills = await killInTurn(bench, stand, seconds)
      await phones.stop()

      bench.say(`  ${stand.ledger.summary()}`)
      sayRefusals(bench, stand)
      const { attempts } = stand.ledger
      const lost = attempts.filter(({ status }) => status === 0 || status >= 500).length
      bench.figure('kills', kills, { min: Math.floor(seconds / 10) - 1 })
      bench.figure('requests', phones.requests(), {})
      bench.figure('without an answer, or 5xx', lost, { is: 0 })
      // WeChat had used the code up and nobody had the answer yet: more cannot be had. At most what was under way.
      const consumed = stand.ledger.count({ errorCode: 'code_consumed' })
      bench.figure('codes that died with their gateway', consumed, { max: kills * PHONES })
      bench.figure('other answers than 200', failed(stand) - lost - consumed, { is: 0 })
      bench.figure('logins given up', phones.givenUp(), { is: 0 })
      await checkInvariants(bench, stand, { exchangesPerCode: 2 })
    },
  }
}

async function killInTurn(bench: Bench, stand: Stand, seconds: number): Promise<number> {
  const endsAtMs = performance.now() + seconds * 1000
  let kills = 0
  for (; performance.now() < endsAtMs; kills += 1) {
    const gateway = stand.gateway(kills % 3)
    const nextAtMs = performance.now() + KILL_INTERVAL_MS
    await gateway.end('SIGKILL')
    await gateway.start()
    bench.say(`  ${gateway.name} was killed and is back`)
    await pause(Math.max(0, nextAtMs - performance.now()))
  }
  return kills
}
