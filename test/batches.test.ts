/**
 * Jobs that are written together: who is done in a batch, who is left to be done alone, and that nobody suffers from
 * his neighbours. The promises of the store itself are users.test.ts', which runs on batches too.
 */
import { randomUUID } from 'node:crypto'
import { sql } from 'kysely'
import { describe, expect, test } from 'vitest'
import { subjectOf } from '../src/subject.ts'
import { createBatchedUsers } from '../workers/batches.ts'
import { createErasures } from '../workers/erasures.ts'
import { createProvisionMany } from '../workers/provision-many.ts'
import { createUsers } from '../workers/users.ts'
import type { SeenIdentity } from '../workers/users.ts'
import { ENGINES, withDatabase } from './harness/engines.ts'

const APPID = 'wx-batches'

describe.each(ENGINES)('on $name', ({ open }) => {
  const db = withDatabase(open)
  const provisionMany = (batch: readonly SeenIdentity[]) => createProvisionMany(db())(batch)
  const provisionUser = (seen: SeenIdentity) => createUsers(db()).provisionUser(seen)

  test('new and known identities are done, each with its own user and told from one another', async () => {
    const [known, told, ...others] = [login(), login({ unionid: randomUUID() }), login(), login(), login()]
    const [ofKnown, ofTold] = [await provisionUser(known), await provisionUser(told)]
    const withUnionid = login({ unionid: randomUUID() })
    const batch = [others, known, withUnionid, { ...told, seenAtMs: told.seenAtMs + 5 }].flat()
    const results = await provisionMany(batch)

    expect(results.map((user) => user?.created)).toEqual([true, true, true, false, true, false])
    expect([results[3], results[5]]).toEqual([
      { userId: ofKnown.userId, created: false, relinked: [] },
      { userId: ofTold.userId, created: false, relinked: [] },
    ])
    expect(new Set(results.map((user) => user?.userId)).size).toBe(batch.length)
    // As one call would find them, and with what it would have written.
    for (const [at, seen] of batch.entries()) {
      expect(await provisionUser(seen)).toMatchObject({ userId: results[at]?.userId, created: false })
    }
    const row = await db()
      .selectFrom('identities')
      .selectAll()
      .where('openid', '=', withUnionid.openid)
      .executeTakeFirstOrThrow()
    expect(row).toMatchObject({
      appid: APPID,
      unionid: withUnionid.unionid,
      first_seen_at: new Date(withUnionid.seenAtMs),
      last_seen_at: new Date(withUnionid.seenAtMs),
      unionid_seen_at: new Date(withUnionid.seenAtMs),
      provision_count: 1,
    })
  })

  test('the unusual is left: a unionid that is new for its identity, that somebody has, or that two bring', async () => {
    const [plain, bearer] = [login(), login({ unionid: randomUUID() })]
    await provisionUser(plain)
    await provisionUser(bearer)
    const unionid = randomUUID()
    const batch = [
      { ...plain, unionid: randomUUID() },
      login({ unionid: bearer.unionid }),
      login({ unionid }),
      login({ unionid }),
    ]
    const results = await provisionMany(batch)
    expect(results.map((user) => user?.created)).toEqual([undefined, undefined, true, undefined])
  })

  test('who was erased since is left, also when they are known again', async () => {
    const [gone, back] = [login(), login()]
    for (const seen of [gone, back]) {
      await provisionUser(seen)
      await createErasures(db()).eraseIdentity({ ...seen, erasedAtMs: seen.seenAtMs + 10 })
    }
    await provisionUser({ ...back, seenAtMs: back.seenAtMs + 20 })
    expect(await provisionMany([gone, back, login()])).toMatchObject([
      undefined,
      undefined,
      { created: true },
    ])
  })

  test('one that cannot be stored fails alone', async () => {
    const failed: number[] = []
    const users = createBatchedUsers(createUsers(db()), provisionMany, {
      onBatch: () => {},
      onBatchFailed: (size) => void failed.push(size),
    })
    const poison = login({ openid: 'o-with-\0' })
    const batch = [login(), login(), poison, login(), login()]
    const results = await Promise.allSettled(batch.map((seen) => users.provisionUser(seen, { alone: false })))

    expect(failed).toEqual([5])
    expect(results.map(({ status }) => status === 'fulfilled')).toEqual([true, true, false, true, true])
  })

  test('workers with the same users in different orders neither wait for each other for ever nor make two of one', async () => {
    const people = Array.from({ length: 60 }, () => login({ unionid: randomUUID() }))
    const failures: unknown[] = []
    const workers = [0, 1].map((at) =>
      createBatchedUsers(createUsers(db(at)), createProvisionMany(db(at)), {
        onBatch: () => {},
        onBatchFailed: (_size, error) => void failures.push(error),
      }),
    )
    for (let round = 0; round < 10; round += 1) {
      const fresh = people.map((seen) => ({
        ...seen,
        openid: `${seen.openid}-${round}`,
        unionid: randomUUID(),
      }))
      await Promise.all(
        workers.flatMap((users, at) =>
          (at === 0 ? fresh : fresh.toReversed()).map((seen) => users.provisionUser(seen, { alone: false })),
        ),
      )
    }
    expect(failures).toEqual([])
    const { rows } = await sql<{ identities: number; users: number }>`
      select count(*)::int as identities, count(distinct user_id)::int as users from identities
      where openid like any (${people.map(({ openid }) => `${openid}-%`)}::text[])`.execute(db())
    expect(rows).toEqual([{ identities: 600, users: 600 }])
  })
})

test('a job that comes alone is not held up for others, and one that failed before goes alone', async () => {
  const batches: number[] = []
  const calls: string[] = []
  const users = createBatchedUsers(
    {
      async provisionUser({ openid }) {
        calls.push(openid)
        return { userId: subjectOf(APPID, openid), created: true, relinked: [] }
      },
      identitiesOf: async () => [],
    },
    async (batch) => {
      batches.push(batch.length)
      return batch.map(({ openid }) => ({ userId: openid, created: true, relinked: [] }))
    },
    { onBatch: () => {}, onBatchFailed: () => {} },
  )
  await users.provisionUser(login({ openid: 'o-1' }), { alone: false })
  const together = ['o-2', 'o-3'].map((openid) => users.provisionUser(login({ openid }), { alone: false }))
  await Promise.all([...together, users.provisionUser(login({ openid: 'o-4' }), { alone: true })])
  expect(calls).toEqual(['o-1', 'o-4'])
  expect(batches).toEqual([2])
})

function login(given: Partial<SeenIdentity> = {}): SeenIdentity {
  return { appid: APPID, openid: `o-${randomUUID()}`, seenAtMs: Date.now(), ...given }
}
