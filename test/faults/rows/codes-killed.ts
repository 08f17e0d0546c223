/** D: the one who leads a code is killed, is stalled, or loses its Redis on the way. */
import { setTimeout as pause } from 'node:timers/promises'
import { LEASE_MS } from '../../../src/codes.ts'
import { until } from '../../harness/until.ts'
import { newNonce } from '../client.ts'
import { checkInvariants } from '../invariants.ts'
import { startSentinels, startStandalone } from '../redis-servers.ts'
import type { Bench, Row } from '../row.ts'
import { startStand } from '../stand.ts'
import type { Gateway, Stand } from '../stand.ts'
import { startTcpProxy } from '../tcp-proxy.ts'
import type { IssuedCode } from '../wechat.ts'

const ROUNDS = 5
/** Of the same client, over the gateways that live on. */
const COPIES = 20
/** What a survivor may take beyond the lease: a poll, the exchange. */
const TAKEOVER_MS_MAX = LEASE_MS + 300
const STALL_MS = 2_500
/** A login that takes longer is not going to be settled. */
const SETTLED_MS_MAX = 5_000
const D9 = { codes: 40, copies: 3, retriesMax: 10, heldMsMax: 3_800 }

const LEADER_KILLED = {
  exchangesPerCode: 2,
  resetsAllowed: true, // of the clients of the one that was killed
}

