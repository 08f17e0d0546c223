/** R10–R12, R15, T1: Redis is full, drops keys, has lost everything, takes rights away; a clock is wrong. */
import { existsSync } from 'node:fs'
import { setTimeout as pause } from 'node:timers/promises'
import { newNonce } from '../client.ts'
import { checkInvariants } from '../invariants.ts'
import {
  deferred,
  exchangesWithin,
  isFailure,
  loginsWithin,
  REDIS_LOAD,
  statusOf,
  takesMs,
} from '../outage.ts'
import { startStandalone } from '../redis-servers.ts'
import type { Bench, Row } from '../row.ts'
import { newKey, startStand } from '../stand.ts'
import type { Gateway, Stand } from '../stand.ts'
import { untilWarm } from '../warm-up.ts'

export const foreignRows: readonly Row[] = [
  {
    id: 'R10',
    title: 'Redis is full (maxmemory, noeviction) for 5 s, under load',
    pass: 'validations and log-outs all succeed; logins 503 ≤ 50 ms, none exchanged or half written; visible ≤ 30 s; normal ≤ 2 s after',
    run: runFull,
  },
  {
    id: 'R11',
    title: 'Redis has a maxmemory-policy that drops keys, from the start and later',
    pass: 'not ready, and says so once; changed later it is visible ≤ 30 s',
    run: runEvicting,
  },
  {
    id: 'R12',
    title: 'FLUSHALL, then a start with nothing, under load',
    pass: 'all tokens 401, logins succeed, users are provisioned anew, nobody ends',
    run: runEmpty,
  },
  {
    id: 'R15',
    title: 'the rights of the Redis user are taken away, then its password is changed, under load',
    pass: '503, never 401; nobody ends; ≤ 1 line of the log a second; the password nowhere',
    run: runDenied,
  },
  {
    id: 'T1',
    title: 'two of three gateways have a wall clock that is 10 minutes off, one each way, when sessions end',
    pass: 'no wrong answer: sessions end by the clock of Redis; JWTs carry its time',
    long: true,
    absent: () =>
      FAKETIME === undefined ? 'libfaketime is not there (apt-get install faketime)' : undefined,
    run: runWrongClocks,
  },
]

async function runFull(bench: Bench): Promise<void> {
  const redis = await deferred(bench, startStandalone())
  const stand = await startStand(bench, { redis })
  const { ledger, client } = stand
  const leaving: string[] = []
  for (const issued of await stand.wechat.codes(50)) {
    const { token } = await client.login({ target: stand.gateway().url, ...issued, nonce: newNonce() })
    leaving.push(token ?? '')
  }
  // The load does not validate these, which end while it runs.
  const kept = new Map(leaving.map((token) => [token, ledger.sessions.get(token)]))
  for (const token of leaving) ledger.sessions.delete(token)
  // Half of the usual logins: at 200 a second two cores take up to 60 ms for a login while nothing is broken.
  const load = await stand.load({ ...REDIS_LOAD, loginsPerSecond: REDIS_LOAD.loginsPerSecond / 2 })
  await untilWarm(bench, stand)
  bench.check('the sessions to be ended are there', [...kept.values()].every(Boolean))

  await redis.admin.config('SET', 'maxmemory', '1')
  const fromMs = performance.now()
  const visible = takesMs(
    async () => (await stand.gateway().metric('redis_failures_total', { reason: 'full' })) > 0,
    { withinMs: 30_000 },
  )
  for (const [at, token] of leaving.entries()) {
    await client.logout(stand.gateway(at % 3).url, token)
    await pause(50)
  }
  await pause(Math.max(0, fromMs + 5_000 - performance.now()))
  const toMs = performance.now()
  await redis.admin.config('SET', 'maxmemory', '0')
  const roomMs = performance.now()
  await pause(4_000)
  await load.stop()

  const span = { fromMs, toMs }
  bench.say(`  meanwhile ${ledger.summary({ fromMs, toMs })}`)
  bench.figure(
    'validations failed',
    ledger.find({ kind: 'validate', fromMs }).filter(({ status }) => status !== 200).length,
    { is: 0 },
  )
  bench.figure(
    'log-outs failed',
    ledger.find({ kind: 'logout' }).filter(({ status }) => status !== 204).length,
    { is: 0 },
  )
  bench.figure('logins 200 meanwhile', loginsWithin(ledger, span), { is: 0 })
  const p99 = ledger.quantile(0.99, { kind: 'login', status: 503, ...span })
  bench.figure('503 p99', p99, { unit: 'ms', max: 50 })
  bench.figure('exchanges meanwhile', await exchangesWithin(stand, span), { is: 0 })
  bench.figure('visible in the metrics after', await visible, { unit: 'ms', max: 30_000 })
  bench.figure('last failure after there was room', ledger.lastFailureAfterMs(roomMs), {
    unit: 'ms',
    max: 2_000,
  })
  bench.figure('halves of sessions', await halves(redis.admin), { is: 0 })
  await checkInvariants(bench, stand)
}

