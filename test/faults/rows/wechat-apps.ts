/** U11–U17: what WeChat says of one user or one app, and what the others notice of it: nothing. */
import { setTimeout as pause } from 'node:timers/promises'
import { newNonce } from '../client.ts'
import { checkInvariants } from '../invariants.ts'
import type { Bench, Row } from '../row.ts'
import { startStand } from '../stand.ts'
import type { Stand } from '../stand.ts'
import {
  addApps,
  bringFault,
  checkAnswers,
  checkClosed,
  checkValidations,
  FAULT_MS,
  LOGINS_PER_SECOND,
  recover,
  SLOTS,
  total,
  VALIDATIONS_PER_SECOND,
} from '../upstream-run.ts'
import { newWechatApp } from '../wechat.ts'

const WARM_MS = 5_000
/** A user, or a flood, that sends so much beside the load. */
const ABUSE_PER_SECOND = 10
const FLOOD_PER_SECOND = 9 * 20
/** As in src/wechat/app-gate.ts. */
const GATE = { refusals: 3, probeMs: 10_000 }
/** p99 of the other app: the catalogue's share, and what 20 requests of 2,000 are late on a busy machine anyway. */
const OTHER_APP_MS = 10
/** WeChat's own time in rows that compare latencies. */
const WECHAT_MS = 50
/** Whom the limits for refused codes are to catch: some addresses that no load has. */
const ABUSER_IPS = ['192.0.2.1', '192.0.2.2', '192.0.2.3']

