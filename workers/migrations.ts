/**
 * The database's tables and how they came to be: one entry a change, applied in the order of their names,
 * each in one transaction, never edited once released.
 *
 * Forward only. While a release rolls out, the old worker runs on the new tables, so a migration may add
 * (a table, a column that is nullable or has a default, an index) and may never rename, narrow or drop
 * what the running release still uses. That takes two releases: first stop using it, then drop it.
 *
 * A migration runs under the pool's lock_timeout and statement_timeout (database.ts). One that needs
 * longer, for an index on a large table say, begins with `set local statement_timeout`.
 */
import { sql } from 'kysely'
import type { ColumnType, Generated, Kysely } from 'kysely'
import type { Migration } from 'kysely/migration'

/** The tables as the code sees them. Times are `timestamptz`. */
export interface Schema {
  users: UsersTable
  identities: IdentitiesTable
  erasures: ErasuresTable
  webhook_deliveries: WebhookDeliveriesTable
  webhook_endpoints: WebhookEndpointsTable
}

/**
 * One row a person. A row with `merged_into` is no living user: it was merged into that one, and is kept
 * so that other systems can resolve the id they know, and so that its unionid still leads to the person.
 * The chain of `merged_into` ends at a living user, and may have several links.
 */
interface UsersTable {
  id: string
  /** Unique over all rows, merged ones included. */
  unionid: string | null
  created_at: Generated<Date>
  updated_at: Generated<Date>
  merged_into: string | null
}

/** One row per (appid, openid): what WeChat calls the user of one Mini Program. Always of a living user. */
interface IdentitiesTable {
  id: ColumnType<string, string, never>
  user_id: string
  appid: ColumnType<string, string, never>
  openid: ColumnType<string, string, never>
  /** As WeChat last gave it, and when that was; kept when a later login comes without one. */
  unionid: string | null
  unionid_seen_at: Date | null
  first_seen_at: Date
  last_seen_at: Date
  /** Provisionings that were newer than all before. A login within the refresh time makes none. */
  provision_count: Generated<number>
}

/**
 * One row per identity that was erased not long ago, by its hash (src/subject.ts): what was seen of it up to then
 * must not bring it back.
 */
interface ErasuresTable {
  sub: ColumnType<string, string, never>
  erased_at: Date
  /** What was erased then, for whoever asks a second time because the answer was lost. */
  identities: Generated<number>
  users: Generated<number>
}

/** One row per event and endpoint that wants it (webhooks/outbox.ts); it is kept for a while when it has ended. */
interface WebhookDeliveriesTable {
  /** A UUIDv7, the same for all endpoints. */
  event_id: ColumnType<string, string, never>
  /** Its name in WEBHOOKS_FILE. */
  endpoint: ColumnType<string, string, never>
  type: ColumnType<string, string, never>
  /** Whom it tells of, so that erasing them finds it. */
  user_id: ColumnType<string | null, string | null, never>
  sub: ColumnType<string | null, string | null, never>
  /** The body, as it is sent. */
  payload: string
  created_at: Generated<Date>
  state: Generated<'pending' | 'delivered' | 'dead'>
  /** Attempts that were begun. */
  attempts: Generated<number>
  /** When it is to be tried (again); while it is leased, when the worker that tries it is given up. */
  due_at: Date
  leased: Generated<boolean>
  last_result: string | null
  finished_at: Date | null
}

/** What is known of endpoints beside their configuration. */
interface WebhookEndpointsTable {
  name: string
  /** It answered 410, or an operator has said so: nothing is delivered until it is enabled again. */
  disabled_at: Date | null
}