/** Users without any session, or without what a session needs; or that never end. */
async function halves(admin: Awaited<ReturnType<typeof startStandalone>>['admin']): Promise<number> {
  let found = 0
  let cursor = '0'
  do {
    const [next, keys] = await admin.scan(cursor, 'MATCH', 'user:*', 'COUNT', 1_000)
    cursor = next
    for (const key of keys) {
      const [fields, ttl] = await Promise.all([admin.hkeys(key), admin.ttl(key)])
      const whole = fields.some((name) => name.includes(':')) && fields.includes('k') && ttl > 0
      if (!whole && fields.length > 0) found += 1
    }
  } while (cursor !== '0')
  return found
}

async function runEvicting(bench: Bench): Promise<void> {
  const redis = await deferred(bench, startStandalone())
  await redis.admin.config('SET', 'maxmemory-policy', 'allkeys-lru')
  const stand = await startStand(bench, { redis, gateways: 1, awaitReady: false })
  const gateway = stand.gateway()
  await takesMs(async () => (await statusOf(`${gateway.url}/livez`)) === 200, { withinMs: 20_000 })
  await pause(5_000)
  const complaints = () => gateway.output().split('set maxmemory-policy noeviction').length - 1
  bench.figure('/readyz', await statusOf(`${gateway.url}/readyz`), { is: 503 })
  bench.figure('metric redis_eviction_policy_ok', await gateway.metric('redis_eviction_policy_ok'), { is: 0 })
  bench.figure('lines that say so', complaints(), { is: 1 })
  await redis.admin.config('SET', 'maxmemory-policy', 'noeviction')
  const readyMs = await takesMs(async () => (await statusOf(`${gateway.url}/readyz`)) === 200, {
    withinMs: 20_000,
  })
  bench.figure('ready after it is put right', readyMs, { unit: 'ms', max: 5_000 })
  await redis.admin.config('SET', 'maxmemory-policy', 'volatile-ttl')
  const seenMs = await takesMs(async () => (await gateway.metric('redis_eviction_policy_ok')) === 0, {
    withinMs: 40_000,
  })
  bench.figure('a change later is visible after', seenMs, { unit: 'ms', max: 30_000 })
  bench.figure('lines that say so, then', complaints(), { is: 2 })
  bench.figure('/readyz, then', await statusOf(`${gateway.url}/readyz`), { is: 200 })
  await redis.admin.config('SET', 'maxmemory-policy', 'noeviction')
  await checkInvariants(bench, stand)
}

