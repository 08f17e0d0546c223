/**
 * An ordinary day at a gateway, in minutes: besides logins and validations all else that it is used for, and some of
 * what it is misused for, so that every metric tells something. What comes of it is looked at in Prometheus, not here.
 */
import { randomBytes, randomInt } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { freePort, LOOPBACK } from '../../deploy/local/ports.ts'
import { newNonce } from '../faults/client.ts'
import { PROGRAM_ROOT, startProgram } from '../faults/program.ts'
import type { Bench } from '../faults/row.ts'
import type { Stand, StandOptions } from '../faults/stand.ts'
import { newWechatApp, startWechat } from '../faults/wechat.ts'
import { startWatchedStand } from './watched-stand.ts'
import type { WatchedStandOptions } from './watched-stand.ts'

const AUDIENCE = 'orders'
/** Somebody who tries codes; the limit is low, so that it is met within a minute. */
const GUESSER_IP = '10.9.9.9'
const INVALID_PER_IP = 20

export interface EverydayRates {
  loginsPerSecond: number
  validationsPerSecond: number
}

/** A watched stand with a webhook receiver, message pushes, JWTs, and a second app. */
export async function startEverydayStand(bench: Bench, options: WatchedStandOptions = {}) {
  const [first, second] = [newWechatApp(), newWechatApp()]
  const push = {
    token: randomBytes(16).toString('hex'),
    aesKey: randomBytes(32).toString('base64').slice(0, -1),
  }
  const wechat = await startWechat(bench, { apps: [first, second] })
  const stand: StandOptions = {
    ...options.stand,
    wechat,
    env: {
      JWT_AUDIENCES: AUDIENCE,
      SESSION_EVENTS: 'true',
      SESSION_TTL_SECONDS: '300', // so that use prolongs some of them
      LIMIT_INVALID_PER_IP: String(INVALID_PER_IP),
      WECHAT_PUSH_TOKEN: push.token,
      WECHAT_PUSH_AES_KEY: push.aesKey,
      ...options.stand?.env,
    },
    workerEnv: { ...(await startReceiver(bench)), ...options.stand?.workerEnv },
  }
  const watched = await startWatchedStand(bench, { ...options, stand })
  const gateway = watched.stand.gateway()
  await wechat.control('PUT', '/apps', {
    appid: first.appid,
    push: { url: `${gateway.url}/push/${first.appid}`, mode: 'safe', ...push },
  })
  const added = await gateway.admin('POST', '/apps', second)
  if (added.status !== 201) throw new Error(`the second app was not added: ${JSON.stringify(added.body)}`)
  return { ...watched, secondApp: second }
}

/** The receiver of deploy/examples, and what a worker needs to know of it. */
async function startReceiver(bench: Bench): Promise<Record<string, string>> {
  const folder = mkdtempSync(join(tmpdir(), 'gateway-webhooks-'))
  bench.defer(() => rmSync(folder, { recursive: true }))
  const [port, secret] = [await freePort(), `whsec_${randomBytes(32).toString('base64')}`]
  const program = await startProgram({
    name: 'receiver of webhooks',
    command: [process.execPath, join(PROGRAM_ROOT, 'deploy/examples/receive-webhooks.mjs')],
    env: { WEBHOOK_SECRETS: secret, PORT: String(port) },
  })
  bench.defer(() => program.end('SIGKILL'))
  const file = join(folder, 'webhooks.json')
  writeFileSync(
    file,
    JSON.stringify([{ name: 'crm', url: `http://${LOOPBACK}:${port}/`, secrets: [secret] }]),
  )
  return { WEBHOOKS_FILE: file, WEBHOOK_PORTS: String(port), WEBHOOK_PRIVATE_NETWORKS: '127.0.0.0/8' }
}

export interface Everyday {
  /** Stops, and waits for what is under way. */
  stop(): Promise<void>
  /** How often which deed was done; one that is not done at all is missing in the metrics too. */
  readonly done: Readonly<Record<string, number>>
}

