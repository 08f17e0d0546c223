/**
 * Erasing one identity from the store of users. Whoever shares nothing else with it goes too: the user, if it was
 * their last identity, and the users that were merged into them; a unionid that no other identity bears.
 *
 * Locks are taken in the order of users.ts. The erasure itself is remembered for a while, by the identity's hash,
 * so that a job of before does not bring the user back.
 */
import { sql } from 'kysely'
import type { Kysely, Transaction } from 'kysely'
import { setTimeout as delay } from 'node:timers/promises'
import { subjectOf } from '../src/subject.ts'
import { isConflict } from './database-errors.ts'
import type { Schema } from './migrations.ts'
import { linkIdentity, lockSubjects, lockUsers } from './users.ts'
import { NO_OUTBOX } from './webhooks/outbox.ts'
import type { Outbox } from './webhooks/outbox.ts'

/** Longer than any job of before can wait: a dead one is kept for a week. */
const REMEMBERED_DAYS = 30
const ATTEMPTS_MAX = 8
const CONFLICT_PAUSE_MS = 10

export interface IdentityToErase {
  readonly appid: string
  readonly openid: string
  /** What was seen of it up to here goes, Unix time. */
  readonly erasedAtMs: number
}

export interface ErasedRows {
  readonly identities: number
  readonly users: number
  /** The user that the identity has now: they have logged in again since they asked to be forgotten. */
  readonly since: { readonly userId: string; readonly unionid: string | undefined } | undefined
}

export interface Erasures {
  /**
   * Erases an identity, in one transaction. Idempotent: a second call erases nothing, least of all a user who has
   * come back in between. Rejects with the database's error; then nothing was changed, or everything.
   */
  eraseIdentity(identity: IdentityToErase): Promise<ErasedRows>
}

/** Builds it on a migrated database. What is erased goes from the outbox too, which tells of it. */
export function createErasures(db: Kysely<Schema>, outbox: Outbox = NO_OUTBOX): Erasures {
  return {
    async eraseIdentity(identity) {
      for (let attempt = 1; ; attempt += 1) {
        try {
          return await db.transaction().execute((tx) => erase(tx, identity, outbox))
        } catch (error) {
          if (!isConflict(error) || attempt >= ATTEMPTS_MAX) throw error
          await delay(Math.random() * CONFLICT_PAUSE_MS * 2 ** (attempt - 1))
        }
      }
    },
  }
}

async function erase(
  tx: Transaction<Schema>,
  identity: IdentityToErase,
  outbox: Outbox,
): Promise<ErasedRows> {
  await lockSubjects(tx, identity)
  const sub = subjectOf(identity.appid, identity.openid)
  const done = await findErasure(tx, sub)
  const held = await findIdentity(tx, identity)
  if (done !== undefined && done.erased_at.getTime() >= identity.erasedAtMs) {
    const since = held && { userId: held.user_id, unionid: held.unionid ?? undefined }
    return { identities: done.identities, users: done.users, since }
  }
  if (held === undefined) await outbox.forgetSubject(tx, sub)
  const users = held === undefined ? 0 : await forget(tx, held, outbox)
  const identities = held === undefined ? 0 : 1
  await remember(tx, { sub, erased_at: new Date(identity.erasedAtMs), identities, users })

  // They logged in again before this was done: what was seen since makes a new user.
  if (held === undefined || held.last_seen_at.getTime() <= identity.erasedAtMs)
    return { identities, users, since: undefined }
  const isUnionidSince = (held.unionid_seen_at?.getTime() ?? 0) > identity.erasedAtMs
  const seen = {
    appid: identity.appid,
    openid: identity.openid,
    unionid: isUnionidSince ? (held.unionid ?? undefined) : undefined,
    seenAtMs: held.last_seen_at.getTime(),
  }
  const { userId } = await linkIdentity(tx, seen, outbox)
  return { identities, users, since: { userId, unionid: seen.unionid } }
}

function findErasure(tx: Transaction<Schema>, sub: string) {
  return tx.selectFrom('erasures').selectAll().where('sub', '=', sub).executeTakeFirst()
}

async function remember(
  tx: Transaction<Schema>,
  erasure: { sub: string; erased_at: Date; identities: number; users: number },
): Promise<void> {
  await sql`delete from erasures where erased_at < now() - ${`${REMEMBERED_DAYS} days`}::interval`.execute(tx)
  const { sub: _sub, ...newer } = erasure
  await tx
    .insertInto('erasures')
    .values(erasure)
    .onConflict((conflict) => conflict.column('sub').doUpdateSet(newer))
    .execute()
}

/** A statement of its own after the lock: its snapshot has to show what the lock's last holder did. */
function findIdentity(tx: Transaction<Schema>, { appid, openid }: IdentityToErase) {
  return tx
    .selectFrom('identities')
    .selectAll()
    .where('appid', '=', appid)
    .where('openid', '=', openid)
    .forUpdate()
    .executeTakeFirst()
}

interface HeldIdentity {
  readonly id: string
  readonly appid: string
  readonly openid: string
  readonly user_id: string
  readonly unionid: string | null
}

/**
 * Deletes the identity, and its user if they have no other, with all that was merged into them. How many users that
 * were.
 */
async function forget(tx: Transaction<Schema>, held: HeldIdentity, outbox: Outbox): Promise<number> {
  const { id, user_id: userId, unionid } = held
  const sub = subjectOf(held.appid, held.openid)
  if (unionid !== null) await lockSubjects(tx, { ...held, unionid })
  await lockUsers(tx, [userId])
  await tx.deleteFrom('identities').where('id', '=', id).execute()
  const others = await tx.selectFrom('identities').select('unionid').where('user_id', '=', userId).execute()
  const tree = sql`
    with recursive tree as (
      select id from users where id = ${userId}
      union all
      select users.id from users join tree on users.merged_into = tree.id
    )
  `
  if (others.length > 0) {
    // The person stays, by their other apps; so does a unionid that one of those has told of.
    const told = others.map((other) => other.unionid).filter((each) => each !== null)
    await sql`${tree} update users set unionid = null
      where id in (select id from tree) and unionid <> all (${told}::text[])`.execute(tx)
    await outbox.forgetIdentity(tx, sub, userId)
    return 0
  }
  const { rows } = await sql<{
    id: string
  }>`${tree} delete from users where id in (select id from tree) returning id`.execute(tx)
  const merged = rows.map((row) => row.id).filter((each) => each !== userId)
  await outbox.forgetUsers(tx, sub, [userId, ...merged])
  return rows.length
}