export const killedLeaderRows: readonly Row[] = [
  {
    id: 'D6',
    title: 'The leader of a code is killed before it has sent it',
    pass: `one exchange; everybody else logs in within the lease + 300 ms`,
    short: true,
    async run(bench) {
      const stand = await startStand(bench, { gateways: 2 })
      // The leader's road to WeChat swallows what it sends.
      const road = await startTcpProxy(bench, Number(new URL(stand.wechat.url).port))
      road.set({ blackHole: true })
      const leader = await stand.startGateway(3, { WECHAT_API_URLS: `http://127.0.0.1:${road.port}` })
      const takeoversMs: number[] = []
      for (let round = 0; round < ROUNDS; round += 1) {
        if (!leader.isRunning()) await leader.start()
        const sent = road.accepted()
        const { issued, answers, slowestMs } = await killLeader(stand, leader, () =>
          until('the leader to be on its way', () => road.accepted() > sent),
        )
        noteSession(bench, answers)
        takeoversMs.push(slowestMs)
        bench.figure('requests to WeChat', (await stand.wechat.history({ code: issued.code })).length, {
          is: 1,
        })
      }
      bench.figure('slowest survivor after the kill', Math.max(...takeoversMs), {
        unit: 'ms',
        max: TAKEOVER_MS_MAX,
      })
      await checkInvariants(bench, stand, { ...LEADER_KILLED, exchangesPerCode: 1 })
    },
  },
  {
    id: 'D7',
    title: 'The leader of a code is killed when WeChat has used it up, before the session is there',
    pass: 'two exchanges; everybody else is told code_consumed, new_code, within the lease + 300 ms; a new code logs in',
    short: true,
    async run(bench) {
      const stand = await startStand(bench)
      const leader = stand.gateway(2)
      const takeoversMs: number[] = []
      for (let round = 0; round < ROUNDS; round += 1) {
        await stand.wechat.fault({ kind: 'hang_after', times: 1 })
        const { issued, answers, slowestMs } = await killLeader(stand, leader, (code) =>
          stand.wechat.control('GET', `/received?code=${code}`),
        )
        const told = answers.filter(
          ({ status, errorCode, retry }) =>
            status === 409 && errorCode === 'code_consumed' && retry === 'new_code',
        )
        bench.figure('told code_consumed', told.length, { is: COPIES })
        takeoversMs.push(slowestMs)
        bench.figure('requests to WeChat', (await stand.wechat.history({ code: issued.code })).length, {
          is: 2,
        })
        const again = await stand.client.login({
          target: stand.gateway().url,
          ...(await newCode(stand, issued.openid)),
          nonce: newNonce(),
        })
        bench.figure('status of the next login', again.status, { is: 200 })
        await leader.start()
      }
      bench.figure('slowest survivor after the kill', Math.max(...takeoversMs), {
        unit: 'ms',
        max: TAKEOVER_MS_MAX,
      })
      await checkInvariants(bench, stand, LEADER_KILLED)
    },
  },
  {
    id: 'D7-settled',
    title: 'The leader of a code is killed as soon as the session is there, its answer sent or not',
    pass: 'one exchange; everybody else gets that session',
    async run(bench) {
      const redis = await startStandalone()
      bench.defer(() => redis.close())
      const stand = await startStand(bench, { redis })
      const leader = stand.gateway(2)
      for (let round = 0; round < ROUNDS; round += 1) {
        const issued = await newCode(stand)
        const nonce = newNonce()
        const first = stand.client.login({ target: leader.url, ...issued, nonce })
        const givenUpMs = performance.now() + SETTLED_MS_MAX
        while (!(await isSettled()) && performance.now() < givenUpMs) await pause(0)
        await leader.end('SIGKILL')
        const { token } = await first
        const answers = await sendCopies(stand, issued, nonce)
        noteSession(bench, answers, token)
        bench.figure('requests to WeChat', (await stand.wechat.history({ code: issued.code })).length, {
          is: 1,
        })
        await redis.admin.del(await redis.admin.keys('code:*')) // so that the next is the only one
        await leader.start()
      }
      await checkInvariants(bench, stand, { ...LEADER_KILLED, exchangesPerCode: 1 })

      async function isSettled(): Promise<boolean> {
        const [key] = await redis.admin.keys('code:*')
        return key !== undefined && (await redis.admin.hget(key, 'st')) === 'D'
      }
    },
  },
  {
    id: 'D8',
    title: `The leader of a code is stopped for ${STALL_MS} ms, beyond its lease, with WeChat's answer at its door`,
    pass: 'its late success is kept and a retry gets it; a session_key that is newer than its own stays',
    short: true,
    async run(bench) {
      // Longer than the stall by more than a busy machine takes, so that its answer is still wanted.
      const stand = await startStand(bench, { env: { LOGIN_DEADLINE_MS: '4500' } })
      const leader = stand.gateway(2)
      for (let round = 0; round < ROUNDS; round += 1) {
        const issued = await newCode(stand)
        const nonce = newNonce()
        await stand.wechat.fault({ kind: 'hold', times: 1 })
        const stalled = stand.client.login({ target: leader.url, ...issued, nonce })
        await stand.wechat.control('GET', `/received?code=${issued.code}`)
        leader.signal('SIGSTOP')
        const stoppedMs = performance.now()
        await stand.wechat.release()

        // Meanwhile the phone sends its code again, and then the user logs in twice more, each time with a new key.
        const copies = sendCopies(stand, issued, nonce, leader)
        const later: { token: string; openData: OpenData }[] = []
        for (const at of [0, 1]) {
          const login = await stand.client.login({
            target: stand.gateway(at).url,
            ...(await newCode(stand, issued.openid)),
            nonce: newNonce(),
          })
          const openData = await stand.wechat.control('POST', '/open-data', { openid: issued.openid })
          later.push({ token: login.token ?? 'none', openData: openData as OpenData })
        }
        await copies
        await pause(STALL_MS - (performance.now() - stoppedMs))
        leader.signal('SIGCONT')

        const late = await stalled
        bench.figure('status of the stalled login', late.status, { is: 200 })
        const retries = await sendCopies(stand, issued, nonce)
        bench.figure(
          'retries that get its session',
          retries.filter(({ token }) => token === late.token).length,
          {
            is: COPIES,
          },
        )
        // The last key and the one before it are kept: were the late one among them, the older of these two were gone.
        let opened = 0
        for (const token of [late.token ?? 'none', ...later.map((login) => login.token)])
          for (const { openData } of later) if (await opens(stand, token, openData)) opened += 1
        bench.figure('open data that the newer keys open', opened, { is: 6 })
        bench.figure('exchanges of the code', (await stand.wechat.history({ code: issued.code })).length, {
          max: 2,
        })
      }
      await checkInvariants(bench, stand, { exchangesPerCode: 2 })
    },
  },
  {
    id: 'D9',
    title: `The Redis master is killed while ${D9.codes} codes, ${D9.copies} copies each, are at WeChat (Sentinel)`,
    pass: "each ends with 200 or code_consumed; two exchanges a code at most; nobody gets another's session",
    async run(bench) {
      const redis = await startSentinels()
      bench.defer(() => redis.close())
      // The longest that may be set: WeChat is to be slow here, not to be given up.
      const stand = await startStand(bench, { redis, env: { LOGIN_DEADLINE_MS: '4500' } })
      const hold = async (times: number) =>
        ((await stand.wechat.control('POST', '/faults', { kind: 'hold', times })) as { ids: number[] }).ids[0]
      const [early, late] = [await hold(D9.codes / 2), await hold(D9.codes / 2)]
      const codes = await stand.wechat.codes(D9.codes)
      const logins = codes.flatMap((issued) => {
        const nonce = newNonce()
        return Array.from({ length: D9.copies }, (_, at) => follow(stand, issued, nonce, at))
      })
      await until(
        'WeChat to have all codes',
        async () => (await stand.wechat.summary()).codes.exchanged === codes.length,
      )
      const former = await redis.master()
      await former.kill()
      const killedMs = performance.now()
      await stand.wechat.control('POST', '/faults/release', { id: early }) // into the outage
      const promoted = redis.promotedAfter(former).then(() => performance.now() - killedMs)
      await Promise.race([promoted.then(() => allReady(stand)), pause(D9.heldMsMax)])
      await stand.wechat.control('POST', '/faults/release', { id: late })

      const ends = await Promise.all(logins)
      bench.say(`  ${stand.ledger.summary({ kind: 'login' })}`)
      bench.figure('another master after', await promoted, { unit: 'ms' })
      const ok = ends.filter(({ status }) => status === 200)
      const consumed = ends.filter(({ errorCode }) => errorCode === 'code_consumed')
      bench.figure('logins that ended with 200', ok.length, {})
      bench.figure(
        'logins that ended otherwise than 200 or code_consumed',
        ends.length - ok.length - consumed.length,
        {
          is: 0,
        },
      )
      bench.figure(
        "answers with another's openid",
        ok.filter(({ body, openid }) => body['openid'] !== openid).length,
        {
          is: 0,
        },
      )
      let again = 0
      for (const openid of new Set(consumed.map((login) => login.openid))) {
        const { status } = await follow(stand, await newCode(stand, openid), newNonce(), 0)
        if (status !== 200) again += 1
      }
      bench.figure('new codes that do not log in', again, { is: 0 })
      await former.start()
      await redis.settled()
      await checkInvariants(bench, stand, { exchangesPerCode: 2 })
    },
  },
]