export const wechatAppRows: readonly Row[] = [
  {
    id: 'U11',
    title: '45011 for one user in a loop, and for an abuser with many users at three addresses',
    pass: 'those get 429 with Retry-After ≤ 60; 100 % of the others succeed; no gate shuts',
    async run(bench) {
      const run = await bringFault(bench, [], { warmMs: WARM_MS })
      const { stand, faultMs } = run
      const looping = Array.from({ length: 20 }, (_, at) => `o-in-a-loop-${at}`)
      for (const openid of looping) await stand.wechat.fault({ kind: 'errcode', errcode: 45011, openid })
      const stop = every(ABUSE_PER_SECOND, async (at) => {
        const openid = at % 2 === 0 ? looping[0] : looping[at % looping.length]
        const [issued] = await stand.wechat.codes(1, { openid: openid ?? '' })
        // The one user is on the move; the abuser is not.
        const ip = at % 2 === 0 ? `198.51.100.${at % 250}` : ABUSER_IPS[at % ABUSER_IPS.length]
        await stand.client.login({
          target: stand.gateway(at % 3).url,
          ...issued,
          code: issued?.code ?? '',
          nonce: newNonce(),
          ip,
        })
      })
      await pause(FAULT_MS)
      await stop()
      await recover(bench, run)
      const logins = stand.ledger.find({ kind: 'login', fromMs: faultMs })
      const theirs = logins.filter(({ openid = '' }) => looping.includes(openid))
      const others = logins.filter(({ openid = '' }) => !looping.includes(openid))
      bench.figure('their logins', theirs.length, { min: 100 })
      bench.figure('of theirs not 429', theirs.filter(({ status }) => status !== 429).length, { is: 0 })
      bench.figure(
        'longest Retry-After',
        Math.max(...theirs.map(({ retryAfterSeconds = Infinity }) => retryAfterSeconds)),
        {
          unit: 's',
          max: 60,
        },
      )
      bench.figure('logins of others that failed', others.filter(({ status }) => status !== 200).length, {
        is: 0,
      })
      bench.figure('gates shut', gatesShut(stand), { is: 0 })
      await checkInvariants(bench, stand)
    },
  },
  {
    id: 'U12',
    title: '45011 for all calls of one app of two',
    pass: 'its gate shuts ≤ 2 s, then ≤ 1 probe a second and gateway; all logins of the other app succeed, p99 as before',
    async run(bench) {
      const { run, other } = await startTwoApps(bench)
      const { stand } = run
      const fair = {
        kind: 'login',
        appid: other.appid,
        fromMs: run.faultMs - WARM_MS,
        toMs: run.faultMs,
      } as const
      const faultAt = Date.now()
      const faultMs = performance.now()
      await stand.wechat.fault({ kind: 'errcode', errcode: 45011, appid: stand.app.appid })
      await pause(FAULT_MS)
      const calls = (await stand.wechat.history({ appid: stand.app.appid, limit: 100_000 }))
        .map(({ receivedAt }) => receivedAt - faultAt)
        .filter((ms) => ms >= 2_000 && ms < FAULT_MS)
      bench.figure('gates shut', gatesShut(stand), { is: 3 })
      bench.figure('calls of the app after 2 s', calls.length, { max: 3 * (FAULT_MS / 1_000 - 2 + 1) })
      await stand.wechat.clearFaults()
      await pause(3_000)
      bench.figure('gates shut 3 s after the end', await total(stand, 'wechat_app_gated'), { is: 0 })
      await recover(bench, run)
      const during = { kind: 'login', appid: other.appid, fromMs: faultMs, toMs: faultMs + FAULT_MS } as const
      checkOther(bench, stand, { fair, during, share: 1.1 })
      await checkInvariants(bench, stand)
    },
  },
  {
    id: 'U13',
    title: 'Nine of ten logins carry codes that are invalid or used, from three addresses',
    pass: 'circuits stay closed; all valid logins succeed; the three addresses get 429',
    async run(bench) {
      const run = await bringFault(bench, [], {
        // The product's own: what is caught here are refused codes.
        env: { LIMIT_INVALID_PER_IP: '60' },
        load: { loginsPerSecond: FLOOD_PER_SECOND / 9 },
        warmMs: WARM_MS,
      })
      const { stand } = run
      // Used up at WeChat by somebody else, so that WeChat says 40163 and not this gateway.
      const used = await Promise.all(
        (await stand.wechat.codes(200)).map(async ({ code }) => {
          const { appid, secret } = stand.app
          const query = new URLSearchParams({
            appid,
            secret,
            js_code: code,
            grant_type: 'authorization_code',
          })
          await fetch(`${stand.wechat.url}/sns/jscode2session?${query.toString()}`)
          return code
        }),
      )
      const faultMs = performance.now()
      const stop = every(FLOOD_PER_SECOND, async (at) => {
        const code = (at % 4 === 0 ? used.pop() : undefined) ?? newNonce()
        const ip = ABUSER_IPS[at % ABUSER_IPS.length]
        await stand.client.login({ target: stand.gateway(at % 3).url, code, nonce: newNonce(), ip })
      })
      await pause(FAULT_MS)
      await stop()
      await recover(bench, run)
      const logins = stand.ledger.find({ kind: 'login', fromMs: faultMs })
      const flood = logins.filter(({ openid }) => openid === undefined)
      const valid = logins.filter(({ openid }) => openid !== undefined)
      bench.say(`  ${stand.ledger.summary({ kind: 'login', fromMs: faultMs })}`)
      bench.figure('flood', flood.length, { min: 1_000 })
      bench.figure('valid logins that failed', valid.filter(({ status }) => status !== 200).length, { is: 0 })
      bench.figure(
        'flood let through after 5 s',
        flood.filter(({ status, atMs }) => status !== 429 && atMs > faultMs + 5_000).length,
        {
          is: 0,
        },
      )
      bench.check(
        'the flood was told 401, 409 and 429',
        [401, 409, 429].every((status) => flood.some((attempt) => attempt.status === status)),
      )
      await checkClosed(bench, stand)
      checkValidations(bench, { ...run, faultMs })
      await checkInvariants(bench, stand, {
        // The bench itself has used codes at WeChat.
        exchangesPerCode: 2,
      })
    },
  },
  {
    id: 'U14',
    title: 'WeChat has blocked users: 40226',
    pass: '403 login_blocked, kept for the code; no session, no row of the user; the others succeed',
    short: true,
    async run(bench) {
      const run = await bringFault(bench, [], {
        warmMs: 1_000,
        load: { loginsPerSecond: 20, validationsPerSecond: 20 },
      })
      const { stand } = run
      const blocked = Array.from({ length: 20 }, (_, at) => `o-blocked-${at}`)
      for (const openid of blocked) await stand.wechat.control('POST', '/users', { openid, blocked: true })
      const before = (await stand.wechat.summary()).outcomes['/sns/jscode2session']?.['40226'] ?? 0
      let told = 0
      for (const openid of blocked) {
        const [issued] = await stand.wechat.codes(1, { openid })
        for (let nth = 0; nth < 3; nth += 1) {
          const { errorCode, status } = await stand.client.login({
            target: stand.gateway(nth).url,
            code: issued?.code ?? '',
            nonce: newNonce(),
          })
          if (status === 403 && errorCode === 'login_blocked') told += 1
        }
      }
      await recover(bench, run)
      const after = (await stand.wechat.summary()).outcomes['/sns/jscode2session']?.['40226'] ?? 0
      bench.figure('answers login_blocked', told, { is: 3 * blocked.length })
      bench.figure('calls of WeChat for them', after - before, { is: blocked.length })
      const rows = await stand.database?.query<{ openid: string }>('select openid from identities', [])
      bench.figure(
        'rows of blocked users',
        rows?.filter(({ openid }) => blocked.includes(openid)).length ?? Number.NaN,
        { is: 0 },
      )
      await checkInvariants(bench, stand)
    },
  },
  {
    id: 'U15',
    title: 'Six apps that WeChat refuses for their configuration, beside one that is sound',
    pass: '503 app_misconfigured; the alert is there ≤ 60 s; only those apps; their calls end',
    async run(bench) {
      const errcodes = [40013, 40125, 41002, 41004, 40164, 40243]
      const apps = errcodes.map(newWechatApp)
      const stand = await startStand(bench)
      for (const app of apps) await stand.wechat.control('PUT', '/apps', app)
      await addApps(stand, apps)
      for (const [at, errcode] of errcodes.entries())
        await stand.wechat.fault({ kind: 'errcode', errcode, appid: apps[at]?.appid })
      const faultMs = performance.now()
      const loads = [
        await stand.load({
          loginsPerSecond: LOGINS_PER_SECOND / 2,
          validationsPerSecond: VALIDATIONS_PER_SECOND,
        }),
        ...(await Promise.all(
          apps.map(({ appid }) => stand.load({ appid, loginsPerSecond: LOGINS_PER_SECOND / 12 })),
        )),
      ]
      let alertedMs = Number.NaN
      while (performance.now() - faultMs < FAULT_MS) {
        await pause(250)
        const gated = await total(stand, 'wechat_app_gated', { why: 'misconfigured' })
        if (Number.isNaN(alertedMs) && gated === 3 * apps.length) alertedMs = performance.now() - faultMs
      }
      await Promise.all(loads.map((load) => load.stop()))
      bench.figure('all alerts on all gateways', alertedMs, { unit: 'ms', max: 60_000 })
      const logins = stand.ledger.find({ kind: 'login', fromMs: faultMs })
      const refusedApps = new Set(apps.map(({ appid }) => appid))
      const refused = logins.filter(({ appid = '' }) => refusedApps.has(appid))
      const sound = logins.filter(({ appid = '' }) => !refusedApps.has(appid))
      bench.figure('logins of the sound app', sound.length, { min: 300 })
      bench.figure('logins of refused apps', refused.length, { min: 300 })
      bench.figure(
        'of theirs not app_misconfigured',
        refused.filter(({ errorCode }) => errorCode !== 'app_misconfigured').length,
        { is: 0 },
      )
      bench.figure(
        'logins of the sound app that failed',
        sound.filter(({ status }) => status !== 200).length,
        { is: 0 },
      )
      for (const [at, { appid }] of apps.entries()) {
        const calls = await stand.wechat.history({ appid, limit: 100_000 })
        // To shut a gate, one more that was on its way, and the probes.
        const max = 3 * (GATE.refusals + 1 + Math.ceil(FAULT_MS / GATE.probeMs))
        bench.figure(`calls for ${errcodes[at]}`, calls.length, { max })
      }
      await checkClosed(bench, stand)
      await checkInvariants(bench, stand)
    },
  },
  {
    id: 'U17',
    title: 'WeChat hangs for one app of two',
    pass: 'all logins of the other app succeed, p99 ≤ 1.2 × before; the one holds half of the slots at most',
    async run(bench) {
      const { run, other } = await startTwoApps(bench)
      const { stand } = run
      const fair = {
        kind: 'login',
        appid: other.appid,
        fromMs: run.faultMs - WARM_MS,
        toMs: run.faultMs,
      } as const
      await stand.wechat.fault({ kind: 'hang_before', appid: stand.app.appid })
      const faultMs = performance.now()
      let most = 0
      while (performance.now() - faultMs < FAULT_MS) {
        await pause(250)
        const { requests } = (await stand.wechat.stats()) as { requests: { inFlight: number } }
        most = Math.max(most, requests.inFlight)
      }
      await recover(bench, run)
      const during = { kind: 'login', appid: other.appid, fromMs: faultMs, toMs: faultMs + FAULT_MS } as const
      // Half of three gateways' slots, and the other app's few.
      bench.figure('most calls under way', most, { max: (3 * SLOTS) / 2 + 20 })
      checkOther(bench, stand, { fair, during, share: 1.2 })
      await checkClosed(bench, stand)
      checkAnswers(bench, { ...run, faultMs }, ['200', 'wechat_timeout', 'overloaded'])
      checkValidations(bench, { ...run, faultMs })
      await checkInvariants(bench, stand)
    },
  },
]

