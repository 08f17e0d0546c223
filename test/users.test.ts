/**
 * The store of users: one person is one user, whatever the order and the concurrency in which logins tell of
 * them. The same cases run on the embedded database and, where one can be started, on a real Postgres with
 * two workers at it.
 */
import { randomUUID } from 'node:crypto'
import * as fc from 'fast-check'
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createBatchedUsers } from '../workers/batches.ts'
import { isTransient } from '../workers/database-errors.ts'
import type { Database } from '../workers/database.ts'
import { createProvisionMany } from '../workers/provision-many.ts'
import { createUsers } from '../workers/users.ts'
import type { SeenIdentity, Users } from '../workers/users.ts'
import { ENGINE_START_MS, ENGINES } from './harness/engines.ts'
import type { OpenedEngine } from './harness/engines.ts'

/** PGlite runs one transaction at a time, so more runs would only repeat the same. */
const PROPERTY_RUNS = { PGlite: 20, Postgres: 150 }

/** What is promised of one call holds for calls that are written together. */
const ways = [
  { way: 'one by one', usersOf: ({ db }: Database): Users => createUsers(db) },
  {
    way: 'in batches',
    usersOf: ({ db }: Database): Users => {
      const users = createUsers(db)
      const batched = createBatchedUsers(users, createProvisionMany(db), {
        onBatch: () => {},
        onBatchFailed: (_size, error) => {
          if (!isTransient(error)) throw error
        },
      })
      return { ...users, provisionUser: (seen) => batched.provisionUser(seen, { alone: false }) }
    },
  },
]

const combinations = ENGINES.flatMap((engine) => ways.map((way) => ({ ...engine, ...way })))

