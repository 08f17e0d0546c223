/**
 * Nothing secret gets out, at log level trace and with every request traced, while things go wrong: secrets are
 * planted, a run with every kind of failure follows, and then everything that the system has written is searched for
 * them. Logs, metrics and spans are also searched for whatever names a person.
 */
import { randomUUID } from 'node:crypto'
import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import { expect, inject, onTestFinished, test } from 'vitest'
import { startRedis } from '../deploy/local/redis-server.ts'
import { createClient } from './harness/client.ts'
import type { Reply } from './harness/client.ts'
import { startCollector } from './harness/collector.ts'
import { dumpDatabase, dumpRedis } from './harness/dumps.ts'
import { APP_SECRET, APPID, gatewayEnvironment, SIMULATED, workerEnvironment } from './harness/environment.ts'
import { startGatewayProcess, startWorkerProcess } from './harness/processes.ts'
import { until } from './harness/until.ts'
import { subjectOf } from '../src/subject.ts'
import { createPostgresDatabase } from './postgres-database.ts'
import { startSimulator } from './simulator/server.ts'

const REDIS_PASSWORD = 'redis-password-canary-7Qm2'
const DATABASE_PASSWORD = 'database-password-canary-4Xw9'
const COLLECTOR_KEY = 'collector-key-canary-8Rt5'
/** What a client says of itself. */
const CLIENT = {
  ip: '198.51.100.213',
  userAgent: 'canary-phone-5Zk8/7.1',
  nonce: 'nonce-canary-6Hj1-0123456789',
}

/** Every form in which a secret could slip out: as it is, encoded, quoted, and its beginning alone. */
function formsOf(secret: string): string[] {
  const bytes = Buffer.from(secret)
  return [
    secret,
    bytes.toString('base64').replace(/=+$/, ''),
    bytes.toString('base64url'),
    bytes.toString('hex'),
    encodeURIComponent(secret),
    JSON.stringify(secret).slice(1, -1),
    secret.slice(0, 16),
  ]
}

/** session_key and our own keys are bytes that happen to travel as base64; both forms count. */
function formsOfKey(base64: string): string[] {
  const bytes = Buffer.from(base64, 'base64')
  return [...formsOf(base64), bytes.toString('hex'), bytes.toString('base64url'), bytes.toString('latin1')]
}

