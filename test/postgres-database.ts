/** An empty database on the tests' Postgres, so that no test sees another's rows. */
import { randomUUID } from 'node:crypto'
import { Client } from 'pg'
import { openDatabase } from '../workers/database.ts'
import type { Database } from '../workers/database.ts'

/** Makes the database; to be dropped again, for the server may be one that is kept. */
export async function createPostgresDatabase(serverUrl: string) {
  const name = `test_${randomUUID().replaceAll('-', '')}`
  await query(serverUrl, `create database ${name}`)
  const url = new URL(serverUrl)
  url.pathname = name
  return {
    name,
    url: url.href,
    /** Opens it as the worker does; by default as the tests' own role. */
    open: (as: string = url.href): Promise<Database> =>
      openDatabase({ url: as, dataDir: '', onConnectionError: () => {} }),
    /** Runs a statement over a connection of its own, as an administrator would. */
    query: (statement: string) => query(url.href, statement),
    drop: () => query(serverUrl, `drop database ${name} with (force)`),
  }
}

async function query(url: string, statement: string): Promise<void> {
  const client = new Client({ connectionString: url })
  await client.connect()
  try {
    await client.query(statement)
  } finally {
    await client.end()
  }
}
