/** Erasing users as an administrator does, and looking for what is left of them. */
import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Queue } from 'bullmq'
import { Client } from 'pg'
import { expect, inject, onTestFinished } from 'vitest'
import { createClient } from './client.ts'
import type { ReplyBody } from './client.ts'
import { dumpDatabase, dumpRedis } from './dumps.ts'
import { APPID } from './environment.ts'
import { metricIn } from './gateway.ts'
import type { Harness } from './gateway.ts'
import type { RunningProcess } from './processes.ts'
import { until } from './until.ts'
import { createPostgresDatabase } from '../postgres-database.ts'

export const DONE_WITHIN_MS = 30_000
const postgresUrl = inject('postgresUrl')

/** A database of its own for the test. */
export async function newDatabase() {
  if (postgresUrl === '') {
    const dataDir = mkdtempSync(join(tmpdir(), 'gateway-data-'))
    return { env: { DATA_DIR: dataDir }, location: { url: undefined, dataDir } }
  }
  const { url } = await createPostgresDatabase(postgresUrl)
  return { env: { DATABASE_URL: url }, location: { url, dataDir: '' } }
}

export const authorized = (harness: Harness) => ({
  authorization: `Bearer ${harness.env['ADMIN_TOKEN'] ?? ''}`,
})
export const ask = (harness: Harness, method: string, path: string) =>
  harness.admin.send(method, path, { headers: authorized(harness) })
export const erase = async (harness: Harness, openid: string, appid = APPID): Promise<ReplyBody> => {
  const reply = await ask(harness, 'DELETE', `/users/${appid}/${openid}`)
  expect(reply.status).toBe(202)
  expect(reply.headers['location']).toBe(`/erasures/${String(reply.body['receipt'])}`)
  return reply.body
}
export const receiptOf = async (harness: Harness, { receipt }: ReplyBody) =>
  (await ask(harness, 'GET', `/erasures/${String(receipt)}`)).body
export const done = (harness: Harness, erasure: ReplyBody) =>
  until(
    'the erasure to be done',
    async () => {
      const receipt = await receiptOf(harness, erasure)
      return receipt['state'] === 'done' && receipt
    },
    DONE_WITHIN_MS,
  )
export const provisioned = (harness: Harness, token: string) =>
  until(
    'the session to be provisioned',
    async () => {
      const { status, body } = await harness.get('/session', token)
      return status === 200 && body.provisioned && body
    },
    DONE_WITHIN_MS,
  )
export const provisionQueue = (harness: Harness) => {
  const queue = new Queue<unknown>('provision', {
    connection: harness.redis,
    prefix: harness.keys.queue('provision'),
  })
  onTestFinished(() => queue.close())
  return queue
}
export const outcomeOf = async (worker: RunningProcess, name: string, outcome: string) => {
  const client = createClient(worker.url)
  const { text } = await client.get('/metrics')
  await client.close()
  return metricIn(text, name, { outcome })
}

/** Where something of a user is still to be found. @param location undefined: while a worker holds the database */
export async function traces(
  harness: Harness,
  location: { url: string | undefined; dataDir: string } | undefined,
  what: readonly string[],
) {
  const places = {
    Redis: await dumpRedis(harness.redis, `${harness.env['KEY_PREFIX']}*`),
    database: location === undefined ? '' : await dumpDatabase(location),
  }
  return Object.entries(places).flatMap(([place, text]) =>
    what.filter((trace) => text.includes(trace)).map((trace) => `${trace} in ${place}`),
  )
}

/** As another worker's transaction about the same identity would, until it is committed. */
export async function holdIdentity(client: Client, openid: string): Promise<void> {
  await client.query('begin')
  await client.query('select pg_advisory_xact_lock($1::int, hashtext($2))', [
    0x77_78_69,
    JSON.stringify([APPID, openid]),
  ])
}
