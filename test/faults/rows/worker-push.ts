/** W13: WeChat says that users withdraw their consent, and all that this asks for happens by itself, under load. */
import { randomBytes } from 'node:crypto'
import { setTimeout as pause } from 'node:timers/promises'
import { subjectOf } from '../../../src/subject.ts'
import { until } from '../../harness/until.ts'
import { createFaultClient, newNonce } from '../client.ts'
import { checkInvariants } from '../invariants.ts'
import { createLedger, quantile } from '../ledger.ts'
import type { Bench, Row } from '../row.ts'
import { startWebhooks } from '../webhooks.ts'
import { startStand } from '../stand.ts'

const USERS = 40
const LOGINS_PER_SECOND = 40
const VALIDATIONS_PER_SECOND = 80
/** Of the issue. */
const ERASED_MS_MAX = 60_000
/** Looking is work too, on a machine that has enough. */
const POLL_MS = 250

async function runPushes(bench: Bench): Promise<void> {
  const push = {
    token: randomBytes(16).toString('hex'),
    aesKey: randomBytes(32).toString('base64').slice(0, -1),
  }
  const webhooks = await startWebhooks(bench)
  const stand = await startStand(bench, {
    gateways: 2,
    workers: 2,
    webhooks,
    env: { WECHAT_PUSH_TOKEN: push.token, WECHAT_PUSH_AES_KEY: push.aesKey, SESSION_CACHE_SECONDS: '1' },
  })
  const { appid } = stand.app
  const url = `${stand.gateway().url}/push/${appid}`
  await stand.wechat.control('PUT', '/apps', { appid, push: { ...push, url, mode: 'safe', format: 'xml' } })
  const load = await stand.load({
    loginsPerSecond: LOGINS_PER_SECOND,
    validationsPerSecond: VALIDATIONS_PER_SECOND,
  })
  // Not in the stand's ledger: what that has been answered must hold to the end.
  const client = createFaultClient(createLedger())
  bench.defer(() => client.close())
  const users = await stand.wechat.codes(USERS)
  const logins = await Promise.all(
    users.map((issued) => client.login({ target: stand.gateway().url, ...issued, nonce: newNonce() })),
  )
  const userIdOf = (openid: string) =>
    webhooks.receiver
      .ofType('user.created')
      .find(({ event }) => event.data['sub'] === subjectOf(appid, openid))?.event.data['user_id']
  for (const { openid } of users) await until('user.created', () => userIdOf(openid) !== undefined, 30_000)

  const startedMs = performance.now()
  const pushed = users.map(async ({ openid }, at) => {
    const { delivered } = (await stand.wechat.control('POST', '/pushes', {
      appid,
      openid,
      event: at % 2 === 0 ? 'user_authorization_revoke' : 'user_authorization_cancellation',
      revokeInfo: '1',
    })) as { delivered: boolean }
    bench.check('WeChat heard success', delivered)
  })
  const isLoggedIn = async (target: string, token = '') =>
    (await client.validate(target, token)).status !== 401
  const sessionsMs = await goneAfter(startedMs, async () => {
    const asked = stand.gateways.flatMap(({ url: target }) =>
      logins.map(({ token }) => isLoggedIn(target, token)),
    )
    return (await Promise.all(asked)).some(Boolean)
  })
  const openids = users.map(({ openid }) => openid)
  const rowsMs = await goneAfter(startedMs, async () => {
    const rows = await stand.database?.query('select from identities where openid = any($1)', [openids])
    return rows?.length !== 0
  })
  const erasedIds = () =>
    new Map(
      webhooks.receiver
        .ofType('user.erased')
        .filter(({ verified }) => verified)
        .map(({ event, atMs }) => [event.data['user_id'], atMs - startedMs]),
    )
  await goneAfter(startedMs, async () => openids.some((openid) => !erasedIds().has(userIdOf(openid))))
  await Promise.all(pushed)
  await load.stop()
  const toldMs = openids.map((openid) => erasedIds().get(userIdOf(openid)) ?? Infinity)
  bench.figure('sessions ended after, on both gateways', sessionsMs, { unit: 'ms', max: ERASED_MS_MAX })
  bench.figure('rows gone after', rowsMs, { unit: 'ms', max: ERASED_MS_MAX })
  bench.figure('user.erased delivered after, median', quantile(toldMs, 0.5), { unit: 'ms' })
  bench.figure('slowest', Math.max(...toldMs), { unit: 'ms', max: ERASED_MS_MAX })
  const failed = stand.ledger.find({ kind: 'login' }).filter(({ status }) => status !== 200)
  bench.figure('logins of others that failed', failed.length, { is: 0 })
  await checkInvariants(bench, stand)
}

/** Milliseconds until nothing is there any more; Infinity when it did not go. */
async function goneAfter(startedMs: number, isThere: () => Promise<boolean>): Promise<number> {
  while (await isThere()) {
    if (performance.now() - startedMs > 2 * ERASED_MS_MAX) return Infinity
    await pause(POLL_MS)
  }
  return performance.now() - startedMs
}

export const workerPushRows: readonly Row[] = [
  {
    id: 'W13',
    title: `WeChat pushes that ${USERS} users withdraw their consent or close their account, under load`,
    pass: 'sessions ended, rows gone and user.erased delivered within 60 s, by real workers',
    run: runPushes,
  },
]
