/**
 * The outbox: what happens to users is written down for those who want to know, in the transaction that makes it
 * true, and what is erased is not told any more. On the embedded database and, where one can be started, on a real
 * Postgres.
 */
import { randomUUID } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { Secret } from '../src/secret.ts'
import { subjectOf } from '../src/subject.ts'
import { EVENT_TYPES } from '../src/webhook-endpoints.ts'
import type { WebhookEndpoint } from '../src/webhook-endpoints.ts'
import { createErasures } from '../workers/erasures.ts'
import { createProvisionMany } from '../workers/provision-many.ts'
import { createUsers } from '../workers/users.ts'
import type { SeenIdentity } from '../workers/users.ts'
import { createDeliveries, LEASE_SECONDS } from '../workers/webhooks/deliveries.ts'
import { createOutbox } from '../workers/webhooks/outbox.ts'
import { ENGINES, withDatabase } from './harness/engines.ts'

const UUID_V7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/
/** A minute ago: erasures of long ago are forgotten. */
const T = Date.now() - 60_000

const endpoint = (own: Partial<WebhookEndpoint> = {}): WebhookEndpoint => ({
  name: `n-${randomUUID()}`,
  url: 'https://receiver.example/',
  secrets: [new Secret(Buffer.alloc(32))],
  events: new Set(EVENT_TYPES.filter((type) => type !== 'user.login')),
  includeOpenid: false,
  concurrency: 1,
  ...own,
})
const login = (own: Partial<SeenIdentity> = {}): SeenIdentity => ({
  appid: 'wx-app',
  openid: `o-${randomUUID()}`,
  seenAtMs: T + 1_000,
  ...own,
})

const ways = [
  { way: 'one by one', batched: false },
  { way: 'in batches', batched: true },
]

