/**
 * What a login costs Redis: commands, round trips, bytes. Counted, not timed, so that nobody adds one unseen.
 * A higher figure here is a decision to be made, not a test to be adjusted.
 */
import { randomUUIDv7 } from 'node:crypto'
import { createConnection, createServer } from 'node:net'
import { once } from 'node:events'
import { expect, inject, onTestFinished, test } from 'vitest'
import { APPID, newPrefix } from './harness/environment.ts'
import { startHarness } from './harness/gateway.ts'
import type { Harness } from './harness/gateway.ts'
import { createAcknowledge } from '../src/provisioning.ts'
import { startMonitor } from './harness/monitor.ts'
import { until } from './harness/until.ts'

/** Replies are held this long, so that what is sent without waiting for one goes in the same trip. */
const REPLY_DELAY_MS = 40

/** A proxy before Redis that counts round trips: how often the client speaks after having heard an answer. */
async function startCountingProxy(redisUrl: string) {
  const { hostname, port } = new URL(redisUrl)
  let trips = 0
  /** The next answer is that of a background read, which waits for nobody. */
  let inBackground = false
  let backgrounds = 0
  const server = createServer((client) => {
    const upstream = createConnection(Number(port), hostname)
    let heard = true
    client.on('data', (bytes) => {
      inBackground = isBackground(bytes.toString('latin1'))
      if (inBackground) backgrounds += 1
      if (heard && !inBackground) trips += 1
      if (!inBackground) heard = false
      upstream.write(bytes)
    })
    upstream.on('data', (bytes) => {
      const answersBackground = inBackground
      inBackground = false
      setTimeout(() => {
        if (!answersBackground) heard = true
        client.write(bytes)
      }, REPLY_DELAY_MS)
    })
    for (const [socket, other] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      socket.on('close', () => other.destroy())
      socket.on('error', () => other.destroy())
    }
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => void server.close())
  const address = server.address()
  if (address === null || typeof address === 'string') throw new TypeError('a TCP server has a port')
  return {
    url: `redis://127.0.0.1:${address.port}`,
    /** Once more where something in the background came between, which may travel in one packet with what is counted. */
    async count(action: () => Promise<unknown>): Promise<number> {
      for (;;) {
        const [tripsBefore, backgroundsBefore] = [trips, backgrounds]
        await action()
        if (backgrounds === backgroundsBefore) return trips - tripsBefore
      }
    },
  }
}

/** The registry of apps is read now and then, and the queue is counted, whether or not anybody logs in. */
function isBackground(command: string): boolean {
  const isRegistry = /^\*2\r\n\$7\r\nhgetall\r\n\$\d+\r\n[^\r]*apps\r\n$/i.test(command)
  return isRegistry || isCount(command.split('\r\n'))
}

/** BullMQ's count of the jobs in these states; nothing else names two of them. */
function isCount(args: readonly string[]): boolean {
  return args.includes('delayed') && args.includes('failed')
}

/** The commands that clients send during an action, without those that scripts run inside Redis. */
async function commandsDuring(harness: Harness, action: () => Promise<unknown>) {
  const monitor = await startMonitor(inject('redisUrl'))
  const marker = newPrefix()
  await action()
  await harness.redis.echo(marker)
  await until('the monitor to have seen everything', () =>
    monitor.commands().some(({ args }) => args.includes(marker)),
  )
  monitor.stop()
  const sent: string[] = []
  const inScripts: string[] = []
  let isCounting = false
  for (const { args, inScript } of monitor.commands()) {
    if (args.includes(marker)) break
    if (!inScript) isCounting = isCount(args)
    if (isCounting || args[1] === harness.keys.apps) continue
    if (args.some((arg) => arg.includes(harness.env['KEY_PREFIX'] ?? 'no prefix')))
      (inScript ? inScripts : sent).push((args[0] ?? '').toLowerCase())
  }
  return { sent, inScripts }
}

/** A user who has logged in before and whom the worker has acknowledged. */
async function knownUser(harness: Harness) {
  const { openid, code } = harness.wechat.issueCode({ unionid: 'o6_bmasdasdsad6_2sgVt7hMZOPfL' })
  const { body } = await harness.login({ code })
  const acknowledge = createAcknowledge(harness.redis, harness.keys)
  await acknowledge({ sub: body.sub, userId: '01890a5d-ac96-774b-bcce-b302099a8057', unionid: body.unionid })
  // The scripts are known to Redis and the connection is warm from the first login on.
  return {
    openid,
    token: body.token,
    sub: body.sub,
    newCode: () => harness.wechat.issueCode({ openid }).code,
  }
}

test('a returning login: 4 commands in 2 round trips', async () => {
  const proxy = await startCountingProxy(inject('redisUrl'))
  const harness = await startHarness({ env: { REDIS_URL: proxy.url } })
  const user = await knownUser(harness)
  await harness.login({ code: user.newCode() })

  const trips = await proxy.count(() => harness.login({ code: user.newCode() }))
  expect(trips).toBe(2)

  const { sent, inScripts } = await commandsDuring(harness, () => harness.login({ code: user.newCode() }))
  // limit(address) and claim; open session and settle. What the app may send was counted ahead.
  expect(sent).toEqual(['evalsha', 'evalsha', 'evalsha', 'evalsha'])
  // One of them asks whether the user is blocked: 0.5 µs, in exchange for no command in a validation.
  expect(inScripts.length).toBeLessThanOrEqual(14)
})

test('a first login: one command and one round trip more, for the job', async () => {
  const proxy = await startCountingProxy(inject('redisUrl'))
  const harness = await startHarness({ env: { REDIS_URL: proxy.url } })
  await harness.login({ code: harness.wechat.issueCode().code })

  const trips = await proxy.count(() => harness.login({ code: harness.wechat.issueCode().code }))
  expect(trips).toBe(3)
  const { sent } = await commandsDuring(harness, () =>
    harness.login({ code: harness.wechat.issueCode().code }),
  )
  expect(sent).toEqual(Array(5).fill('evalsha'))
})

test('a retry of a settled login: 3 commands in 2 round trips', async () => {
  const proxy = await startCountingProxy(inject('redisUrl'))
  const harness = await startHarness({ env: { REDIS_URL: proxy.url } })
  const user = await knownUser(harness)
  const code = user.newCode()
  await harness.login({ code })

  expect(await proxy.count(() => harness.login({ code }))).toBe(2)
  const { sent } = await commandsDuring(harness, () => harness.login({ code }))
  expect(sent).toEqual(['evalsha', 'evalsha', 'hmget'])
})

test('a validation: one HMGET in one round trip', async () => {
  const proxy = await startCountingProxy(inject('redisUrl'))
  const harness = await startHarness({ env: { REDIS_URL: proxy.url } })
  const { token } = await knownUser(harness)

  for (const path of ['/auth', '/session']) {
    expect(await proxy.count(() => harness.get(path, token))).toBe(1)
    const { sent } = await commandsDuring(harness, () => harness.get(path, token))
    expect(sent).toEqual(['hmget'])
  }
})

test('a token that cannot be one costs Redis nothing', async () => {
  const harness = await startHarness()
  const { sent } = await commandsDuring(harness, () => harness.get('/auth', 'wxs_too-short'))
  expect(sent).toEqual([])
})

test('a user with one session takes at most 320 bytes of Redis, with five at most 640', async () => {
  // Without a prefix of the test's, which would count: a production key is user:{<sub>}.
  const harness = await startHarness({ env: { KEY_PREFIX: '' } })
  const { openid, sub } = await knownUser(harness)
  onTestFinished(async () => void (await harness.redis.del(harness.keys.user(sub))))

  const one = await harness.redis.memory('USAGE', harness.keys.user(sub), 'SAMPLES', 0)
  for (let i = 0; i < 4; i += 1) {
    await harness.login({ code: harness.wechat.issueCode({ openid }).code })
  }
  const five = await harness.redis.memory('USAGE', harness.keys.user(sub), 'SAMPLES', 0)
  console.log(
    `MEMORY USAGE of a provisioned user with unionid: ${one} bytes with one session, ${five} with five`,
  )

  expect(await harness.redis.object('ENCODING', harness.keys.user(sub))).toBe('listpack')
  expect(one).toBeLessThanOrEqual(320)
  expect(five).toBeLessThanOrEqual(640)

  const { body } = await harness.login({ code: harness.wechat.issueCode({ unionid: null }).code })
  onTestFinished(async () => void (await harness.redis.del(harness.keys.user(body.sub))))
  await createAcknowledge(harness.redis, harness.keys)({ sub: body.sub, userId: randomUUIDv7() })
  const plain = await harness.redis.memory('USAGE', harness.keys.user(body.sub), 'SAMPLES', 0)
  console.log(`without a unionid: ${plain} bytes with one session`)
  expect(body.unionid).toBeUndefined()
  expect(plain).toBeLessThanOrEqual(320)
})

test('a job takes at most 1,000 bytes of Redis, and every key of a login has an end', async () => {
  const harness = await startHarness()
  const { code } = harness.wechat.issueCode({ unionid: 'o6_bmasdasdsad6_2sgVt7hMZOPfL' })
  const { body } = await harness.login({ code })
  const { redis } = harness

  const names = await redis.keys(`${harness.env['KEY_PREFIX']}*`)
  // A queue's own settings stay, as the queue does.
  const queues = ['provision', 'erase'].map((queue) => harness.keys.queue(queue))
  for (const key of names.filter((name) => !queues.some((queue) => name.startsWith(queue)))) {
    expect(await redis.pttl(key), key).toBeGreaterThan(0)
  }
  const jobs = names.filter((name) => /:j[\w-]{12}$/.test(name))
  expect(jobs).toHaveLength(1)
  const bytes = await redis.memory('USAGE', jobs[0] ?? '', 'SAMPLES', 0)
  console.log(`MEMORY USAGE of a waiting job: ${bytes} bytes`)
  expect(bytes).toBeLessThanOrEqual(1_000)
  expect(JSON.stringify(await redis.hgetall(jobs[0] ?? ''))).not.toContain(body.token)
})

test('a fresh session says how long it lives and under which app', async () => {
  const harness = await startHarness({ env: { SESSION_TTL_SECONDS: '3600' } })
  const { body } = await harness.login({ code: harness.wechat.issueCode().code })
  expect(body.expires_in).toBe(3_600)
  const left = await harness.redis.ttl(harness.keys.user(body.sub))
  expect(left).toBeGreaterThan(3_590)
  expect(left).toBeLessThanOrEqual(3_600)
  expect((await harness.get('/session', body.token)).body['appid']).toBe(APPID)
})