/** Begins; faults of the stand are expected to fail much of it. */
export async function startEveryday(
  bench: Bench,
  { stand, secondApp }: { stand: Stand; secondApp: { appid: string } },
  rates: EverydayRates,
): Promise<Everyday> {
  const { client, wechat, ledger, app } = stand
  const load = await stand.load({ ...rates, appid: app.appid, loginsPerUser: 3, follows: true })
  const done: Record<string, number> = {}
  const stopping = new AbortController()

  const target = () => stand.gateways[randomInt(stand.gateways.length)]?.url ?? ''
  const ask = (method: string, path: string, { token = '', body }: { token?: string; body?: unknown }) =>
    client.send('other', target(), { method, path, headers: { authorization: `Bearer ${token}` }, body })

  /** Somebody who logs in now, and of whose session nobody else knows. */
  async function logIn(appid = app.appid) {
    const [issued] = await wechat.codes(1, { appid })
    if (issued === undefined) throw new Error('no code')
    const nonce = newNonce()
    const { token = '' } = await client.login({ target: target(), ...issued, appid, nonce })
    ledger.sessions.delete(token)
    return { ...issued, nonce, token }
  }

  const deeds: Record<string, { everySeconds: number; run(): Promise<unknown> }> = {
    'log-out': {
      everySeconds: 0.7,
      async run() {
        const { token } = await logIn()
        const ways = ['/session', '/sessions', '/sessions?keep=current']
        await ask('DELETE', ways[randomInt(ways.length)] ?? '', { token })
        await client.validate(target(), token)
      },
    },
    'double tap': {
      everySeconds: 1,
      async run() {
        const [issued] = await wechat.codes(1, { appid: app.appid })
        if (issued === undefined) return
        const login = { ...issued, appid: app.appid, nonce: newNonce() }
        const both = stand.gateways.slice(0, 2).map(({ url }) => client.login({ target: url, ...login }))
        const answers = await Promise.all([...both, client.login({ target: target(), ...login })])
        for (const { token = '' } of answers) ledger.sessions.delete(token)
        await client.login({ target: target(), ...login, nonce: newNonce() }) // somebody else with the same code
      },
    },
    guess: {
      everySeconds: 0.8,
      async run() {
        const code = randomBytes(24).toString('base64url')
        await client.login({ target: target(), code, appid: app.appid, ip: GUESSER_IP })
        await client.validate(target(), `wxs_${randomBytes(40).toString('hex').slice(0, 54)}`)
      },
    },
    'late code': {
      everySeconds: 2,
      run: () =>
        client.login({ target: target(), code: randomBytes(24).toString('base64url'), appid: app.appid }),
    },
    'open data': {
      everySeconds: 1,
      async run() {
        const { openid, token } = await logIn()
        const data = (await wechat.control('POST', '/open-data', { openid, kind: 'user_info' })) as Record<
          'encryptedData' | 'iv' | 'rawData' | 'signature',
          string
        >
        await ask('POST', '/session/decrypt', {
          token,
          body: { encrypted_data: data.encryptedData, iv: data.iv },
        })
        await ask('POST', '/session/verify', {
          token,
          body: { raw_data: data.rawData, signature: data.signature },
        })
      },
    },
    phone: {
      everySeconds: 2,
      async run() {
        const { openid, token } = await logIn()
        const { codes } = (await wechat.control('POST', '/phone-codes', { openid })) as {
          codes: { code: string }[]
        }
        await ask('POST', '/session/phone', { token, body: { code: codes[0]?.code } })
      },
    },
    JWT: {
      everySeconds: 1,
      async run() {
        const { token } = await logIn()
        const { body } = await ask('POST', '/token', { token, body: { audience: AUDIENCE } })
        await stand.gateway().admin('POST', '/introspect', { token: body['token'] ?? 'none' })
        await stand.gateway().admin('POST', '/introspect', { token })
      },
    },
    'session_key check': {
      everySeconds: 3,
      async run() {
        const { openid } = await logIn()
        await stand.gateway().admin('POST', '/check-session-key', { appid: app.appid, openid })
      },
    },
    push: {
      everySeconds: 4,
      async run() {
        const { openid } = await logIn()
        await wechat.control('POST', '/pushes', { appid: app.appid, openid, attempts: 1 })
      },
    },
    erasure: {
      everySeconds: 5,
      async run() {
        const { openid } = await logIn()
        await stand.gateway().admin('DELETE', `/users/${app.appid}/${openid}`)
      },
    },
    block: {
      everySeconds: 7,
      async run() {
        const { openid } = await logIn()
        await stand.gateway().admin('PUT', `/users/${app.appid}/${openid}/block`, { ttl_seconds: 600 })
      },
    },
    'second app': { everySeconds: 0.4, run: () => logIn(secondApp.appid) },
  }

  const running = Object.entries(deeds).map(async ([name, { everySeconds, run }]) => {
    while (!stopping.signal.aborted) {
      const succeeded = await run().then(
        () => true,
        () => false, // what it needs is away; faults are what this is for
      )
      if (succeeded) done[name] = (done[name] ?? 0) + 1
      await pause(1_000 * everySeconds, undefined, { signal: stopping.signal }).catch(() => {})
    }
  })

  async function stop(): Promise<void> {
    stopping.abort()
    await Promise.all([load.stop(), ...running])
  }
  bench.defer(stop)
  return { stop, done }
}
