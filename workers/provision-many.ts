/**
 * The common cases of users.ts for many identities at once: those that are known and have nothing new to tell, and
 * those that nobody knows. The first take one UPDATE, the others one INSERT in a transaction, however many they are.
 *
 * Whatever is not common (a unionid that somebody has, one that is new for its identity, a user who was erased since)
 * is left to users.ts, one by one. So is everything when a statement fails: what is done here is done for all or none.
 *
 * Locks are those of users.ts, in its order, and within each kind in one order, so that two batches cannot wait for
 * each other.
 */
import { randomUUIDv7 } from 'node:crypto'
import { sql } from 'kysely'
import type { Kysely, Transaction } from 'kysely'
import { subjectOf } from '../src/subject.ts'
import type { Schema } from './migrations.ts'
import { lockManySubjects, loginEvent } from './users.ts'
import type { ProvisionedUser, SeenIdentity } from './users.ts'
import { NO_OUTBOX } from './webhooks/outbox.ts'
import type { Outbox } from './webhooks/outbox.ts'

/**
 * Provisions what is common of a batch, and returns undefined in the place of what is not. Rejects with the database's
 * error; then the known ones may have been refreshed, which may be repeated.
 *
 * @param batch no identity twice
 */
export type ProvisionMany = (
  batch: readonly SeenIdentity[],
) => Promise<readonly (ProvisionedUser | undefined)[]>

/** Builds it on a migrated database. What happens to users is told to the outbox. */
export function createProvisionMany(db: Kysely<Schema>, outbox: Outbox = NO_OUTBOX): ProvisionMany {
  /** One statement, unless somebody wants to hear of logins. */
  function refresh(batch: readonly SeenIdentity[]) {
    if (!outbox.wants('user.login')) return refreshMany(db, batch)
    return db.transaction().execute(async (tx) => {
      const known = await refreshMany(tx, batch)
      await outbox.record(tx, withIds(batch, known, loginEvent))
      return known
    })
  }

  return async (batch) => {
    const known = await refresh(batch)
    const others = batch.filter((seen) => !known.has(subOf(seen)))
    const created =
      others.length === 0
        ? NOBODY
        : await db.transaction().execute(async (tx) => {
            const users = await createMany(tx, others)
            await outbox.record(tx, [
              ...withIds(others, users, createdEvent),
              ...withIds(others, users, loginEvent),
            ])
            return users
          })
    return batch.map((seen) => {
      const knownId = known.get(subOf(seen))
      const userId = knownId ?? created.get(subOf(seen))
      return userId === undefined ? undefined : { userId, created: knownId === undefined, relinked: [] }
    })
  }
}

/** Makes something of those of the batch who have a user now. */
function withIds<T>(
  batch: readonly SeenIdentity[],
  users: ReadonlyMap<string, string>,
  make: (seen: SeenIdentity, userId: string) => T,
): T[] {
  return batch.flatMap((seen) => {
    const userId = users.get(subOf(seen))
    return userId === undefined ? [] : [make(seen, userId)]
  })
}

function createdEvent(seen: SeenIdentity, userId: string) {
  return { type: 'user.created' as const, userId, identity: seen }
}

const NOBODY: ReadonlyMap<string, string> = new Map()

function subOf({ appid, openid }: SeenIdentity): string {
  return subjectOf(appid, openid)
}

/** The batch as a table: sub, appid, openid, unionid, seen_at. */
function rowsOf(batch: readonly SeenIdentity[]) {
  const column = (read: (seen: SeenIdentity) => string | null) => sql`${batch.map(read)}::text[]`
  return sql`(
    select sub, appid, openid, unionid, seen_at::timestamptz from unnest(
      ${column(subOf)}, ${column(({ appid }) => appid)}, ${column(({ openid }) => openid)},
      ${column(({ unionid }) => unionid ?? null)}, ${column(({ seenAtMs }) => new Date(seenAtMs).toISOString())}
    ) as given (sub, appid, openid, unionid, seen_at)
  )`
}

const NOT_ERASED_SINCE = sql`not exists (
  select from erasures where erasures.sub = seen.sub and erasures.erased_at >= seen.seen_at
)`

interface Row {
  readonly sub: string
  readonly user_id: string
}

function byUser(rows: readonly Row[]): ReadonlyMap<string, string> {
  return new Map(rows.map(({ sub, user_id }) => [sub, user_id]))
}

/** As updateSeen() and refreshIdentity() of users.ts, by which each column moves one way only. */
async function refreshMany(db: Kysely<Schema>, batch: readonly SeenIdentity[]) {
  const { rows } = await sql<Row>`
    with seen as materialized ${rowsOf(batch)},
    held as materialized (
      select identities.id, seen.sub, seen.seen_at, seen.unionid as told
      from identities join seen on identities.appid = seen.appid and identities.openid = seen.openid
      where (seen.unionid is null or identities.unionid = seen.unionid) and ${NOT_ERASED_SINCE}
      order by identities.id
      for update of identities
    )
    update identities set
      first_seen_at = least(first_seen_at, seen_at),
      last_seen_at = greatest(last_seen_at, seen_at),
      provision_count = provision_count + case when last_seen_at < seen_at then 1 else 0 end,
      unionid_seen_at = case when told is null then unionid_seen_at else greatest(unionid_seen_at, seen_at) end
    from held where identities.id = held.id
    returning held.sub, identities.user_id
  `.execute(db)
  return byUser(rows)
}

/** What linkIdentity() of users.ts does for an identity and a unionid that nobody has. */
async function createMany(tx: Transaction<Schema>, batch: readonly SeenIdentity[]) {
  const unionids = new Set<string>()
  // Of several who bear one new unionid the first makes the user; the others are linked to them, one by one.
  const first = batch.filter(({ unionid }) => {
    if (unionid === undefined) return true
    const isFirst = !unionids.has(unionid)
    unionids.add(unionid)
    return isFirst
  })
  await lockManySubjects(tx, first)
  const ids = () => sql`${first.map(() => randomUUIDv7())}::uuid[]`
  // A statement of its own after the locks: its snapshot has to show what their last holder did.
  const { rows } = await sql<Row>`
    with seen as materialized ${rowsOf(first)},
    ids as materialized (
      select sub, user_id, identity_id
      from unnest(${first.map(subOf)}::text[], ${ids()}, ${ids()}) as made (sub, user_id, identity_id)
    ),
    fresh as materialized (
      select seen.*, ids.user_id, ids.identity_id from seen join ids on ids.sub = seen.sub
      where ${NOT_ERASED_SINCE}
        and not exists (select from identities where appid = seen.appid and openid = seen.openid)
        and (seen.unionid is null or not exists (select from users where unionid = seen.unionid))
    ),
    made_users as (insert into users (id, unionid) select user_id, unionid from fresh),
    made_identities as (
      insert into identities
        (id, user_id, appid, openid, unionid, unionid_seen_at, first_seen_at, last_seen_at)
      select identity_id, user_id, appid, openid, unionid,
        case when unionid is null then null else seen_at end, seen_at, seen_at
      from fresh
    )
    select sub, user_id from fresh
  `.execute(tx)
  return byUser(rows)
}
