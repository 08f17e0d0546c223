/**
 * The store of users: which person stands behind which (appid, openid).
 *
 * WeChat gives every Mini Program its own openid for one person, and, for apps of one Open Platform
 * account, a unionid that is the same in all of them. The unionid may appear only later, and it changes
 * when an app is moved to another account. So a user here is everything that WeChat has ever said to
 * belong together: identities are joined by unionids, and two users that turn out to be one are merged.
 * Nothing is ever split, therefore the outcome does not depend on the order in which jobs arrive, and a
 * job that runs twice, late, or beside others changes nothing that is not true.
 *
 * Concurrency, on the default isolation level (read committed). Locks are taken in one fixed order, so
 * there is no deadlock among these transactions:
 *
 *   1. the identity, then the unionid, as advisory locks: two calls about one of them take turns;
 *   2. the living users concerned, by id (for a merge can reach them through another unionid);
 *   3. identity rows.
 *
 * Whoever finds at step 2 that a user was merged away meanwhile has chosen by an old picture, gives up all
 * locks and starts again. The returning user, by far the most common, takes one UPDATE and none of this.
 */
import assert from 'node:assert/strict'
import { randomUUIDv7 } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { sql } from 'kysely'
import type { Kysely, Transaction } from 'kysely'
import { subjectOf } from '../src/subject.ts'
import { ErasedSince, isConflict, Superseded } from './database-errors.ts'
import type { Schema } from './migrations.ts'
import { NO_OUTBOX, repeatableEventId } from './webhooks/outbox.ts'
import type { NewEvent, Outbox } from './webhooks/outbox.ts'

/** What a login learnt. `seenAtMs` is when (Unix time), and orders what arrives out of order. */
export interface SeenIdentity {
  readonly appid: string
  readonly openid: string
  readonly unionid?: string | undefined
  readonly seenAtMs: number
}

/** One that is held. */
export interface Identity {
  readonly appid: string
  readonly openid: string
  readonly unionid: string | undefined
}

export interface ProvisionedUser {
  /** The living user of this identity; a UUIDv7. */
  readonly userId: string
  /** Whether this call made the user. False when the call is repeated. */
  readonly created: boolean
  /** Other identities that a merge moved to `userId` just now: what was known of them elsewhere is out of date. */
  readonly relinked: readonly Identity[]
}

export interface Users {
  /**
   * Records that an identity was seen, and returns its user.
   *
   * One transaction. Idempotent, and safe to call concurrently, from any number of processes. A call with an
   * older `seenAtMs` moves no time and no unionid back. Rejects with the database's error, of which
   * database-errors.ts says whether trying again later can help; then nothing was changed, except after a
   * connection lost during the commit, when everything may have been. Rejects with ErasedSince when the user was
   * erased after `seenAtMs`.
   */
  provisionUser(seen: SeenIdentity): Promise<ProvisionedUser>
  /** The identities of a user, in any order. Rejects with the database's error. */
  identitiesOf(userId: string): Promise<readonly Identity[]>
}

/** Tries of one call before a conflict with others becomes the caller's. Each costs milliseconds. */
const ATTEMPTS_MAX = 8
/** Upper bound of the pause before the second try; doubled for each further one, with full jitter. */
const CONFLICT_PAUSE_MS = 10

