/** Where users are written: into the database, or by a module of the operator's (PROVISION_MODULE). */
import type { WorkerConfig } from '../src/config.ts'
import { createErasedMarks, createLoggedInCheck, createUnionidReader } from '../src/erasure.ts'
import type { Log } from '../src/log.ts'
import type { RedisClient } from '../src/redis/connections.ts'
import type { Keys } from '../src/redis/keys.ts'
import { describeDatabaseError } from './database-errors.ts'
import { openDatabase } from './database.ts'
import type { Database, DatabaseSettings } from './database.ts'
import { createErasures } from './erasures.ts'
import type { Erasures } from './erasures.ts'
import { createProvisionMany } from './provision-many.ts'
import type { ProvisionMany } from './provision-many.ts'
import { createModuleStore, loadProvisionModule } from './provision-module.ts'
import { createUsers } from './users.ts'
import type { Users } from './users.ts'
import { createOutbox } from './webhooks/outbox.ts'

export interface UserStore {
  readonly kind: Database['kind'] | 'module'
  /** undefined where a module writes the users. Its tables are not looked at. */
  readonly database: Database | undefined
  readonly users: Users
  /** Writes many together; undefined where that cannot be. */
  readonly provisionMany: ProvisionMany | undefined
  readonly erasures: Erasures
  /** Has to resolve before the jobs of a user who is erased are taken away. */
  readonly beforeErasing: (user: { sub: string; erasedAtMs: number }) => Promise<void>
  /** Whether it works is known only of a database. */
  readonly check: () => Promise<void>
  close(): Promise<void>
}

export interface UserStoreDeps {
  readonly redis: RedisClient
  readonly keys: Keys
  readonly log: Log
  readonly onQuery?: DatabaseSettings['onQuery']
}

/**
 * Opens it.
 * @throws {DataDirInUse} when another process has the embedded database
 * @throws {ProvisionModuleFault}
 */
export async function openUserStore(
  { provisionModule, databaseUrl, dataDir, webhooks }: WorkerConfig,
  { redis, keys, log, onQuery }: UserStoreDeps,
): Promise<UserStore> {
  if (provisionModule !== undefined) {
    const module = await loadProvisionModule(provisionModule)
    if (module.eraseUser === undefined)
      log.warn('PROVISION_MODULE exports no eraseUser: whoever is erased stays in its table')
    const store = createModuleStore(module, {
      erased: createErasedMarks(redis, keys),
      isLoggedIn: createLoggedInCheck(redis, keys),
      unionidOf: createUnionidReader(redis, keys),
      log,
    })
    return {
      kind: 'module',
      database: undefined,
      users: store,
      provisionMany: undefined,
      erasures: store,
      beforeErasing: store.remember,
      check: async () => {},
      close: async () => {},
    }
  }
  const database = await openDatabase({
    url: databaseUrl?.reveal(),
    dataDir,
    onConnectionError: (error) => log.warn(describeDatabaseError(error), 'idle database connection lost'),
    onQuery,
  })
  const outbox = createOutbox(webhooks.endpoints)
  return {
    kind: database.kind,
    database,
    users: createUsers(database.db, outbox),
    provisionMany: createProvisionMany(database.db, outbox),
    erasures: createErasures(database.db, outbox),
    beforeErasing: async () => {}, // erased in one transaction with what remembers it
    check: () => database.check(),
    close: () => database.close(),
  }
}