describe.each(ENGINES.flatMap((engine) => ways.map((way) => ({ ...engine, ...way }))))(
  'on $name, $way',
  ({ open, batched }) => {
    const db = withDatabase(open)

    /** A store that tells one endpoint, and what it was told. */
    function tell(own: Partial<WebhookEndpoint> = {}) {
      const told = endpoint(own)
      const outbox = createOutbox([told])
      const users = createUsers(db(), outbox)
      const provisionMany = createProvisionMany(db(), outbox)
      const erasures = createErasures(db(), outbox)
      const rows = () =>
        db()
          .selectFrom('webhook_deliveries')
          .selectAll()
          .where('endpoint', '=', told.name)
          .orderBy('created_at')
          .execute()
      return {
        endpoint: told,
        outbox,
        /** As batches.ts does with a batch, but for those of one, which it leaves to users.ts. */
        provision: async (seen: SeenIdentity) =>
          (batched ? (await provisionMany([seen]))[0] : undefined) ?? users.provisionUser(seen),
        erase: ({ appid, openid }: SeenIdentity, erasedAtMs = T + 2_000) =>
          erasures.eraseIdentity({ appid, openid, erasedAtMs }),
        rows,
        events: async () =>
          (await rows()).map(({ payload }) => {
            const { type, data } = JSON.parse(payload) as { type: string; data: Record<string, unknown> }
            return { type, ...data }
          }),
      }
    }

    test('a new user is told of once, by id and hash; a returning one not at all', async () => {
      const { provision, rows, events } = tell()
      const seen = login({ unionid: randomUUID() })
      const { userId } = await provision(seen)
      await provision(seen)
      await provision({ ...seen, seenAtMs: T + 1_500 })
      expect(await events()).toEqual([
        { type: 'user.created', user_id: userId, sub: subjectOf(seen.appid, seen.openid) },
      ])
      const [row] = await rows()
      expect(row?.event_id).toMatch(UUID_V7)
      const { timestamp } = JSON.parse(row?.payload ?? '') as { timestamp: string }
      expect(Math.abs(Date.parse(timestamp) - Date.now())).toBeLessThan(10_000)
    })

    test('openid and unionid are stored for an endpoint that asks for them, and for no other', async () => {
      const [curious, modest] = [endpoint({ includeOpenid: true }), endpoint()]
      const seen = login({ unionid: randomUUID() })
      await createUsers(db(), createOutbox([curious, modest])).provisionUser(seen)
      const rows = await db()
        .selectFrom('webhook_deliveries')
        .selectAll()
        .where('endpoint', 'in', [curious.name, modest.name])
        .execute()
      expect(new Set(rows.map((row) => row.event_id)).size).toBe(1)
      const [asked, unasked] = [curious, modest].map(({ name }) =>
        JSON.stringify(rows.find((row) => row.endpoint === name)),
      )
      for (const personal of [seen.openid, seen.unionid ?? '']) {
        expect(asked).toContain(personal)
        expect(unasked).not.toContain(personal)
      }
    })

    test('another app of the same person is linked, and two users that turn out to be one are merged', async () => {
      const { provision, events } = tell()
      const unionid = randomUUID()
      const one = login({ unionid })
      const { userId } = await provision(one)
      await provision(login({ unionid, appid: 'wx-other' }))
      const late = login({ appid: 'wx-late' })
      const { userId: lateId } = await provision(late)
      const merged = await provision({ ...late, unionid, seenAtMs: T + 1_500 })
      expect(merged.userId).toBe(userId)
      const told = await events()
      expect(told.map(({ type }) => type)).toEqual([
        'user.created',
        'user.linked',
        'user.created',
        'user.merged',
      ])
      expect(told[1]).toMatchObject({ user_id: userId })
      expect(told[3]).toMatchObject({ user_id: userId, merged_user_id: lateId })
    })

    test('a login is told of where somebody wants it, once however often its job is run', async () => {
      const { provision, events } = tell({ events: new Set(['user.login']) })
      const seen = login()
      const { userId } = await provision(seen)
      await provision(seen)
      await provision({ ...seen, seenAtMs: T + 1_500 })
      await provision({ ...seen, seenAtMs: T + 1_500 })
      const event = { type: 'user.login', user_id: userId, sub: subjectOf(seen.appid, seen.openid) }
      expect(await events()).toEqual([event, event])
    })

    test('100 calls at once for one new identity write one user.created', async () => {
      const { provision, events } = tell()
      const seen = login({ unionid: randomUUID() })
      await Promise.all(
        Array.from({ length: 100 }, (_, at) => provision({ ...seen, seenAtMs: seen.seenAtMs + at })),
      )
      expect((await events()).map(({ type }) => type)).toEqual(['user.created'])
    })

    test('what did not happen is not told: a transaction that fails leaves no event', async () => {
      const { outbox, rows } = tell()
      await expect(
        db()
          .transaction()
          .execute(async (tx) => {
            await outbox.record(tx, [{ type: 'user.created', userId: randomUUID() }])
            throw new Error('the database is gone')
          }),
      ).rejects.toThrow('gone')
      expect(await rows()).toEqual([])
    })

    test('of an erased user nothing is left in the outbox but one user.erased with the ids', async () => {
      const { provision, erase, rows, events } = tell({ includeOpenid: true })
      const unionid = randomUUID()
      const [older, newer] = [login(), login({ appid: 'wx-other' })]
      const { userId } = await provision(older)
      const { userId: mergedId } = await provision(newer)
      await provision({ ...older, unionid, seenAtMs: T + 1_100 })
      await provision({ ...newer, unionid, seenAtMs: T + 1_100 })
      await erase(newer)
      await erase(older)
      expect(await events()).toEqual([{ type: 'user.erased', user_id: userId, former_user_ids: [mergedId] }])
      const left = JSON.stringify(await rows())
      for (const trace of [older.openid, newer.openid, unionid]) expect(left).not.toContain(trace)
    })

    test('what was delivered or is dead goes as well', async () => {
      const { endpoint, provision, erase, events } = tell({ includeOpenid: true })
      const deliveries = createDeliveries(db())
      const [delivered, dead] = [login(), login()]
      for (const [seen, state] of [
        [delivered, 'delivered'],
        [dead, 'dead'],
      ] as const) {
        await provision(seen)
        const [claimed] = await deliveries.claim(endpoint.name, 1)
        if (claimed === undefined) throw new Error('nothing was claimed')
        await deliveries.finish(claimed, { state }, '')
      }
      await erase(delivered)
      await erase(dead)
      expect((await events()).map(({ type }) => type)).toEqual(['user.erased', 'user.erased'])
    })

    test('while an event of theirs is being sent, user.erased waits until that cannot arrive any more', async () => {
      const { endpoint, provision, erase, rows } = tell()
      const seen = login()
      await provision(seen)
      await createDeliveries(db()).claim(endpoint.name, 1)
      await erase(seen)
      const [erased] = await rows()
      const waitMs = (erased?.due_at.getTime() ?? 0) - (erased?.created_at.getTime() ?? 0)
      expect(waitMs).toBe(LEASE_SECONDS * 1_000)
    })

    test('of a person who stays by another app only the erased identity goes, which is told', async () => {
      const { provision, erase, rows, events } = tell({ includeOpenid: true })
      const unionid = randomUUID()
      const [going, staying] = [login({ unionid }), login({ unionid, appid: 'wx-other' })]
      const { userId } = await provision(going)
      await provision(staying)
      await erase(going)
      const sub = subjectOf(going.appid, going.openid)
      expect(await events()).toEqual([
        { type: 'user.created', user_id: userId, sub },
        expect.objectContaining({ type: 'user.linked', openid: staying.openid }),
        { type: 'user.unlinked', user_id: userId, sub },
      ])
      expect(JSON.stringify(await rows())).not.toContain(going.openid)
    })

    test('while the link of an app is being sent, its user.unlinked waits until that cannot arrive any more', async () => {
      const { endpoint, provision, erase, rows } = tell({ includeOpenid: true })
      const deliveries = createDeliveries(db())
      const unionid = randomUUID()
      const [staying, going] = [login({ unionid }), login({ unionid, appid: 'wx-other' })]
      await provision(staying)
      const [created] = await deliveries.claim(endpoint.name, 1)
      if (created === undefined) throw new Error('nothing was claimed')
      await deliveries.finish(created, { state: 'delivered' }, '204')
      await provision(going)
      const [linked] = await deliveries.claim(endpoint.name, 1)
      expect(linked?.payload).toContain(going.openid) // in memory, whatever becomes of the row
      await erase(going)
      const unlinked = (await rows()).find(({ type }) => type === 'user.unlinked')
      const waitMs = (unlinked?.due_at.getTime() ?? 0) - (unlinked?.created_at.getTime() ?? 0)
      expect(waitMs).toBe(LEASE_SECONDS * 1_000)
      expect(await deliveries.claim(endpoint.name, 10)).toEqual([])
    })

    test('who comes back is a new user, told of by a new id', async () => {
      const { provision, erase, events } = tell()
      const seen = login()
      const { userId } = await provision(seen)
      await erase(seen)
      const again = await provision({ ...seen, seenAtMs: T + 3_000 })
      expect(again.userId).not.toBe(userId)
      expect(await events()).toEqual([
        { type: 'user.erased', user_id: userId },
        { type: 'user.created', user_id: again.userId, sub: subjectOf(seen.appid, seen.openid) },
      ])
    })
  },
)