async function runEmpty(bench: Bench): Promise<void> {
  const redis = await deferred(bench, startStandalone())
  const stand = await startStand(bench, { redis })
  const { ledger, client } = stand
  let lost = 0
  for (const what of ['FLUSHALL', 'a start with nothing']) {
    const load = await stand.load({ loginsPerSecond: 100, validationsPerSecond: 200 })
    await pause(3_000)
    await load.stop()
    // Jobs that are lost with their user are nobody's: what was acknowledged is provisioned before.
    await takesMs(async () => (await stand.worker().metric('provisioning_queue_jobs')) === 0, {
      withinMs: 30_000,
    })
    const tokens = [...ledger.sessions.keys()]
    lost = tokens.length
    await redis.admin.flushall()
    await redis.admin.script('FLUSH')
    if (what !== 'FLUSHALL') {
      await redis.node.kill()
      await redis.node.start()
      await takesMs(async () => (await client.validate(stand.gateway().url, 'x')).status === 401, {
        withinMs: 5_000,
      })
    }
    const answers = await Promise.all(
      tokens.slice(-300).map((token, at) => client.validate(stand.gateway(at % 3).url, token)),
    )
    bench.figure(
      `tokens not answered 401 after ${what}`,
      answers.filter(({ status }) => status !== 401).length,
      { is: 0 },
    )
    const fromMs = performance.now()
    const again = await stand.load({ loginsPerSecond: 100 })
    await pause(3_000)
    await again.stop()
    bench.figure(
      'logins failed afterwards',
      ledger.find({ kind: 'login', fromMs }).filter(({ status }) => status !== 200).length,
      { is: 0 },
    )
  }
  await checkInvariants(bench, stand, { sessionsLost: lost })
}

async function runDenied(bench: Bench): Promise<void> {
  const redis = await deferred(bench, startStandalone())
  const [password] = newKey('').slice(1).split('=')
  const setUser = (...rules: string[]) => redis.admin.call('ACL', 'SETUSER', 'gateway', ...rules)
  await setUser('on', `>${password}`, '~*', '&*', '+@all')
  const url = `redis://gateway:${encodeURIComponent(password ?? '')}@127.0.0.1:${redis.node.port}`
  const stand = await startStand(bench, { redis: { env: { ...redis.env, REDIS_URL: url } } })
  stand.secrets.push(password ?? '')
  const { ledger } = stand
  const load = await stand.load(REDIS_LOAD)
  await untilWarm(bench, stand)

  const fault = async (name: string, begin: () => Promise<unknown>, end: () => Promise<unknown>) => {
    const before = stand.gateways.map(complaints)
    await begin()
    const fromMs = performance.now()
    await pause(10_000)
    const toMs = performance.now()
    const lines = stand.gateways.map((gateway, at) => complaints(gateway) - (before[at] ?? 0))
    await end()
    const endMs = performance.now()
    await pause(4_000)
    const span = { fromMs: fromMs + 100, toMs }
    bench.say(`  ${name}: ${ledger.summary(span)}`)
    bench.figure(`${name}: logins 200`, loginsWithin(ledger, span), { is: 0 })
    bench.figure(
      `${name}: answers other than 200 and 503`,
      ledger.find(span).filter((attempt) => attempt.status !== 200 && !isFailure(attempt)).length,
      { is: 0 },
    )
    bench.figure(`${name}: exchanges`, await exchangesWithin(stand, { fromMs, toMs }), { is: 0 })
    bench.figure(`${name}: lines a second`, (1_000 * Math.max(...lines)) / (toMs - fromMs), { max: 1 })
    bench.figure(`${name}: last failure after its end`, ledger.lastFailureAfterMs(endMs), {
      unit: 'ms',
      max: 3_000,
    })
  }
  await fault(
    'no rights',
    () => setUser('-@all'),
    () => setUser('+@all'),
  )
  await fault(
    'another password',
    async () => {
      await setUser('resetpass', '>another-password-that-nobody-knows')
      await redis.admin.call('CLIENT', 'KILL', 'USER', 'gateway')
    },
    () => setUser('resetpass', `>${password}`),
  )
  await load.stop()
  await checkInvariants(bench, stand)
}

/** Lines from warnings up. */
function complaints(gateway: Gateway): number {
  return gateway
    .output()
    .split('\n')
    .filter((line) => line !== '' && !/"level":"(trace|debug|info)"/.test(line)).length
}

