/** A database for each stand, on one Postgres of the bench; rows that kill Postgres bring one of their own. */
import { randomUUID } from 'node:crypto'
import { Client } from 'pg'
import { startPostgres } from '../harness/postgres-server.ts'
import type { Bench } from './row.ts'

export interface Database {
  url: string
  /** Rows of a query, over a connection of its own. */
  query<T extends object>(text: string, values?: unknown[]): Promise<T[]>
}

let shared: Promise<{ url: string; stop(): Promise<void> }> | undefined

/** The bench's Postgres; started by the first who needs it. */
function sharedServer(): Promise<{ url: string; stop(): Promise<void> }> {
  shared ??= startPostgres().then((server) => {
    if (server === undefined)
      throw new Error('there is no Postgres on this machine (apt-get install postgresql)')
    return server
  })
  return shared
}

export async function stopSharedPostgres(): Promise<void> {
  const server = await shared?.catch(() => undefined)
  await server?.stop()
}

/** An empty database that goes with the row. */
export async function createDatabase(bench: Bench): Promise<Database> {
  const server = await sharedServer()
  const name = `faults_${randomUUID().replaceAll('-', '')}`
  await query(server.url, `create database ${name}`)
  bench.defer(() => query(server.url, `drop database if exists ${name} with (force)`))
  const url = new URL(server.url)
  url.pathname = name
  return openOn(url.href)
}

/** A database that is there already. */
export function openOn(url: string): Database {
  return { url, query: <T extends object>(text: string, values?: unknown[]) => query<T>(url, text, values) }
}

async function query<T extends object>(url: string, text: string, values?: unknown[]): Promise<T[]> {
  const client = new Client({ connectionString: url, connectionTimeoutMillis: 5_000 })
  client.on('error', () => {}) // the query reports it
  await client.connect()
  try {
    return (await client.query<T>(text, values)).rows
  } finally {
    await client.end()
  }
}
