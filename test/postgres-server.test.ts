/** The Postgres that tests and benches start for themselves is gone when they are, however they end. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { dirname } from 'node:path'
import { Client } from 'pg'
import { expect, test, vi } from 'vitest'
import { findOwner, findPrograms } from './harness/postgres-server.ts'
import { until } from './harness/until.ts'

vi.setConfig({ testTimeout: 60_000 })

const STARTING = `
  const { startPostgres } = await import(${JSON.stringify(new URL('harness/postgres-server.ts', import.meta.url).href)})
  const { url, pid } = await startPostgres()
  console.log(JSON.stringify({ url, pid }))
  setInterval(() => {}, 1_000)`

const isHere = findPrograms() !== undefined && (await findOwner()) !== undefined

test.runIf(isHere)('Postgres ends, and its folder goes, when who started it is killed', async () => {
  const starter = spawn(process.execPath, ['--input-type=module', '--eval', STARTING])
  const [line] = (await once(starter.stdout.setEncoding('utf8'), 'data')) as [string]
  const { url, pid } = JSON.parse(line) as { url: string; pid: number }
  const client = new Client({ connectionString: url })
  await client.connect()
  const { rows } = await client.query<{ folder: string }>(`select setting as folder from pg_settings
    where name = 'data_directory'`)
  await client.end()
  const folder = dirname(rows[0]?.folder ?? '')
  expect([isAlive(pid), existsSync(folder)]).toEqual([true, true])

  starter.kill('SIGKILL')
  await until('Postgres to be gone', () => !isAlive(pid) && !existsSync(folder), 30_000)
})

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}