const FAKETIME = [
  '/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1',
  '/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1',
].find((path) => existsSync(path))

const SESSION_SECONDS = 60
const JWT_ISSUED_OFF_SECONDS_MAX = 3

async function runWrongClocks(bench: Bench): Promise<void> {
  const redis = await deferred(bench, startStandalone())
  const env = {
    SESSION_TTL_SECONDS: String(SESSION_SECONDS),
    SESSION_MAX_SECONDS: String(SESSION_SECONDS),
    JWT_AUDIENCES: 'orders',
  }
  const stand = await startStand(bench, { redis, env, gateways: 1 })
  const { client } = stand
  const wrong = async (number: number, offset: string) =>
    stand.startGateway(number, {
      LD_PRELOAD: FAKETIME ?? '',
      FAKETIME: offset,
      FAKETIME_DONT_FAKE_MONOTONIC: '1',
    })
  const gateways = [stand.gateway(), await wrong(2, '+10m'), await wrong(3, '-10m')]
  const [, ahead] = gateways
  const logged = /"time":"([^"]+)"/.exec(ahead?.output() ?? '')?.[1] ?? ''
  bench.figure('the clock ahead is off by', (Date.parse(logged) - Date.now()) / 1000, {
    unit: 's',
    min: 500,
    max: 700,
  })

  const sessions: { token: string; endsMs: number }[] = []
  for (const [at, issued] of (await stand.wechat.codes(60)).entries()) {
    const login = await client.login({ target: gateways[at % 3]?.url ?? '', ...issued, nonce: newNonce() })
    const [seconds] = await redis.admin.time()
    sessions.push({ token: login.token ?? '', endsMs: 1_000 * (Number(seconds) + SESSION_SECONDS) })
    await pause(50)
  }
  const off = await Promise.all(
    gateways.map((gateway, at) => jwtOffSeconds(stand, gateway, sessions[at]?.token ?? '')),
  )
  bench.figure('JWT issued at a time that is off by', Math.max(...off), {
    unit: 's',
    max: JWT_ISSUED_OFF_SECONDS_MAX,
  })

  let answers = 0
  let wrongAnswers = 0
  const ask = async () => {
    const asked = sessions.map(({ token }, at) => client.validate(gateways[at % 3]?.url ?? '', token))
    const other = sessions.map(({ token }, at) => client.validate(gateways[(at + 1) % 3]?.url ?? '', token))
    const third = sessions.map(({ token }, at) => client.validate(gateways[(at + 2) % 3]?.url ?? '', token))
    for (const [at, { status }] of (await Promise.all([...asked, ...other, ...third])).entries()) {
      const leftMs = (sessions[at % sessions.length]?.endsMs ?? 0) - Date.now()
      answers += 1
      // Within two seconds of the end either is right: Redis' seconds are whole.
      if ((leftMs > 2_000 && status !== 200) || (leftMs < -2_000 && status !== 401)) wrongAnswers += 1
    }
  }
  const lastMs = Math.max(...sessions.map(({ endsMs }) => endsMs))
  await ask()
  while (Date.now() < lastMs - 12_000) await pause(200)
  while (Date.now() < lastMs + 4_000) {
    await ask()
    await pause(500)
  }
  bench.figure(`of ${answers} answers wrong`, wrongAnswers, { is: 0 })
  await checkInvariants(bench, stand, {
    without: { I1: 'every session has ended, which is what is looked at' },
  })
}

/** How far a JWT's iat is from our own clock, which is Redis' too. */
async function jwtOffSeconds({ client }: Stand, gateway: Gateway, token: string): Promise<number> {
  const { body } = await client.send('other', gateway.url, {
    method: 'POST',
    path: '/token',
    headers: { authorization: `Bearer ${token}` },
    body: { audience: 'orders' },
  })
  const [, claims = ''] = String(body['token']).split('.')
  const { iat } = JSON.parse(Buffer.from(claims, 'base64url').toString()) as { iat: number }
  return Math.abs(iat - Date.now() / 1000)
}