/** Builds the store on a migrated database. What happens to users is told to the outbox. */
export function createUsers(db: Kysely<Schema>, outbox: Outbox = NO_OUTBOX): Users {
  return {
    async provisionUser(seen) {
      for (let attempt = 1; ; attempt += 1) {
        try {
          const userId = await refresh(seen)
          if (userId !== undefined) return { userId, created: false, relinked: [] }
          return await db.transaction().execute((tx) => linkIdentity(tx, seen, outbox))
        } catch (error) {
          // Rolled back for the sake of another transaction: nothing happened, and the same call works now.
          if (!isConflict(error) || attempt >= ATTEMPTS_MAX) throw error
          await delay(Math.random() * CONFLICT_PAUSE_MS * 2 ** (attempt - 1))
        }
      }
    },

    async identitiesOf(userId) {
      const rows = await db
        .selectFrom('identities')
        .select(['appid', 'openid', 'unionid'])
        .where('user_id', '=', userId)
        .execute()
      return rows.map(({ appid, openid, unionid }) => ({ appid, openid, unionid: unionid ?? undefined }))
    },
  }

  /** One statement, unless somebody wants to hear of logins. */
  function refresh(seen: SeenIdentity): Promise<string | undefined> {
    if (!outbox.wants('user.login')) return refreshIdentity(db, seen)
    return db.transaction().execute(async (tx) => {
      const userId = await refreshIdentity(tx, seen)
      if (userId !== undefined) await outbox.record(tx, [loginEvent(seen, userId)])
      return userId
    })
  }
}

/** The same however often the job is run that tells of this login. */
export function loginEvent(seen: SeenIdentity, userId: string): NewEvent {
  const id = repeatableEventId('user.login', subjectOf(seen.appid, seen.openid), seen.seenAtMs)
  return { type: 'user.login', id, userId, identity: seen, atMs: seen.seenAtMs }
}

/** The returning user: touches the identity if this call says nothing new about whose it is. */
async function refreshIdentity(db: Kysely<Schema>, seen: SeenIdentity): Promise<string | undefined> {
  let query = updateSeen(db, seen).where(({ not, exists, selectFrom }) =>
    not(
      exists(
        selectFrom('erasures')
          .select('sub')
          .where('sub', '=', subjectOf(seen.appid, seen.openid))
          .where('erased_at', '>=', new Date(seen.seenAtMs)),
      ),
    ),
  )
  if (seen.unionid !== undefined) query = query.where('unionid', '=', seen.unionid)
  return (await query.executeTakeFirst())?.user_id
}

/** Everything else: a new identity, or a unionid that is new for it. */
export async function linkIdentity(
  tx: Transaction<Schema>,
  seen: SeenIdentity,
  outbox: Outbox,
): Promise<ProvisionedUser> {
  await lockSubjects(tx, seen)
  await demandNotErased(tx, seen)
  const known = await findUserIds(tx, seen)
  const living = await lockUsers(tx, [known.ofIdentity, known.ofUnionid])
  const ofIdentity = living.find((user) => user.id === known.ofIdentity)
  const ofUnionid = living.find((user) => user.id === known.ofUnionid)

  if (ofIdentity === undefined) {
    const userId =
      ofUnionid?.id ?? (await insertUser(tx, { unionid: seen.unionid ?? null, merged_into: null }))
    await insertIdentity(tx, userId, seen)
    const type = ofUnionid === undefined ? 'user.created' : 'user.linked'
    await outbox.record(tx, [{ type, userId, identity: seen }, loginEvent(seen, userId)])
    return { userId, created: ofUnionid === undefined, relinked: [] }
  }

  let userId = ofIdentity.id
  let relinked: readonly Identity[] = []
  if (ofUnionid === undefined) {
    if (seen.unionid !== undefined) await addUnionid(tx, ofIdentity, seen.unionid)
  } else if (ofUnionid.id !== ofIdentity.id) {
    ;({ userId, relinked } = await mergeUsers(tx, ofIdentity, ofUnionid))
    const mergedUserId = userId === ofIdentity.id ? ofUnionid.id : ofIdentity.id
    const details = { merged_user_id: mergedUserId }
    await outbox.record(tx, [{ type: 'user.merged', userId, identity: seen, details }])
  }
  await updateSeen(tx, seen).execute()
  await outbox.record(tx, [loginEvent(seen, userId)])
  return { userId, created: false, relinked: relinked.filter((identity) => !isSame(identity, seen)) }
}