/** The stand's first app and another one, each with half of the load, both well. */
async function startTwoApps(bench: Bench) {
  const other = newWechatApp()
  const stand = await startStand(bench)
  await stand.wechat.control('PUT', '/apps', other)
  await addApps(stand, [other])
  await stand.wechat.fault({ kind: 'delay', ms: WECHAT_MS, appid: other.appid })
  const loginsPerSecond = LOGINS_PER_SECOND / 2
  const one = await stand.load({ loginsPerSecond, validationsPerSecond: VALIDATIONS_PER_SECOND })
  const two = await stand.load({ loginsPerSecond, appid: other.appid })
  // From here on the latencies count, those of the start left out.
  await pause(2 * WARM_MS)
  const load = {
    stop: async () => void (await Promise.all([one.stop(), two.stop()])),
    givenUp: () => 0,
  }
  return { run: { stand, load, faultMs: performance.now() }, other }
}

/** That the other app's logins all succeed, and as fast as before. */
function checkOther(
  bench: Bench,
  { ledger }: Stand,
  { fair, during, share }: { fair: OtherFilter; during: OtherFilter; share: number },
): void {
  bench.figure(
    'logins of the other app that failed',
    ledger.count(during) - ledger.count({ ...during, status: 200 }),
    { is: 0 },
  )
  const before = ledger.quantile(0.99, fair)
  bench.figure('its p99 before', before, { unit: 'ms' })
  bench.figure('its p99 meanwhile', ledger.quantile(0.99, during), {
    unit: 'ms',
    max: before * share + OTHER_APP_MS,
  })
}

interface OtherFilter {
  kind: 'login'
  appid: string
  fromMs: number
  toMs: number
}

/** As their logs have it: a gauge would have to be read in the right moment. */
function gatesShut({ gateways }: Stand): number {
  return gateways.filter((gateway) => gateway.output().includes('it is gated')).length
}

/** Does it so often, whether or not it is done; the result stops and waits. */
function every(perSecond: number, run: (at: number) => Promise<void>): () => Promise<void> {
  const underWay = new Set<Promise<void>>()
  const startedMs = performance.now()
  let at = 0
  const timer = setInterval(() => {
    while (at < ((performance.now() - startedMs) / 1_000) * perSecond) {
      const one = run(at++)
      underWay.add(one)
      void one.finally(() => underWay.delete(one))
    }
  }, 10)
  return async () => {
    clearInterval(timer)
    await Promise.all(underWay)
  }
}
