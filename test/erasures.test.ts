/**
 * Erasing an identity from the store of users: what goes, what stays, and what does not come back. On the embedded
 * database and, where one can be started, on a real Postgres.
 */
import { randomUUID } from 'node:crypto'
import { sql } from 'kysely'
import { describe, expect, test } from 'vitest'
import { subjectOf } from '../src/subject.ts'
import { ErasedSince } from '../workers/database-errors.ts'
import { createErasures } from '../workers/erasures.ts'
import { createUsers } from '../workers/users.ts'
import type { SeenIdentity } from '../workers/users.ts'
import { ENGINES, withDatabase } from './harness/engines.ts'

/** A minute ago: erasures of long ago are forgotten. */
const T = Date.now() - 60_000

const unique = () => randomUUID()
const login = (own: Partial<SeenIdentity> = {}): SeenIdentity => ({
  appid: 'wx-app',
  openid: `o-${unique()}`,
  seenAtMs: T + 1_000,
  ...own,
})

describe.each(ENGINES)('on $name', ({ open }) => {
  const db = withDatabase(open)

  const provision = (seen: SeenIdentity) => createUsers(db()).provisionUser(seen)
  const erase = ({ appid, openid }: SeenIdentity, erasedAtMs: number) =>
    createErasures(db()).eraseIdentity({ appid, openid, erasedAtMs })
  const userIds = async () => (await db().selectFrom('users').select('id').execute()).map(({ id }) => id)

  /** Every row of every table, as text. */
  async function everything(): Promise<string> {
    const tables = ['users', 'identities', 'erasures'] as const
    const rows = await Promise.all(tables.map((table) => db().selectFrom(table).selectAll().execute()))
    return JSON.stringify(rows)
  }

  test('a user with one identity goes, and nothing of them is left but the hash', async () => {
    const seen = login({ unionid: unique() })
    const { userId } = await provision(seen)
    expect(await erase(seen, T + 2_000)).toEqual({ identities: 1, users: 1, since: undefined })
    const left = await everything()
    for (const trace of [seen.openid, seen.unionid ?? '', userId]) expect(left).not.toContain(trace)
    expect(left).toContain(subjectOf(seen.appid, seen.openid))
  })

  test('the same person in another app stays, with the unionid that app has told of', async () => {
    const unionid = unique()
    const [one, other] = [login({ unionid }), login({ unionid, appid: 'wx-other' })]
    const { userId } = await provision(one)
    await provision(other)
    expect(await erase(one, T + 2_000)).toEqual({ identities: 1, users: 0, since: undefined })
    const left = await everything()
    expect(left).not.toContain(one.openid)
    expect(left).toContain(unionid)
    expect(await provision({ ...other, seenAtMs: T + 3_000 })).toMatchObject({ userId, created: false })
    expect(await provision({ ...one, seenAtMs: T + 3_000 })).toMatchObject({ userId, created: false })
  })

  test('a unionid that only the erased identity bore goes, also where users were merged for it', async () => {
    const [before, after] = [unique(), unique()]
    const moved = login({ unionid: before })
    await provision(moved)
    await provision({ ...moved, unionid: after, seenAtMs: T + 1_500 })
    const other = login({ unionid: before, appid: 'wx-other' })
    await provision(other)
    await erase(moved, T + 2_000)
    const left = await everything()
    expect(left).not.toContain(after)
    expect(left).toContain(before)
  })

  test('users that were merged into the erased one go with them', async () => {
    const unionid = unique()
    const [older, newer] = [login(), login()]
    const ids = [(await provision(older)).userId, (await provision(newer)).userId]
    await provision({ ...older, unionid, seenAtMs: T + 1_100 })
    await provision({ ...newer, unionid, seenAtMs: T + 1_100 })
    expect(await erase(older, T + 2_000)).toMatchObject({ identities: 1, users: 0 })
    expect(await erase(newer, T + 2_000)).toMatchObject({ identities: 1, users: 2 })
    const living = await userIds()
    expect(ids.filter((id) => living.includes(id))).toEqual([])
  })

  test('what was seen before does not bring them back; what is seen later makes a new user', async () => {
    const seen = login({ unionid: unique() })
    const { userId } = await provision(seen)
    await erase(seen, T + 2_000)
    for (const seenAtMs of [T + 500, T + 1_000, T + 2_000]) {
      await expect(provision({ ...seen, seenAtMs })).rejects.toThrow(ErasedSince)
    }
    const again = await provision({ ...seen, seenAtMs: T + 2_001 })
    expect(again.created).toBe(true)
    expect(again.userId).not.toBe(userId)
    await expect(provision({ ...seen, seenAtMs: T + 1_000 })).rejects.toThrow(ErasedSince)
    const { first_seen_at: firstSeenAt } = await db()
      .selectFrom('identities')
      .selectAll()
      .where('openid', '=', seen.openid)
      .executeTakeFirstOrThrow()
    expect(firstSeenAt).toEqual(new Date(T + 2_001))
  })

  test('a job that is run twice erases once, and leaves who has come back alone', async () => {
    const seen = login()
    await provision(seen)
    await erase(seen, T + 2_000)
    expect(await erase(seen, T + 2_000)).toEqual({ identities: 1, users: 1, since: undefined })
    const { userId } = await provision({ ...seen, seenAtMs: T + 3_000 })
    const again = { identities: 1, users: 1, since: { userId, unionid: undefined } }
    expect(await erase(seen, T + 2_000)).toEqual(again)
    expect(await erase(seen, T + 1_500)).toEqual(again) // an older order, late
    expect(await erase(seen, T + 4_000)).toEqual({ identities: 1, users: 1, since: undefined })
  })

  test('who has logged in again before it was done is a new user from then on', async () => {
    const unionid = unique()
    const seen = login({ unionid })
    const { userId: formerId } = await provision(seen)
    await provision({ ...seen, unionid: undefined, seenAtMs: T + 3_000 })
    const { since, ...counts } = await erase(seen, T + 2_000)
    expect(counts).toEqual({ identities: 1, users: 1 })
    expect(since?.userId).not.toBe(formerId)
    expect(since?.unionid).toBeUndefined()
    expect(await everything()).not.toContain(unionid) // of before
    const { userId } = await provision({ ...seen, unionid: undefined, seenAtMs: T + 3_500 })
    expect(userId).toBe(since?.userId)
  })

  test('somebody of whom nothing is known is erased as well', async () => {
    const seen = login()
    expect(await erase(seen, T + 2_000)).toEqual({ identities: 0, users: 0, since: undefined })
    await expect(provision(seen)).rejects.toThrow(ErasedSince)
  })

  test('a job beside the erasure leaves nothing behind, whichever comes first', async () => {
    const people = Array.from({ length: 40 }, () => login({ unionid: unique() }))
    await Promise.all(people.slice(0, 20).map(provision))
    await Promise.all(
      people.flatMap((seen) => [
        provision(seen).catch(() => {}),
        erase(seen, T + 2_000),
        provision({ ...seen, seenAtMs: T + 1_500 }).catch(() => {}),
      ]),
    )
    const left = await everything()
    expect(
      people.filter(({ openid, unionid = '' }) => left.includes(openid) || left.includes(unionid)),
    ).toEqual([])
  })

  test('an erasure is forgotten after a month, and not before', async () => {
    const [old, recent] = [login(), login()]
    await erase(old, Date.now() - 31 * 24 * 3600 * 1_000)
    await erase(recent, Date.now() - 29 * 24 * 3600 * 1_000)
    await erase(login(), Date.now())
    const { rows } = await sql<{ sub: string }>`select sub from erasures`.execute(db())
    const subs = rows.map(({ sub }) => sub)
    expect(subs).not.toContain(subjectOf(old.appid, old.openid))
    expect(subs).toContain(subjectOf(recent.appid, recent.openid))
  })
})