describe.each(combinations)('on $name, $way', ({ name, open, usersOf }) => {
  let workers: { database: Database; users: Users }[] = []
  let close: OpenedEngine['close'] | undefined

  beforeAll(async () => {
    const opened = await open()
    const { databases } = opened
    close = opened.close
    // Both at once, as when two workers start on an empty database.
    await Promise.all(databases.map((database) => database.migrate()))
    workers = databases.map((database) => ({ database, users: usersOf(database) }))
  }, ENGINE_START_MS)

  afterAll(async () => {
    await close?.()
  })

  /** Provisions through the workers in turn. */
  let turn = 0
  /** What is transient is tried again, as the worker does: a hundred in one row may wait beyond lock_timeout. */
  const provision = async (seen: SeenIdentity) => {
    for (;;) {
      try {
        return await worker(turn++).users.provisionUser(seen)
      } catch (error) {
        if (!isTransient(error)) throw error
      }
    }
  }
  const worker = (index: number) => {
    const chosen = workers[index % workers.length]
    if (!chosen) throw new Error('no worker')
    return chosen
  }
  const db = () => worker(0).database.db

  const findIdentity = ({ appid, openid }: Pick<SeenIdentity, 'appid' | 'openid'>) =>
    db()
      .selectFrom('identities')
      .innerJoin('users', 'users.id', 'identities.user_id')
      .selectAll('identities')
      .select(['users.merged_into', 'users.unionid as users_unionid'])
      .where('appid', '=', appid)
      .where('openid', '=', openid)
      .executeTakeFirstOrThrow()
  const findUser = (id: string) =>
    db().selectFrom('users').selectAll().where('id', '=', id).executeTakeFirstOrThrow()

  test('a new openid makes a user, and the same job again makes nothing', async () => {
    const seen = login()
    const first = await provision(seen)
    const second = await provision(seen)

    expect(first).toMatchObject({ created: true, relinked: [] })
    expect(second).toEqual({ userId: first.userId, created: false, relinked: [] })
    expect(await findIdentity(seen)).toMatchObject({ user_id: first.userId, provision_count: 1 })
  })

  test('one openid in two Mini Programs is two users', async () => {
    const seen = login()
    const [one, other] = [await provision(seen), await provision({ ...seen, appid: 'wx-other' })]
    expect(one.userId).not.toBe(other.userId)
  })

  test('100 concurrent jobs of one new openid make one user', async () => {
    const seen = login({ unionid: unique() })
    const results = await Promise.all(Array.from({ length: 100 }, () => provision(seen)))

    expect(new Set(results.map((result) => result.userId)).size).toBe(1)
    expect(results.filter((result) => result.created)).toHaveLength(1)
    expect(await countUsers(db(), { unionid: seen.unionid })).toBe(1)
  })

  test('100 concurrent jobs of new openids of one person make one user', async () => {
    const unionid = unique()
    const results = await Promise.all(Array.from({ length: 100 }, () => provision(login({ unionid }))))

    expect(new Set(results.map((result) => result.userId)).size).toBe(1)
    expect(results.filter((result) => result.created)).toHaveLength(1)
  })

  test('a unionid that appears later is put on the user, and leads the next identity there', async () => {
    const unionid = unique()
    const seen = login()
    const { userId } = await provision(seen)

    expect(await provision({ ...seen, unionid, seenAtMs: later(seen) })).toMatchObject({
      userId,
      created: false,
    })
    expect(await findUser(userId)).toMatchObject({ unionid, merged_into: null })
    expect(await provision(login({ unionid }))).toMatchObject({ userId, created: false })
  })

  // The Mini Programs were bound to the Open Platform account after both had users.
  test.each(['the older', 'the newer'])(
    '%s user of a person hears of the unionid last: the older survives',
    async (last) => {
      const unionid = unique()
      const [older, newer] = [login(), login()]
      const olderId = (await provision(older)).userId
      const newerId = (await provision(newer)).userId
      expect(newerId).not.toBe(olderId)

      const [firstTold, lastTold] = last === 'the older' ? [newer, older] : [older, newer]
      await provision({ ...firstTold, unionid, seenAtMs: later(firstTold) })
      const merged = await provision({ ...lastTold, unionid, seenAtMs: later(lastTold) })

      expect(merged.userId).toBe(olderId)
      expect(await findUser(olderId)).toMatchObject({ unionid, merged_into: null })
      expect(await findUser(newerId)).toMatchObject({ unionid: null, merged_into: olderId })
      expect(await findIdentity(older)).toMatchObject({ user_id: olderId })
      expect(await findIdentity(newer)).toMatchObject({ user_id: olderId })
      // Whose session still names the merged user, and only theirs:
      const expected = last === 'the older' ? [{ appid: newer.appid, openid: newer.openid, unionid }] : []
      expect(merged.relinked).toEqual(expected)
    },
  )

  test('an older job that arrives late moves nothing back', async () => {
    const [oldUnionid, newUnionid] = [unique(), unique()]
    const seen = login({ unionid: newUnionid, seenAtMs: 2_000 })
    const { userId } = await provision(seen)
    const late = await provision({ ...seen, unionid: oldUnionid, seenAtMs: 1_000 })
    await provision({ ...seen, unionid: undefined, seenAtMs: 500 })

    expect(late).toMatchObject({ userId, created: false })
    expect(await findIdentity(seen)).toMatchObject({
      unionid: newUnionid,
      unionid_seen_at: new Date(2_000),
      first_seen_at: new Date(500),
      last_seen_at: new Date(2_000),
      provision_count: 1,
    })
  })

  test('a late job may be the first to tell of a unionid', async () => {
    const unionid = unique()
    const seen = login({ seenAtMs: 2_000 })
    await provision(seen)
    await provision({ ...seen, unionid, seenAtMs: 1_000 })
    expect(await findIdentity(seen)).toMatchObject({
      unionid,
      users_unionid: unionid,
      last_seen_at: new Date(2_000),
    })
  })

  test('a login without a unionid does not take the known one away', async () => {
    const unionid = unique()
    const seen = login({ unionid })
    await provision(seen)
    await provision({ ...seen, unionid: undefined, seenAtMs: later(seen) })
    expect(await findIdentity(seen)).toMatchObject({ unionid, users_unionid: unionid, provision_count: 2 })
  })

  test('a Mini Program moved to another Open Platform account keeps its users', async () => {
    const [before, after] = [unique(), unique()]
    const seen = login({ unionid: before })
    const { userId } = await provision(seen)
    await provision({ ...seen, unionid: after, seenAtMs: later(seen) })

    expect(await findIdentity(seen)).toMatchObject({ user_id: userId, unionid: after })
    // Apps that stayed with the former account, and apps of the new one, lead to the same person.
    expect(await provision(login({ unionid: before }))).toMatchObject({ userId, created: false })
    expect(await provision(login({ unionid: after }))).toMatchObject({ userId, created: false })
  })

  // Every call merges two users, and neighbours share one: whoever locks in another order deadlocks here.
  test('a chain of merges at once ends in one user', async () => {
    const identities = Array.from({ length: 12 }, () => login())
    const ids = await Promise.all(identities.map(async (seen) => (await provision(seen)).userId))
    const links = identities.slice(1).flatMap((seen, index) => {
      const unionid = unique()
      const previous = identities[index] ?? seen
      return [seen, previous].map((each) => ({ ...each, unionid, seenAtMs: later(each) }))
    })
    await Promise.all(links.map(provision))

    const found = await Promise.all(identities.map(findIdentity))
    expect(new Set(found.map((identity) => identity.user_id)).size).toBe(1)
    expect(found.every((identity) => identity.merged_into === null)).toBe(true)
    const living = await countUsers(db(), { ids })
    expect(living).toBe(1)
  })

  test('whatever the order and the concurrency, users are exactly the persons', {
    timeout: 120_000,
  }, async () => {
    const event = fc.record({
      identity: fc.nat(5),
      unionid: fc.option(fc.nat(3), { nil: undefined }),
      seenAtMs: fc.integer({ min: 1, max: 1_000 }),
    })
    const waves = fc.array(fc.array(event, { minLength: 1, maxLength: 8 }), { minLength: 1, maxLength: 4 })

    const persons = fc.asyncProperty(waves, async (plan) => {
      const space = unique()
      const events = plan.map((wave) =>
        wave.map(({ identity, unionid, seenAtMs }) => ({
          appid: 'wx-property',
          openid: `${space}-${identity}`,
          unionid: unionid === undefined ? undefined : `${space}-u${unionid}`,
          seenAtMs,
        })),
      )
      for (const wave of events) await Promise.all(wave.map(provision))
      await expectPersons(events.flat())
      // At least once means that any of them may come again.
      await Promise.all(events.flat().map(provision))
      await expectPersons(events.flat())
    })
    await expect(fc.assert(persons, { numRuns: PROPERTY_RUNS[name] })).resolves.toBeUndefined()
  })

  async function expectPersons(events: readonly SeenIdentity[]) {
    const persons = groupPersons(events)
    const userIds = new Map<string, string>()
    for (const openid of new Set(events.map((event) => event.openid))) {
      const own = events.filter((event) => event.openid === openid)
      const row = await findIdentity({ appid: 'wx-property', openid })
      userIds.set(openid, row.user_id)

      expect(row.merged_into, 'an identity belongs to a living user').toBeNull()
      expect(row.first_seen_at.getTime()).toBe(Math.min(...own.map((event) => event.seenAtMs)))
      expect(row.last_seen_at.getTime()).toBe(Math.max(...own.map((event) => event.seenAtMs)))
      const telling = own.filter((event) => event.unionid !== undefined)
      const newest = Math.max(...telling.map((event) => event.seenAtMs))
      const possible = telling.filter((event) => event.seenAtMs === newest).map((event) => event.unionid)
      expect(possible.length === 0 ? [null] : possible).toContain(row.unionid)
    }
    for (const [one, userId] of userIds) {
      for (const [other, otherUserId] of userIds) {
        expect(userId === otherUserId, `${one} and ${other}`).toBe(persons.get(one) === persons.get(other))
      }
    }
    // No user without an identity, and every unionid leads to the user of those who have it.
    const orphans = await sql<{ id: string }>`
      select id from users where merged_into is null and not exists (
        select from identities where user_id = users.id)`.execute(db())
    expect(orphans.rows).toEqual([])
    for (const { openid, unionid } of events) {
      if (unionid === undefined) continue
      expect(await findLivingUserOf(unionid)).toBe(userIds.get(openid))
    }
  }

  async function findLivingUserOf(unionid: string) {
    let user = await db()
      .selectFrom('users')
      .selectAll()
      .where('unionid', '=', unionid)
      .executeTakeFirstOrThrow()
    for (let hops = 0; user.merged_into !== null; hops += 1) {
      expect(hops, 'merged_into has no circle').toBeLessThan(100)
      user = await findUser(user.merged_into)
    }
    return user.id
  }
})

