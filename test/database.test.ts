/**
 * The worker's database: who may open the embedded one, what the errors of a real Postgres mean for a job,
 * and that old and new releases start on the same tables.
 */
import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import type { Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { sql } from 'kysely'
import { afterEach, beforeEach, describe, expect, inject, onTestFinished, test } from 'vitest'
import { describeDatabaseError, isConflict, isTransient, Superseded } from '../workers/database-errors.ts'
import { openDatabase } from '../workers/database.ts'
import type { Database } from '../workers/database.ts'
import { lockDataDir } from '../workers/data-dir-lock.ts'
import { createUsers } from '../workers/users.ts'
import { createPostgresDatabase } from './postgres-database.ts'

const postgresUrl = inject('postgresUrl')

describe('the folder of the embedded database', () => {
  let dataDir = ''
  beforeEach(async () => {
    dataDir = await mkdtemp(join(tmpdir(), 'data-dir-'))
  })
  afterEach(() => rm(dataDir, { recursive: true }))

  test('is refused to a second process, in words that name the owner and the folder', async () => {
    const owner = await lockInAnotherProcess(dataDir)
    const refusal = lockDataDir(dataDir)

    await expect(refusal).rejects.toThrow(`process ${owner.pid}`)
    await expect(refusal).rejects.toThrow(dataDir)
  })

  test('is refused to this process too while it has it, and free again after', async () => {
    const lock = await lockDataDir(dataDir)
    await expect(lockDataDir(dataDir)).rejects.toThrow(`process ${process.pid}`)
    lock.release()
    lock.release()
    const again = await lockDataDir(dataDir)
    again.release()
  })

  // With a file that merely holds a process id somebody would have to judge whether that one still lives.
  test('is free the moment its owner is killed', async () => {
    const owner = await lockInAnotherProcess(dataDir)
    owner.kill('SIGKILL')
    await once(owner, 'exit')

    const taking = lockDataDir(dataDir)
    await expect(taking).resolves.toBeDefined()
    ;(await taking).release()
  })

  test('keeps the users over a restart', { timeout: 60_000 }, async () => {
    const seen = { appid: 'wx-database', openid: 'o-alice', seenAtMs: 1_000 }
    const userIds: string[] = []
    for (let start = 0; start < 2; start += 1) {
      const database = await openEmbedded(dataDir)
      await database.migrate()
      await database.check()
      await expect(openEmbedded(dataDir)).rejects.toThrow('in use')
      userIds.push((await createUsers(database.db).provisionUser(seen)).userId)
      await database.close()
    }
    expect(userIds[1]).toBe(userIds[0])
  })
})

describe('a database error', () => {
  test.each([
    ['40P01', 'deadlock'],
    ['40001', 'serialization failure'],
    ['53300', 'too many connections'],
    ['55P03', 'lock timeout'],
    ['57014', 'statement timeout'],
    ['57P01', 'shutting down'],
    ['57P03', 'starting up'],
    ['25006', 'read-only standby'],
    ['08006', 'connection failure'],
    ['28P01', 'password being rotated'],
  ])('%s (%s) passes by itself', (code) => {
    expect(isTransient(postgresError(code))).toBe(true)
  })

  test.each([
    ['23505', 'unique violation'],
    ['22021', 'text that cannot be stored'],
    ['42P01', 'no such table'],
  ])('%s (%s) does not', (code) => {
    expect(isTransient(postgresError(code))).toBe(false)
  })

  test('is told from a fault in the program', () => {
    expect(isTransient(new TypeError('undefined is not a function'))).toBe(false)
    expect(isTransient('a string')).toBe(false)
    // The driver gives its own errors no code.
    expect(isTransient(new Error('Connection terminated unexpectedly'))).toBe(true)
    // Five capitals, but the network's.
    expect(isTransient(Object.assign(new Error('write EPIPE'), { code: 'EPIPE', syscall: 'write' }))).toBe(
      true,
    )
  })

  test('is tried again at once only where another transaction came first', () => {
    expect([postgresError('40P01'), postgresError('40001'), new Superseded()].every(isConflict)).toBe(true)
    expect([postgresError('55P03'), postgresError('57P01'), new Error('gone')].some(isConflict)).toBe(false)
  })

  test('is described without the values it quotes', () => {
    const description = describeDatabaseError(
      Object.assign(postgresError('23505'), {
        detail: 'Key (openid)=(o-alice) already exists.',
        table: 'identities',
      }),
    )
    expect(description).toEqual({ error: 'Error', reason: '23505', table: 'identities' })
  })
})

describe.runIf(postgresUrl)('on Postgres', () => {
  test('a release starts on tables that a newer one has migrated', async () => {
    const { open } = await createEmptyDatabase()
    const database = await closing(open())
    await database.migrate()
    await sql`insert into kysely_migration (name, timestamp)
      values ('9999-of-a-newer-release', ${new Date().toISOString()})`.execute(database.db)

    await expect(database.migrate()).resolves.toBeUndefined()
  })

  // pg emits such a loss as an "error" event, which ends a process that does not listen.
  test('a connection lost inside a transaction is transient, and the next call works', async () => {
    const { open, query } = await createEmptyDatabase()
    const database = await closing(open())
    const cut = database.db.transaction().execute(async (tx) => {
      const { rows } = await sql<{ pid: number }>`select pg_backend_pid() as pid`.execute(tx)
      await query(`select pg_terminate_backend(${rows[0]?.pid})`)
      await sql`select 1`.execute(tx)
    })

    expect(isTransient(await rejection(cut))).toBe(true)
    await expect(database.check()).resolves.toBeUndefined()
  })

  test('a lock that is not given within 2 s is transient', async () => {
    const { open } = await createEmptyDatabase()
    const database = await closing(open())
    await database.migrate()
    const seen = { appid: 'wx-database', openid: 'o-alice', seenAtMs: 1_000 }
    const users = createUsers(database.db)
    await users.provisionUser(seen)

    await database.db.transaction().execute(async (holder) => {
      await sql`select from identities for update`.execute(holder)
      const error = await rejection(users.provisionUser({ ...seen, seenAtMs: 2_000 }))
      expect(error).toMatchObject({ code: '55P03' })
      expect(isTransient(error)).toBe(true)
    })
    await expect(users.provisionUser({ ...seen, seenAtMs: 2_000 })).resolves.toMatchObject({ created: false })
  })

  test('a role without free connections is transient', async () => {
    const { open, query, url, name } = await createEmptyDatabase()
    const role = `full_${name}`
    await query(`create role ${role} login password 'only-for-tests' connection limit 0`)
    onTestFinished(() => query(`drop role ${role}`))
    const full = new URL(url)
    full.username = role
    full.password = 'only-for-tests' // a server in a container asks for it
    const database = await closing(open(full.href))

    expect(await rejection(database.check())).toMatchObject({ code: '53300' })
    expect(isTransient(await rejection(database.check()))).toBe(true)
  })

  test('a pool that is all taken is not taken for a database that is away', async () => {
    const { open } = await createEmptyDatabase()
    const database = await closing(open())
    const released = Promise.withResolvers<void>()
    const held = Array.from({ length: 10 }, () => database.db.connection().execute(() => released.promise))
    await expect(database.check()).resolves.toBeUndefined()
    released.resolve()
    await Promise.all(held)
  })

  test('a server that takes no writes is not taken for a working one', async () => {
    const { open, query, name } = await createEmptyDatabase()
    await query(`alter database ${name} set default_transaction_read_only = on`)
    const database = await closing(open())

    expect(isTransient(await rejection(database.check()))).toBe(true)
    expect(await rejection(database.migrate())).toMatchObject({ code: '25006' })
  })
})

test('a server that is not there is transient, and known within the time', async () => {
  const database = await closing(openPostgres(await findClosedPort()))
  const error = await rejection(database.check())

  expect(error).toMatchObject({ code: 'ECONNREFUSED' })
  expect(isTransient(error)).toBe(true)
})

test('a server that accepts and says nothing is transient, and given up after 2 s', async () => {
  const silent = await listen()
  onTestFinished(() => void silent.close())
  const database = await closing(openPostgres(portOf(silent)))

  expect(isTransient(await rejection(database.check()))).toBe(true)
})

function postgresError(code: string): Error {
  return Object.assign(new Error('quoting "o-alice"'), { code, severity: 'ERROR' })
}

function openEmbedded(dataDir: string): Promise<Database> {
  return openDatabase({ url: undefined, dataDir, onConnectionError: () => {} })
}

function openPostgres(port: number): Promise<Database> {
  return openDatabase({
    url: `postgres://nobody@127.0.0.1:${port}/none`,
    dataDir: '',
    onConnectionError: () => {},
  })
}

async function createEmptyDatabase() {
  const created = await createPostgresDatabase(postgresUrl)
  onTestFinished(() => created.drop())
  return created
}

async function closing(opening: Promise<Database>): Promise<Database> {
  const database = await opening
  onTestFinished(() => database.close())
  return database
}

async function rejection(promise: Promise<unknown>): Promise<unknown> {
  try {
    await promise
  } catch (error) {
    return error
  }
  throw new Error('it was expected to be rejected')
}

async function findClosedPort(): Promise<number> {
  const server = await listen()
  const port = portOf(server)
  server.close()
  await once(server, 'close')
  return port
}

async function listen(): Promise<Server> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  return server
}

function portOf(server: Server): number {
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('the server does not listen')
  return address.port
}

/** Resolves when the other process has the lock. */
async function lockInAnotherProcess(dataDir: string): Promise<ChildProcess> {
  const module = new URL('../workers/data-dir-lock.ts', import.meta.url).href
  const program = `
    const { lockDataDir } = await import(${JSON.stringify(module)})
    await lockDataDir(${JSON.stringify(dataDir)})
    process.stdout.write('locked')
    setInterval(() => {}, 1_000)`
  const child = spawn(process.execPath, ['--input-type=module', '--eval', program], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  onTestFinished(() => void child.kill('SIGKILL'))
  await once(child.stdout, 'data')
  return child
}
