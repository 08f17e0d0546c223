/** Both rings rotate under load, over two replicas that are restarted in turn, and nobody is logged out. */
import { randomBytes } from 'node:crypto'
import { expect, onTestFinished, test } from 'vitest'
import { loadKeysConfig } from '../src/config.ts'
import { createSeal } from '../src/seal.ts'
import { startSimulator } from './simulator/server.ts'
import { APPID, gatewayEnvironment, newKey, SIMULATED } from './harness/environment.ts'
import type { TestEnvironment } from './harness/environment.ts'
import { startHarness } from './harness/gateway.ts'
import { runKeys } from './harness/keys-command.ts'
import { startGatewayProcess } from './harness/processes.ts'
import { until } from './harness/until.ts'

type Replica = Awaited<ReturnType<typeof startGatewayProcess>>

interface Bearer {
  token: string
  sub: string
}

/** Validations and logins that each state of the rings has to stand. */
const ROUNDS_PER_STATE = 15
const SESSIONS_PER_ROUND = 4

/** A load balancer before two replicas, and clients that never rest. */
function createLoad(replicas: (Replica | undefined)[], issueCode: () => string) {
  const bearers: Bearer[] = []
  const failures: string[] = []
  const load = { running: true }
  let rounds = 0

  /** Replicas that a round is using; they are not stopped before it has ended. */
  let inUse: readonly Replica[] = []

  /** A login on one replica, its retry on the other, then validations of old and new on both. */
  async function round(): Promise<void> {
    inUse = replicas.filter((replica) => replica !== undefined)
    const code = issueCode()
    const nonce = randomBytes(16).toString('hex')
    const [first, second = first] = rounds % 2 === 0 ? inUse : inUse.toReversed()
    const login = await first?.login({ code, nonce })
    const retry = await second?.login({ code, nonce })
    if (login?.status !== 200 || retry?.body.token !== login.body.token)
      failures.push(`login ${login?.status} ${login?.text}, its retry ${retry?.status} ${retry?.text}`)
    else bearers.push({ token: login.body.token, sub: login.body.sub })
    const some = Array.from(
      { length: SESSIONS_PER_ROUND },
      () => bearers[Math.floor(Math.random() * bearers.length)],
    )
    await Promise.all(some.flatMap((bearer) => inUse.map((replica) => validate(replica, bearer))))
    rounds += 1
  }

  async function validate(replica: Replica, bearer: Bearer | undefined): Promise<void> {
    const { status } = await replica.get('/session', bearer?.token)
    if (status !== 200) failures.push(`validation ${status}`)
  }

  const ended = (async () => {
    while (load.running) await round()
  })().catch((error: unknown) => failures.push(String(error)))
  return {
    bearers,
    failures,
    rounds: () => rounds,
    isIdle: (replica: Replica) => !inUse.includes(replica),
    async end(): Promise<void> {
      load.running = false
      await ended
    },
  }
}

test('SEAL_KEYS and TOKEN_KEYS rotate without one failed validation; what is retired gets a clean 401', async () => {
  const wechat = await startSimulator(SIMULATED)
  onTestFinished(() => wechat.close())
  const [s1, s2, t1, t2] = [newKey('s1'), newKey('s2'), newKey('t1'), newKey('t2')]
  const env = gatewayEnvironment(wechat)
  const rings = (SEAL_KEYS: string, TOKEN_KEYS: string): TestEnvironment => ({
    ...env,
    SEAL_KEYS,
    TOKEN_KEYS,
  })
  const oldAlone = rings(s1, t1)
  const replicas: (Replica | undefined)[] = [
    await startGatewayProcess(oldAlone),
    await startGatewayProcess(oldAlone),
  ]
  const load = createLoad(replicas, () => wechat.issueCode({ appid: APPID }).code)

  /** Takes a replica out of service, and brings it back with other rings. */
  async function restart(index: 0 | 1, own: TestEnvironment): Promise<void> {
    const leaving = replicas[index]
    replicas[index] = undefined
    if (leaving) {
      await until('its requests to end', () => load.isIdle(leaving))
      await leaving.end('SIGTERM')
    }
    replicas[index] = await startGatewayProcess(own)
    const before = load.rounds()
    await until(
      'some load on this state',
      () => load.failures.length > 0 || load.rounds() >= before + ROUNDS_PER_STATE,
      20_000,
    )
    expect(load.failures).toEqual([])
  }

  const newSecond = rings(`${s1},${s2}`, `${t1},${t2}`)
  await restart(0, newSecond)
  await restart(1, newSecond)
  const newFirst = rings(`${s2},${s1}`, `${t2},${t1}`)
  await restart(0, newFirst) // from here on the two have the rings in different order
  await restart(1, newFirst)

  expect((await runKeys(['reseal'], newFirst)).code).toBe(0)
  const checked = await runKeys(['check'], newFirst)
  expect(checked, checked.stderr).toMatchObject({ code: 0 })
  expect(checked.stdout).toMatch(/s1: seals of 0 users and 0 apps\. Nothing hangs on it/)
  expect(checked.stdout).toMatch(/t1: [1-9]\d* sessions\. In use/)

  // The old seal key goes, while its sessions stay.
  const sealRetired = rings(s2, `${t2},${t1}`)
  await restart(0, sealRetired)
  await restart(1, sealRetired)
  await load.end()
  expect(load.failures).toEqual([])
  expect(load.rounds()).toBeGreaterThanOrEqual(6 * ROUNDS_PER_STATE)
  for (const replica of replicas) expect(replica?.output()).not.toContain('"level":"error"')

  const harness = await startHarness({ wechat, env: { ...rings(s2, t2), LOG_LEVEL: 'error' } })
  const seal = createSeal(loadKeysConfig(harness.env).sealKeys)
  const statuses = { before: 0, after: 0 }
  for (const { token, sub } of load.bearers) {
    const { a, k, ...fields } = await harness.redis.hgetallBuffer(harness.keys.user(sub))
    expect(seal.unseal(k ?? Buffer.alloc(0), { appid: a?.toString() ?? '', sub })).toHaveLength(16)

    // The old token key goes as well, before its sessions have ended: those are asked to log in again.
    const isOld = Object.keys(fields).some((name) => name.startsWith('t1:'))
    const reply = await harness.get('/session', token)
    expect({ status: reply.status, code: reply.body.code }).toEqual(
      isOld ? { status: 401, code: 'session_invalid' } : { status: 200, code: undefined },
    )
    statuses[isOld ? 'before' : 'after'] += 1
  }
  expect(statuses.before).toBeGreaterThan(2 * ROUNDS_PER_STATE)
  expect(statuses.after).toBeGreaterThan(2 * ROUNDS_PER_STATE)
  expect(await harness.metric('http_requests_total', { route: '/session', status: '500' })).toBe(0)
}, 120_000)