/** The reference: persons are the connected parts of the graph of openids and unionids. */
function groupPersons(events: readonly SeenIdentity[]): Map<string, string> {
  const person = new Map(events.map((event) => [event.openid, event.openid]))
  for (let changed = true; changed; ) {
    changed = false
    for (const one of events) {
      for (const other of events) {
        if (one.unionid === undefined || one.unionid !== other.unionid) continue
        const [from, to] = [person.get(one.openid) ?? '', person.get(other.openid) ?? '']
        if (from === to) continue
        for (const [openid, of] of person) if (of === from) person.set(openid, to)
        changed = true
      }
    }
  }
  return person
}

function login(given: Partial<SeenIdentity> = {}): SeenIdentity {
  return { appid: 'wx-users', openid: unique(), seenAtMs: Date.now(), ...given }
}

function later(seen: SeenIdentity): number {
  return seen.seenAtMs + 1_000
}

function unique(): string {
  return randomUUID()
}

async function countUsers(
  db: Database['db'],
  { ids, unionid }: { ids?: readonly string[]; unionid?: string | undefined },
): Promise<number> {
  let query = db.selectFrom('users').select('id').where('merged_into', 'is', null)
  if (ids) query = query.where('id', 'in', ids)
  if (unionid !== undefined) query = query.where('unionid', '=', unionid)
  return (await query.execute()).length
}
