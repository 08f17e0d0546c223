/**
 * The worker's database: Postgres at DATABASE_URL, or without one PGlite (Postgres compiled to WebAssembly)
 * in DATA_DIR, so that one machine needs nothing installed. The SQL is the same on both.
 */
import { join } from 'node:path'
import { Kysely, PGliteDialect, PostgresDialect, sql } from 'kysely'
import type { Dialect, Logger } from 'kysely'
import { Migrator } from 'kysely/migration'
import { Pool, types } from 'pg'
import type { PoolConfig } from 'pg'
import { lockDataDir } from './data-dir-lock.ts'
import { MIGRATIONS } from './migrations.ts'
import type { Schema } from './migrations.ts'

export interface DatabaseSettings {
  /** `postgres://…`; without one the embedded database is used. */
  readonly url: string | undefined
  /** Folder of the embedded database. */
  readonly dataDir: string
  /** A connection was lost while nobody used it; the pool has dropped it. For the log. */
  readonly onConnectionError: (error: Error) => void
  /** Told of each statement when it has ended. */
  readonly onQuery?: Logger | undefined
}

export interface Database {
  readonly kind: 'postgres' | 'pglite'
  readonly db: Kysely<Schema>
  /** Brings the tables up to date. Several processes may do so at once. Rejects with the database's error. */
  migrate(): Promise<void>
  /**
   * Resolves when the database takes writes, also where no connection of the pool is free. Rejects with the
   * database's error, after 14 s at most.
   */
  check(): Promise<void>
  /** Closes all connections and gives the embedded database's folder up. Waits for running transactions. */
  close(): Promise<void>
}

/** Ten a worker: two write batches, the others what is done one by one; 20 workers stay below Postgres' usual 200. */
export const CONNECTIONS_MAX = 10
const CONNECT_TIMEOUT_MS = 2_000
const STATEMENT_TIMEOUT_MS = 5_000
const LOCK_TIMEOUT_MS = 2_000
/** A worker that stalls in a transaction (suspended machine) must not hold its locks for ever. */
const IDLE_IN_TRANSACTION_TIMEOUT_MS = 10_000
/** By this process's clock, for a server that is gone without a word and so can time nothing out. */
const ANSWER_TIMEOUT_MS = 7_000

/**
 * Opens the database; connects to Postgres only when it is first used.
 * @throws {DataDirInUse} when another process has the embedded database.
 */
export function openDatabase(settings: DatabaseSettings): Promise<Database> {
  return settings.url === undefined ? openEmbedded(settings) : Promise.resolve(openPostgres(settings))
}

function openPostgres({ url, onConnectionError, onQuery }: DatabaseSettings): Database {
  // A count comes as a number, as from PGlite, not as a string: all of ours are far below 2^53.
  types.setTypeParser(types.builtins.INT8, Number)
  const options: PoolConfig = {
    connectionString: url,
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    statement_timeout: STATEMENT_TIMEOUT_MS,
    lock_timeout: LOCK_TIMEOUT_MS,
    idle_in_transaction_session_timeout: IDLE_IN_TRANSACTION_TIMEOUT_MS,
    query_timeout: ANSWER_TIMEOUT_MS,
    keepAlive: true,
    application_name: 'wechat-login-worker',
  }
  const dialect = (max: number) => {
    const pool = new Pool({ ...options, max })
    pool.on('error', onConnectionError)
    // The pool listens on idle clients only. One that breaks between two statements of a transaction emits
    // "error" with nobody listening, which would end the process; its next statement rejects anyway.
    pool.on('connect', (client) => client.on('error', () => {}))
    return new PostgresDialect({ pool })
  }
  return createDatabase('postgres', dialect(CONNECTIONS_MAX), { beside: () => dialect(1), onQuery })
}

async function openEmbedded({ dataDir, onQuery }: DatabaseSettings): Promise<Database> {
  const lock = await lockDataDir(dataDir)
  try {
    // Loaded here: the WebAssembly costs a worker on Postgres 300 MB for nothing.
    const { PGlite } = await import('@electric-sql/pglite')
    const pglite = await PGlite.create({ dataDir: join(dataDir, 'pglite') })
    const database = createDatabase('pglite', new PGliteDialect({ pglite }), { onQuery })
    return {
      ...database,
      async close() {
        await database.close()
        lock.release()
      },
    }
  } catch (error) {
    lock.release()
    throw error
  }
}

/**
 * Wraps a dialect; exported for the tests, which run the same cases on both and in memory. `beside` makes a
 * further one, to look at the server past a pool that is all taken: a worker that hangs on to its connections
 * would otherwise take itself for an outage of the database, and wait for its end (seen, with hung jobs).
 */
export function createDatabase(
  kind: Database['kind'],
  dialect: Dialect,
  { beside, onQuery }: { beside?: () => Dialect; onQuery?: Logger | undefined } = {},
): Database {
  const db = new Kysely<Schema>({ dialect, ...(onQuery && { log: onQuery }) })
  const migrator = new Migrator({ db, provider: { getMigrations: () => Promise.resolve({ ...MIGRATIONS }) } })
  return {
    kind,
    db,
    async migrate() {
      // During a rollout or after a rollback the database may be ahead of this release, which the migrator
      // takes for corruption. Migrations only add, so this release works on it.
      const pending = (await migrator.getMigrations()).filter(
        (migration) => migration.executedAt === undefined,
      )
      if (pending.length === 0) return
      const { error } = await migrator.migrateToLatest()
      if (error !== undefined) throw error
    },
    async check() {
      try {
        await checkWritable(db)
      } catch (error) {
        if (beside === undefined) throw error
        const other = new Kysely<Schema>({ dialect: beside() })
        await checkWritable(other).finally(() => void other.destroy().catch(() => {}))
      }
    },
    close: () => db.destroy(),
  }
}

/** A standby answers every read; only a server that takes writes is of use. */
async function checkWritable(db: Kysely<Schema>): Promise<void> {
  const { rows } = await sql<{ read_only: string }>`
    select current_setting('transaction_read_only') as read_only
  `.execute(db)
  if (rows[0]?.read_only !== 'off') throw new Error('the database is read-only')
}