/** Resolves when every gateway says that it has its Redis again. */
async function allReady({ gateways }: Stand): Promise<void> {
  await until('the gateways to be ready', async () => {
    const answers = await Promise.all(gateways.map(({ url }) => fetch(`${url}/readyz`)))
    return answers.every(({ ok }) => ok)
  })
}

interface OpenData {
  encryptedData: string
  iv: string
}

async function newCode({ wechat }: Stand, openid?: string): Promise<IssuedCode> {
  const [issued] = await wechat.codes(1, openid === undefined ? {} : { openid })
  if (issued === undefined) throw new Error('the simulator gave no code')
  return issued
}

/** The same login again, from the same client, over the gateways that run; not over `except`. */
async function sendCopies(stand: Stand, issued: IssuedCode, nonce: string, except?: Gateway) {
  const targets = stand.gateways.filter((gateway) => gateway.isRunning() && gateway !== except)
  return Promise.all(
    Array.from({ length: COPIES }, (_, at) =>
      stand.client.login({ target: targets[at % targets.length]?.url ?? '', ...issued, nonce }),
    ),
  )
}

/** All of them got the one session; `first` is what the leader's client got, if it got anything. */
function noteSession(bench: Bench, answers: readonly { token?: string | undefined }[], first?: string): void {
  const tokens = answers.flatMap(({ token }) => (token === undefined ? [] : [token]))
  bench.figure('survivors that log in', tokens.length, { is: COPIES })
  bench.figure('sessions', new Set([...tokens, ...(first === undefined ? [] : [first])]).size, { is: 1 })
}

/** Has `leader` lead a code until WeChat has it, all others wait for it, and kills it. */
async function killLeader(stand: Stand, leader: Gateway, isOnItsWay: (code: string) => Promise<unknown>) {
  const others = stand.gateways.filter((gateway) => gateway !== leader)
  const waits = () =>
    Promise.all(others.map((gateway) => gateway.metric('code_claims_total', { outcome: 'wait' })))
  const issued = await newCode(stand)
  const nonce = newNonce()
  void stand.client.login({ target: leader.url, ...issued, nonce }) // its client is cut off
  await isOnItsWay(issued.code)
  const before = await waits()
  const survivors = sendCopies(stand, issued, nonce, leader)
  await until('the others to wait', async () =>
    (await waits()).every((count, at) => count > (before[at] ?? 0)),
  )
  await leader.end('SIGKILL')
  const killedMs = performance.now()
  const answers = await survivors
  return { issued, answers, slowestMs: Math.max(...answers.map(({ atMs, ms }) => atMs + ms - killedMs)) }
}

/** As README's client does, but for the new code. */
async function follow(stand: Stand, issued: IssuedCode, nonce: string, at: number) {
  for (let tries = 0; ; tries += 1) {
    const login = await stand.client.login({ target: stand.gateway((at + tries) % 3).url, ...issued, nonce })
    if (login.retry !== 'same_code' || tries === D9.retriesMax) return login
    await pause(1000 * (login.retryAfterSeconds ?? 1))
  }
}

async function opens(stand: Stand, token: string, { encryptedData, iv }: OpenData): Promise<boolean> {
  const { status } = await stand.client.send('other', stand.gateway().url, {
    method: 'POST',
    path: '/session/decrypt',
    headers: { authorization: `Bearer ${token}` },
    body: { encrypted_data: encryptedData, iv },
  })
  return status === 200
}