/**
 * Classes of our advisory locks; the identity's comes first, always. 32 bits of hash may collide, which
 * only makes two strangers take turns.
 */
const IDENTITY_LOCK = 0x77_78_69
const UNIONID_LOCK = 0x77_78_75

export async function lockSubjects(
  tx: Transaction<Schema>,
  seen: { appid: string; openid: string; unionid?: string | undefined },
): Promise<void> {
  const identity = JSON.stringify([seen.appid, seen.openid])
  await sql`select pg_advisory_xact_lock(${IDENTITY_LOCK}::int, hashtext(${identity}))`.execute(tx)
  if (seen.unionid === undefined) return
  await sql`select pg_advisory_xact_lock(${UNIONID_LOCK}::int, hashtext(${seen.unionid}))`.execute(tx)
}

/** The same for many, without a deadlock between two of them: each kind of lock is taken in the order of its hashes. */
export async function lockManySubjects(tx: Transaction<Schema>, all: readonly SeenIdentity[]): Promise<void> {
  const unionids = all.flatMap(({ unionid }) => (unionid === undefined ? [] : [unionid]))
  const subjects = [...all.map(({ appid, openid }) => JSON.stringify([appid, openid])), ...unionids]
  const kinds = subjects.map((_, at) => (at < all.length ? IDENTITY_LOCK : UNIONID_LOCK))
  await sql`
    select pg_advisory_xact_lock(kind, hash) from (
      select distinct kind, hashtext(subject) as hash
      from unnest(${kinds}::int[], ${subjects}::text[]) as subjects (kind, subject)
      order by kind, hash
    ) as locks
  `.execute(tx)
}

/** What was seen before a user was erased must not bring them back. Under the identity's lock, as erasing is. */
async function demandNotErased(tx: Transaction<Schema>, seen: SeenIdentity): Promise<void> {
  const erasure = await tx
    .selectFrom('erasures')
    .select('erased_at')
    .where('sub', '=', subjectOf(seen.appid, seen.openid))
    .executeTakeFirst()
  if (erasure !== undefined && erasure.erased_at.getTime() >= seen.seenAtMs)
    throw new ErasedSince(erasure.erased_at.getTime())
}

/** Must be a statement of its own, after the locks: its snapshot has to show what their last holder did. */
async function findUserIds(tx: Transaction<Schema>, seen: SeenIdentity) {
  const { rows } = await sql<{ of_identity: string | null; of_unionid: string | null }>`
    with recursive chain as (
      select id, merged_into from users where unionid = ${seen.unionid ?? null}::text
      union all
      select users.id, users.merged_into from users join chain on users.id = chain.merged_into
    )
    select
      (select user_id from identities where appid = ${seen.appid} and openid = ${seen.openid}) as of_identity,
      (select id from chain where merged_into is null) as of_unionid
  `.execute(tx)
  return { ofIdentity: rows[0]?.of_identity ?? undefined, ofUnionid: rows[0]?.of_unionid ?? undefined }
}

export interface LivingUser {
  readonly id: string
  readonly unionid: string | null
  readonly created_at: Date
}

/** Postgres waits for a row, then tests the condition again on what it became: a merged user drops out here. */
export async function lockUsers(
  tx: Transaction<Schema>,
  ids: readonly (string | undefined)[],
): Promise<readonly LivingUser[]> {
  const wanted = [...new Set(ids)].filter((id) => id !== undefined)
  if (wanted.length === 0) return []
  const living = await tx
    .selectFrom('users')
    .select(['id', 'unionid', 'created_at'])
    .where('id', 'in', wanted)
    .where('merged_into', 'is', null)
    .orderBy('id')
    .forUpdate()
    .execute()
  if (living.length < wanted.length) throw new Superseded()
  return living
}

async function insertUser(
  tx: Transaction<Schema>,
  user: { unionid: string | null; merged_into: string | null },
): Promise<string> {
  const id = randomUUIDv7()
  await tx
    .insertInto('users')
    .values({ id, ...user })
    .execute()
  return id
}

