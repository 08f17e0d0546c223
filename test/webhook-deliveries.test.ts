/**
 * The rows of the outbox on their way: leased, replayed, made dead, swept. On the embedded database and, where one can be
 * started, on a real Postgres.
 */
import { randomUUID } from 'node:crypto'
import { sql } from 'kysely'
import type { KyselyPlugin } from 'kysely'
import { describe, expect, test } from 'vitest'
import { Secret } from '../src/secret.ts'
import type { WebhookEndpoint } from '../src/webhook-endpoints.ts'
import { createDeliveries, LEASE_SECONDS, SWEEP_ROWS } from '../workers/webhooks/deliveries.ts'
import { createOutbox } from '../workers/webhooks/outbox.ts'
import { ENGINES, withDatabase } from './harness/engines.ts'

const endpoint = (): WebhookEndpoint => ({
  name: `n-${randomUUID()}`,
  url: 'https://receiver.example/',
  secrets: [new Secret(Buffer.alloc(32))],
  events: new Set(['user.created']),
  includeOpenid: false,
  concurrency: 1,
})

describe.each(ENGINES)('deliveries on $name', ({ open }) => {
  const db = withDatabase(open)

  /** An endpoint with so many events to be told, and its rows changed from behind. */
  async function several(count: number) {
    const told = endpoint()
    const { name } = told
    const events = Array.from({ length: count }, () => ({
      type: 'user.created' as const,
      userId: randomUUID(),
    }))
    await db()
      .transaction()
      .execute((tx) => createOutbox([told]).record(tx, events))
    const rows = () =>
      db()
        .selectFrom('webhook_deliveries')
        .selectAll()
        .where('endpoint', '=', name)
        .orderBy('created_at')
        .execute()
    return { rows, deliveries: createDeliveries(db()), name }
  }
  const age = (name: string, change: string) =>
    sql`update webhook_deliveries set ${sql.raw(change)} where endpoint = ${name}`.execute(db())

  test('are leased by one worker each, and are everybody’s again when the lease has ended', async () => {
    const { deliveries, name } = await several(60)
    const claims = await Promise.all(Array.from({ length: 12 }, () => deliveries.claim(name, 10)))
    const ids = claims.flat().map(({ eventId }) => eventId)
    expect(new Set(ids).size).toBe(ids.length)
    for (let rest = await deliveries.claim(name, 10); rest.length > 0; )
      rest = (ids.push(...rest.map(({ eventId }) => eventId)), await deliveries.claim(name, 10))
    expect(new Set(ids).size).toBe(60)
    expect(ids.length).toBe(60)
    await age(name, `due_at = due_at - interval '${LEASE_SECONDS} seconds'`)
    expect((await deliveries.claim(name, 100)).map(({ attempts }) => attempts)).toEqual(
      Array.from({ length: 60 }, () => 2),
    )
  })

  test('an attempt that comes back after another has begun changes nothing', async () => {
    const { deliveries, name, rows } = await several(1)
    const [late] = await deliveries.claim(name, 1)
    await age(name, 'due_at = now()')
    const [current] = await deliveries.claim(name, 1)
    if (!late || !current) throw new Error('nothing was claimed')
    await deliveries.finish(late, { state: 'dead' }, '500')
    expect((await rows())[0]).toMatchObject({ state: 'pending', leased: true })
    await deliveries.finish(current, { state: 'delivered' }, '204')
    expect((await rows())[0]).toMatchObject({ state: 'delivered', leased: false, last_result: '204' })
  })

  test('wait while their endpoint is disabled', async () => {
    const { deliveries, name } = await several(1)
    await deliveries.setDisabled(name, true)
    expect(await deliveries.claim(name, 1)).toEqual([])
    expect((await deliveries.disabled()).get(name)).toBeInstanceOf(Date)
    await deliveries.setDisabled(name, false)
    expect((await deliveries.disabled()).has(name)).toBe(false)
    expect(await deliveries.claim(name, 1)).toHaveLength(1)
  })

  test('are replayed with the same id and all attempts', async () => {
    const { deliveries, name, rows } = await several(2)
    const [one, two] = await deliveries.claim(name, 2)
    if (!one || !two) throw new Error('nothing was claimed')
    for (const each of [one, two]) await deliveries.finish(each, { state: 'dead' }, '500')
    expect(await deliveries.dead(10, name)).toHaveLength(2)
    expect(await deliveries.replay({ eventIds: [one.eventId] })).toBe(1)
    const [again] = await deliveries.claim(name, 5)
    expect(again).toMatchObject({ eventId: one.eventId, attempts: 1, payload: one.payload })
    expect(await deliveries.replay({ endpoint: name })).toBe(1)
    expect((await rows()).map(({ state }) => state)).toEqual(['pending', 'pending'])
  })

  test.each([
    ['delivered rows are kept for a week', 'delivered', 6, 8],
    ['dead ones for a month', 'dead', 29, 31],
  ] as const)('%s', async (_title, state, keptDays, sweptDays) => {
    const { deliveries, name, rows } = await several(1)
    const at = (days: number) =>
      age(name, `state = '${state}', finished_at = now() - interval '${days} days'`)
    await at(keptDays)
    await deliveries.sweep()
    expect(await rows()).toHaveLength(1)
    await at(sweptDays)
    await deliveries.sweep()
    expect(await rows()).toEqual([])
  })

  test('one that has waited for two weeks is dead', async () => {
    const { deliveries, name, rows } = await several(1)
    await age(name, "created_at = now() - interval '13 days'")
    await deliveries.sweep()
    expect((await rows())[0]?.state).toBe('pending')
    await age(name, "created_at = now() - interval '15 days'")
    await deliveries.sweep()
    expect((await rows())[0]).toMatchObject({ state: 'dead', last_result: 'expired' })
  })

  test('however many expire together, and are replayed together, no statement has more than its share', async () => {
    const { name } = endpoint()
    const count = 2 * SWEEP_ROWS + 1
    await sql`
      insert into webhook_deliveries (event_id, endpoint, type, payload, due_at, created_at)
      select gen_random_uuid(), ${name}, 'user.created', '{}', now(), now() - interval '15 days'
      from generate_series(1, ${count}::int)
    `.execute(db())
    const changed: number[] = []
    const watch: KyselyPlugin = {
      transformQuery: ({ node }) => node,
      async transformResult({ result }) {
        changed.push(Number(result.numAffectedRows ?? 0))
        return result
      },
    }
    const deliveries = createDeliveries(db().withPlugin(watch))
    const states = async () => (await deliveries.counts()).filter((each) => each.endpoint === name)
    await deliveries.sweep()
    expect(await states()).toEqual([expect.objectContaining({ state: 'dead', count })])
    expect(await deliveries.replay({ endpoint: name })).toBe(count)
    expect(await states()).toEqual([expect.objectContaining({ state: 'pending', count })])
    await age(name, "state = 'delivered', finished_at = now() - interval '8 days'")
    await deliveries.sweep()
    const left = db().selectFrom('webhook_deliveries').select('event_id').where('endpoint', '=', name)
    expect(await left.execute()).toEqual([])
    expect(Math.max(...changed)).toBe(SWEEP_ROWS)
  }, 60_000)

  test('what cannot be made dead does not keep what is old from being taken away', async () => {
    const [stuck, old] = [await several(1), await several(1)]
    await age(stuck.name, "created_at = now() - interval '15 days'")
    await age(old.name, "state = 'delivered', finished_at = now() - interval '8 days'")
    await sql`
      alter table webhook_deliveries add constraint stuck
      check (endpoint <> ${sql.lit(stuck.name)} or state = 'pending')
    `.execute(db())
    try {
      await expect(stuck.deliveries.sweep()).rejects.toMatchObject({ code: '23514' })
      expect(await old.rows()).toEqual([])
    } finally {
      await sql`alter table webhook_deliveries drop constraint stuck`.execute(db())
    }
    await stuck.deliveries.sweep()
    expect((await stuck.rows())[0]).toMatchObject({ state: 'dead', last_result: 'expired' })
  })

  test('are counted by endpoint', async () => {
    const { deliveries, name } = await several(3)
    const [one] = await deliveries.claim(name, 1)
    if (!one) throw new Error('nothing was claimed')
    await deliveries.finish(one, { state: 'dead' }, '500')
    await age(name, "created_at = created_at - interval '90 seconds'")
    const counts = (await deliveries.counts()).filter((each) => each.endpoint === name)
    expect(counts.map(({ state, count }) => [state, count])).toEqual([
      ['dead', 1],
      ['pending', 2],
    ])
    for (const { ageSeconds } of counts) {
      expect(ageSeconds).toBeGreaterThanOrEqual(90)
      expect(ageSeconds).toBeLessThan(120)
    }
  })
})
