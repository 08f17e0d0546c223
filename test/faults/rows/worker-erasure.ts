/** W11: users are erased while their jobs are in flight. */
import { Redis } from 'ioredis'
import { dumpRedis } from '../../harness/dumps.ts'
import { until } from '../../harness/until.ts'
import { createFaultClient, newNonce } from '../client.ts'
import { checkInvariants } from '../invariants.ts'
import { createLedger } from '../ledger.ts'
import { drained, jobsIn, slowDown } from '../provisioning.ts'
import type { Row } from '../row.ts'
import { eventsDelivered } from '../webhook-ledger.ts'
import { startWebhooks } from '../webhooks.ts'
import { startStand } from '../stand.ts'

const USERS = 60
const LOGINS_PER_SECOND = 10
/** Long enough that most jobs wait or run when their users are erased. */
const JOB_SECONDS = 0.5
/** Of the catalogue. */
const ERASED_MS_MAX = 60_000
/** What "at once" means for a token, on every gateway. */
const ENDED_MS_MAX = 1_000

export const workerErasureRows: readonly Row[] = [
  {
    id: 'W11',
    title: `${USERS} users are erased while their jobs wait or run, and a worker is killed in the middle of it`,
    pass: 'no token is valid 1 s later; within 60 s no row, job or key has an openid of theirs, nor later',
    async run(bench) {
      const webhooks = await startWebhooks(bench)
      const stand = await startStand(bench, {
        gateways: 3,
        workers: 2,
        webhooks,
        env: { SESSION_CACHE_SECONDS: '1' },
        workerEnv: { WORKER_CONCURRENCY: '4' },
      })
      if (stand.database) await slowDown(stand.database, JOB_SECONDS)
      const load = await stand.load({ loginsPerSecond: LOGINS_PER_SECOND })
      // Not in the stand's ledger: what that has been answered must hold to the end.
      const client = createFaultClient(createLedger())
      bench.defer(() => client.close())

      const users = await stand.wechat.codes(USERS)
      const logins = await Promise.all(
        users.map((issued, at) =>
          client.login({ target: stand.gateway(at % 3).url, ...issued, nonce: newNonce() }),
        ),
      )
      bench.figure(
        'their jobs that wait or run',
        (await jobsIn(stand, 'waiting')) + (await jobsIn(stand, 'active')),
        {
          min: USERS / 4,
        },
      )
      const startedMs = performance.now()
      let validAfterMs = 0
      const receipts = await Promise.all(
        users.map(async ({ openid }, at) => {
          const path = `/users/${stand.app.appid}/${openid}`
          const { status, body } = await stand.gateway(at % 3).admin('DELETE', path)
          if (status !== 202) return undefined
          const erasedMs = performance.now()
          for (const { url } of stand.gateways) {
            await until('the token to end', async () => {
              const askedMs = performance.now()
              const asked = await client.validate(url, logins[at]?.token ?? '')
              if (asked.status === 200) validAfterMs = Math.max(validAfterMs, askedMs - erasedMs)
              return asked.status === 401
            })
          }
          return String(body['receipt'])
        }),
      )
      bench.figure('accepted', receipts.filter((receipt) => receipt !== undefined).length, { is: USERS })
      bench.figure('last time that a token of theirs was taken, on any of 3 gateways', validAfterMs, {
        unit: 'ms',
        max: ENDED_MS_MAX,
      })
      await stand.worker().end('SIGKILL')
      await stand.worker().start()

      const isDone = async (receipt = '') =>
        (await stand.gateway().admin('GET', `/erasures/${receipt}`)).body['state'] === 'done'
      for (const receipt of receipts)
        await until('the erasure to be done', () => isDone(receipt), 2 * ERASED_MS_MAX)
      bench.figure('all erased after', performance.now() - startedMs, { unit: 'ms', max: ERASED_MS_MAX })
      await load.stop()
      await drained(stand, 120_000)

      const redis = new Redis(stand.redis.env['REDIS_URL'] ?? '')
      bench.defer(() => redis.disconnect())
      const kept = await dumpRedis(redis)
      bench.figure('openids of theirs in Redis', users.filter(({ openid }) => kept.includes(openid)).length, {
        is: 0,
      })
      const rows = await stand.database?.query<{ openid: string }>('select openid from identities')
      const openids = new Set(rows?.map(({ openid }) => openid))
      bench.figure('rows of theirs', users.filter(({ openid }) => openids.has(openid)).length, { is: 0 })
      bench.figure('rows of others', openids.size, { min: 1 })
      await eventsDelivered(stand, ERASED_MS_MAX)
      const erased = webhooks.receiver.ofType('user.erased')
      bench.figure('of them told of as user.erased', erased.length, { min: 1, max: USERS })
      const late = erased.filter(({ event: { data }, atMs }) =>
        webhooks.receiver.received.some(
          ({ event, atMs: otherMs }) =>
            event.type !== 'user.erased' && event.data['user_id'] === data['user_id'] && otherMs > atMs,
        ),
      )
      bench.figure('of those told of again behind that', late.length, { is: 0 })
      await checkInvariants(bench, stand)
    },
  },
]