async function insertIdentity(tx: Transaction<Schema>, userId: string, seen: SeenIdentity): Promise<void> {
  const seenAt = new Date(seen.seenAtMs)
  await tx
    .insertInto('identities')
    .values({
      id: randomUUIDv7(),
      user_id: userId,
      appid: seen.appid,
      openid: seen.openid,
      unionid: seen.unionid ?? null,
      unionid_seen_at: seen.unionid === undefined ? null : seenAt,
      first_seen_at: seenAt,
      last_seen_at: seenAt,
    })
    .execute()
}

/** The identity as it is after being seen; every column moves one way only, whatever the order of calls. */
function updateSeen(db: Kysely<Schema>, seen: SeenIdentity) {
  const seenAt = sql<Date>`${new Date(seen.seenAtMs)}::timestamptz`
  const query = db
    .updateTable('identities')
    .set({
      first_seen_at: sql`least(first_seen_at, ${seenAt})`,
      last_seen_at: sql`greatest(last_seen_at, ${seenAt})`,
      provision_count: sql`provision_count + case when last_seen_at < ${seenAt} then 1 else 0 end`,
    })
    .where('appid', '=', seen.appid)
    .where('openid', '=', seen.openid)
    .returning('user_id')
  if (seen.unionid === undefined) return query
  return query.set({
    unionid: sql`case when unionid_seen_at >= ${seenAt} then unionid else ${seen.unionid} end`,
    unionid_seen_at: sql`greatest(unionid_seen_at, ${seenAt})`, // greatest() passes over nulls
  })
}

/**
 * A unionid nobody had. A user that has one already, of the app's former Open Platform account, keeps it,
 * and the further one gets a merged row, so that both lead to the same person.
 */
async function addUnionid(tx: Transaction<Schema>, user: LivingUser, unionid: string): Promise<void> {
  if (user.unionid === null) await updateUser(tx, user.id, { unionid })
  else await insertUser(tx, { unionid, merged_into: user.id })
}

/** The older user survives, because its id is the one that other systems are more likely to have stored. */
async function mergeUsers(
  tx: Transaction<Schema>,
  one: LivingUser,
  other: LivingUser,
): Promise<{ userId: string; relinked: readonly Identity[] }> {
  const [survivor, merged] = isOlder(one, other) ? [one, other] : [other, one]
  assert.notEqual(survivor.id, merged.id)

  const movesUnionid = survivor.unionid === null && merged.unionid !== null
  await updateUser(tx, merged.id, { merged_into: survivor.id, ...(movesUnionid && { unionid: null }) })
  if (movesUnionid) await updateUser(tx, survivor.id, { unionid: merged.unionid })

  const relinked = await tx
    .updateTable('identities')
    .set({ user_id: survivor.id })
    .where('user_id', '=', merged.id)
    .returning(['appid', 'openid', 'unionid'])
    .execute()
  return {
    userId: survivor.id,
    relinked: relinked.map((identity) => ({ ...identity, unionid: identity.unionid ?? undefined })),
  }
}

async function updateUser(
  tx: Transaction<Schema>,
  id: string,
  change: { unionid?: string | null; merged_into?: string },
): Promise<void> {
  await tx
    .updateTable('users')
    .set({ ...change, updated_at: sql`now()` })
    .where('id', '=', id)
    .execute()
}

/** By the database's clock, which all workers share; then by id, so that every worker chooses alike. */
function isOlder(one: LivingUser, other: LivingUser): boolean {
  const differenceMs = one.created_at.getTime() - other.created_at.getTime()
  return differenceMs === 0 ? one.id < other.id : differenceMs < 0
}

function isSame(identity: Identity, seen: SeenIdentity): boolean {
  return identity.appid === seen.appid && identity.openid === seen.openid
}
