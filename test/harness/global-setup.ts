/**
 * One Redis and one Postgres for the whole run, real ones: given by the environment, else containers when a
 * Docker engine answers, else programs of this machine. Says which way it took. Tests keep apart by key
 * prefix and by database; those that break a store start one of their own.
 *
 *   TEST_REDIS_URL, TEST_DATABASE_URL   use these
 *   TEST_STORES=container | local       demand one way, and fail when it cannot be had
 */
import type { TestProject } from 'vitest/node'
import { startRedis } from '../../deploy/local/redis-server.ts'
import { findEngine, startPostgresContainer, startRedisContainer } from './containers.ts'
import { startPostgres } from './postgres-server.ts'

declare module 'vitest' {
  interface ProvidedContext {
    redisUrl: string
    /** Empty when no Postgres could be had; then the embedded database is what is tested. */
    postgresUrl: string
  }
}

interface Store {
  url: string
  how: string
  stop(): Promise<void>
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const demand = process.env['TEST_STORES']
  const engine = demand === 'local' ? undefined : await findEngine()
  if (demand === 'container' && engine === undefined) {
    throw new Error('TEST_STORES=container, but no Docker engine answers')
  }
  const [redis, postgres] = await Promise.all([
    findRedis(engine !== undefined, demand),
    findPostgres(engine !== undefined, demand),
  ])
  project.provide('redisUrl', redis.url)
  project.provide('postgresUrl', postgres?.url ?? '')
  console.log(
    `Redis: ${redis.how}\nPostgres: ${postgres?.how ?? 'none to be had; only the embedded database is tested'}`,
  )
  return async () => {
    await Promise.all([redis.stop(), postgres?.stop()])
  }
}

async function findRedis(engine: boolean, demand: string | undefined): Promise<Store> {
  const url = process.env['TEST_REDIS_URL']
  if (engine && url === undefined) {
    const container = await containerOr(demand, startRedisContainer)
    if (container) return container
  }
  return startRedis({ url, persistent: false, allowDocker: false })
}

async function findPostgres(engine: boolean, demand: string | undefined): Promise<Store | undefined> {
  const url = process.env['TEST_DATABASE_URL']
  if (url !== undefined) return { url, how: 'TEST_DATABASE_URL', stop: async () => {} }
  if (engine) {
    const container = await containerOr(demand, startPostgresContainer)
    if (container) return container
  }
  return startPostgres()
}

/** An engine may answer and yet have no image and no way to pull one. */
async function containerOr(
  demand: string | undefined,
  start: () => Promise<Store>,
): Promise<Store | undefined> {
  try {
    return await start()
  } catch (error) {
    if (demand === 'container') throw error
    console.log(
      `No container: ${error instanceof Error ? error.message.split('\n')[0] : 'unknown'}. Taking a local one.`,
    )
    return undefined
  }
}