const usersAndIdentities: Migration = {
  async up(db: Kysely<unknown>) {
    await db.schema
      .createTable('users')
      .addColumn('id', 'uuid', (column) => column.primaryKey())
      .addColumn('unionid', 'text', (column) => column.unique())
      .addColumn('created_at', 'timestamptz', (column) => column.notNull().defaultTo(sql`now()`))
      .addColumn('updated_at', 'timestamptz', (column) => column.notNull().defaultTo(sql`now()`))
      .addColumn('merged_into', 'uuid', (column) => column.references('users.id'))
      .addCheckConstraint('users_not_merged_into_itself', sql`merged_into <> id`)
      .execute()
    await db.schema
      .createTable('identities')
      .addColumn('id', 'uuid', (column) => column.primaryKey())
      .addColumn('user_id', 'uuid', (column) => column.notNull().references('users.id'))
      .addColumn('appid', 'text', (column) => column.notNull())
      .addColumn('openid', 'text', (column) => column.notNull())
      .addColumn('unionid', 'text')
      .addColumn('unionid_seen_at', 'timestamptz')
      .addColumn('first_seen_at', 'timestamptz', (column) => column.notNull())
      .addColumn('last_seen_at', 'timestamptz', (column) => column.notNull())
      .addColumn('provision_count', 'integer', (column) => column.notNull().defaultTo(1))
      .addUniqueConstraint('identities_appid_openid', ['appid', 'openid'])
      .execute()
    // Not on last_seen_at: without an index on any column it changes, a refresh rewrites no index (HOT).
    await db.schema.createIndex('identities_user_id').on('identities').column('user_id').execute()
    await db.schema.createIndex('identities_unionid').on('identities').column('unionid').execute()
  },
}

const erasures: Migration = {
  async up(db: Kysely<unknown>) {
    await db.schema
      .createTable('erasures')
      .addColumn('sub', 'text', (column) => column.primaryKey())
      .addColumn('erased_at', 'timestamptz', (column) => column.notNull())
      .addColumn('identities', 'integer', (column) => column.notNull().defaultTo(0))
      .addColumn('users', 'integer', (column) => column.notNull().defaultTo(0))
      .execute()
  },
}

const webhooks: Migration = {
  async up(db: Kysely<unknown>) {
    await db.schema
      .createTable('webhook_deliveries')
      .addColumn('event_id', 'uuid', (column) => column.notNull())
      .addColumn('endpoint', 'text', (column) => column.notNull())
      .addColumn('type', 'text', (column) => column.notNull())
      .addColumn('user_id', 'text') // no UUID where users are kept elsewhere
      .addColumn('sub', 'text')
      .addColumn('payload', 'text', (column) => column.notNull())
      .addColumn('created_at', 'timestamptz', (column) => column.notNull().defaultTo(sql`now()`))
      .addColumn('state', 'text', (column) => column.notNull().defaultTo('pending'))
      .addColumn('attempts', 'integer', (column) => column.notNull().defaultTo(0))
      .addColumn('due_at', 'timestamptz', (column) => column.notNull())
      .addColumn('leased', 'boolean', (column) => column.notNull().defaultTo(false))
      .addColumn('last_result', 'text')
      .addColumn('finished_at', 'timestamptz')
      .addPrimaryKeyConstraint('webhook_deliveries_pkey', ['event_id', 'endpoint'])
      .execute()
    // What waits and what is dead is looked for often, and is little beside what was delivered.
    await sql`create index webhook_deliveries_due on webhook_deliveries (endpoint, due_at) where state = 'pending'`.execute(
      db,
    )
    await sql`create index webhook_deliveries_ended on webhook_deliveries (state, finished_at) where state <> 'pending'`.execute(
      db,
    )
    for (const column of ['user_id', 'sub'])
      await db.schema
        .createIndex(`webhook_deliveries_${column}`)
        .on('webhook_deliveries')
        .column(column)
        .execute()
    await db.schema
      .createTable('webhook_endpoints')
      .addColumn('name', 'text', (column) => column.primaryKey())
      .addColumn('disabled_at', 'timestamptz')
      .execute()
  },
}

/** By name, which is also the order. Every deployment remembers these names: never change one. */
export const MIGRATIONS: Readonly<Record<string, Migration>> = {
  '0001-users-and-identities': usersAndIdentities,
  '0002-erasures': erasures,
  '0003-webhooks': webhooks,
}
