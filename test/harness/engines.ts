/** The databases that a test of the store of users runs on: the embedded one and, where one can be started, a real Postgres. */
import { PGlite } from '@electric-sql/pglite'
import { PGliteDialect } from 'kysely'
import type { Kysely } from 'kysely'
import { afterAll, beforeAll, inject } from 'vitest'
import { createDatabase } from '../../workers/database.ts'
import type { Database } from '../../workers/database.ts'
import type { Schema } from '../../workers/migrations.ts'
import { createPostgresDatabase } from '../postgres-database.ts'

export interface OpenedEngine {
  /** Of one empty database: two pools where it takes several processes, as two workers have them. */
  readonly databases: readonly [Database, ...Database[]]
  /** Closes them all, and takes the database away. */
  readonly close: () => Promise<void>
}

export interface Engine {
  readonly name: 'PGlite' | 'Postgres'
  readonly open: () => Promise<OpenedEngine>
}

/** What the first start of the embedded one may take, on a machine that runs other tests too. */
export const ENGINE_START_MS = 30_000

const postgresUrl = inject('postgresUrl')

const ALL: readonly Engine[] = [
  {
    name: 'PGlite',
    open: async () => {
      const database = createDatabase('pglite', new PGliteDialect({ pglite: await PGlite.create() }))
      return { databases: [database], close: () => database.close() }
    },
  },
  {
    name: 'Postgres',
    open: async () => {
      const { open, drop } = await createPostgresDatabase(postgresUrl)
      const [one, two] = [await open(), await open()]
      const close = async () => {
        await Promise.all([one.close(), two.close()])
        await drop()
      }
      return { databases: [one, two], close }
    },
  },
]

export const ENGINES = ALL.slice(0, postgresUrl ? 2 : 1)

/** An empty, migrated database for the tests of a describe(). What it returns gives one of its pools, by turns. */
export function withDatabase(open: Engine['open']): (at?: number) => Kysely<Schema> {
  let opened: OpenedEngine | undefined
  beforeAll(async () => {
    opened = await open()
    await opened.databases[0].migrate()
  }, ENGINE_START_MS)
  afterAll(async () => {
    await opened?.close()
  })
  return (at = 0) => {
    const database = opened?.databases[at % opened.databases.length]
    if (database === undefined) throw new Error('no database')
    return database.db
  }
}