test('planted secrets are in no log, metric, error, Redis value or table after a run full of failures', async () => {
  const wechat = await startSimulator(SIMULATED)
  onTestFinished(() => wechat.close())
  const redisServer = await startRedis({ persistent: false, allowDocker: false })
  onTestFinished(() => redisServer.stop())
  const redisUrl = `redis://:${REDIS_PASSWORD}@127.0.0.1:${redisServer.port}`
  const operator = new Redis(redisServer.url)
  await operator.config('SET', 'requirepass', REDIS_PASSWORD)

  const collector = await startCollector()
  const tracing = {
    OTEL_EXPORTER_OTLP_ENDPOINT: collector.url,
    OTEL_EXPORTER_OTLP_HEADERS: `authorization=${COLLECTOR_KEY}`,
    OTEL_TRACES_SAMPLER_ARG: '1',
  }
  const env = gatewayEnvironment(wechat, {
    ...tracing,
    TRUST_PROXY: '127.0.0.1/32',
    REDIS_URL: redisUrl,
    LOG_LEVEL: 'trace',
    LOGIN_DEADLINE_MS: '800',
    KEY_PREFIX: '',
  })
  const database = await newDatabase()
  const gateway = await startGatewayProcess(env)
  const worker = await startWorkerProcess(
    workerEnvironment(env, { ...tracing, ...database.env, LOG_LEVEL: 'trace' }),
  )

  const replies: Reply[] = []
  const codes: string[] = []
  const tokens: string[] = []
  async function logIn(fault?: Parameters<typeof wechat.addFault>[0]): Promise<Reply> {
    const { code } = wechat.issueCode({ unionid: `union-canary-${randomUUID()}` })
    codes.push(code)
    const rule = fault && wechat.addFault({ ...fault, code })
    const said = { 'x-forwarded-for': CLIENT.ip, 'user-agent': CLIENT.userAgent }
    const reply = await gateway.login({ code, nonce: CLIENT.nonce }, said)
    rule?.remove()
    if (reply.status === 200) tokens.push(reply.body.token)
    else replies.push(reply)
    return reply
  }

  // What works.
  for (let i = 0; i < 5; i += 1) expect((await logIn()).status).toBe(200)
  const [token = ''] = tokens
  await until('a user to be provisioned', async () => (await gateway.get('/session', token)).body.provisioned)

  // What fails at WeChat.
  for (const errcode of [-1, 40029, 40163, 40226, 45011, 40125, 40013, 99999])
    await logIn({ kind: 'errcode', errcode })
  for (const kind of ['hang_after', 'reset', 'garbage', 'empty', 'truncate', 'html'] as const)
    await logIn({ kind })

  // What fails at the door.
  const [code = ''] = codes
  replies.push(
    await gateway.get(`/login?code=${code}&session_key=${token}`),
    await gateway.get(`/${code}`),
    await gateway.get(`/session?token=${token}`),
    await gateway.get(`/login?code=${encodeURIComponent(`${code}&secret=${APP_SECRET}`)}`),
    await gateway.send('POST', '/login', { headers: { 'content-type': 'text/plain' }, body: code }),
    await gateway.send('POST', '/login', {
      headers: { 'content-type': 'application/json' },
      body: `{"code": "${code}"`,
    }),
    await gateway.send('POST', '/login', { headers: { 'x-request-id': token }, body: token }),
    await gateway.get('/session', `${token}x`),
    await gateway.admin.get(`/users/${token}`, env['ADMIN_TOKEN']),
    await gateway.admin.get('/users', 'wrong'),
  )

  // What fails inside: Redis refuses its password, then is gone.
  await operator.config('SET', 'requirepass', 'changed')
  await operator.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
  await until('logins to fail', async () => (await logIn()).status === 503)
  replies.push(await gateway.get('/session', token))
  await operator.config('SET', 'requirepass', REDIS_PASSWORD)
  await until('logins to work again', async () => (await logIn()).status === 200, 15_000)
  await until(
    'the worker to work again',
    async () => (await gateway.get('/session', tokens.at(-1))).body.provisioned,
    20_000,
  )

  const workerAdmin = createClient(worker.url)
  const metrics = [await gateway.admin.get('/metrics'), await workerAdmin.get('/metrics')]
  await workerAdmin.close()
  // Jobs that are done are gone; some have to wait while Redis is searched.
  await worker.end('SIGTERM')
  for (let i = 0; i < 3; i += 1) expect((await logIn()).status).toBe(200)
  const redisDump = await dumpRedis(operator)
  operator.disconnect()
  await gateway.end('SIGTERM')

  const written: Record<string, string> = {
    'gateway output': gateway.output(),
    'worker output': worker.output(),
    metrics: metrics.map(({ text }) => text).join('\n'),
    'error answers': replies.map(({ text, headers }) => JSON.stringify(headers) + text).join('\n'),
    spans: collector.text(),
    Redis: redisDump,
    database: await dumpDatabase(database.location),
  }
  const secrets: Record<string, string[]> = {
    AppSecret: formsOf(APP_SECRET),
    session_key: wechat.users().flatMap((user) => formsOfKey(user.sessionKey ?? '')),
    code: codes.flatMap(formsOf),
    token: tokens.flatMap((token) => [...formsOf(token.slice(26)), token]),
    'admin token': formsOf(env['ADMIN_TOKEN'] ?? ''),
    'seal key': formsOfKey((env['SEAL_KEYS'] ?? '').slice(3)),
    'token key': formsOfKey((env['TOKEN_KEYS'] ?? '').slice(3)),
    'Redis password': formsOf(REDIS_PASSWORD),
    'database password': formsOf(DATABASE_PASSWORD),
    'key of the collector': formsOf(COLLECTOR_KEY),
  }
  /** Redis and the database are where people are kept, and answers are theirs. */
  const people: Record<string, string[]> = {
    openid: wechat.users().flatMap(({ openid }) => formsOf(openid)),
    unionid: wechat.users().flatMap(({ unionid }) => formsOf(unionid ?? '')),
    subject: wechat.users().map(({ openid }) => subjectOf(APPID, openid)),
    address: [CLIENT.ip],
    'user agent': formsOf(CLIENT.userAgent),
    nonce: formsOf(CLIENT.nonce),
  }
  const impersonal = ['gateway output', 'worker output', 'metrics', 'spans']

  // The search itself has to be able to find: each place holds what it should hold.
  expect(written['gateway output']).toContain('"level":"warn"')
  expect(written['Redis']).toContain(wechat.users()[0]?.openid)
  expect(written['database']).toContain(wechat.users().at(-1)?.openid)
  expect(written['Redis']).toContain('"v":2') // a job
  expect(secrets['session_key']?.filter((form) => form.length >= 16).length).toBeGreaterThan(20)

  // Spans of all six hops, at that.
  const hops = [
    'POST /login',
    'EVALSHA open-session',
    'GET /sns/jscode2session',
    'send provision',
    'process provision',
  ]
  for (const hop of [...hops, 'INSERT identities']) expect(written['spans']).toContain(`"${hop}"`)
  expect(collector.headers[0]?.authorization).toBe(COLLECTOR_KEY)
  expect(people['unionid']?.filter((form) => form.length >= 16).length).toBeGreaterThan(20)

  const hits = Object.entries(written).flatMap(([place, text]) =>
    Object.entries({ ...secrets, ...(impersonal.includes(place) && people) }).flatMap(([name, forms]) =>
      forms.filter((form) => form.length >= 8 && text.includes(form)).map(() => `${name} in ${place}`),
    ),
  )
  expect(hits).toEqual([])
  expect(
    gateway
      .output()
      .split('\n')
      .filter((line) => line !== '' && !line.startsWith('{')),
  ).toEqual([])
}, 90_000)

async function newDatabase() {
  const serverUrl = inject('postgresUrl')
  if (serverUrl === '') {
    const dataDir = mkdtempSync(join(tmpdir(), 'gateway-data-'))
    return { env: { DATA_DIR: dataDir }, location: { url: undefined, dataDir } }
  }
  const { url: ownUrl, name, query } = await createPostgresDatabase(serverUrl)
  await query(`create role ${name} login superuser password '${DATABASE_PASSWORD}'`)
  const url = new URL(ownUrl)
  url.username = name
  url.password = DATABASE_PASSWORD
  return { env: { DATABASE_URL: url.href }, location: { url: url.href, dataDir: '' } }
}
