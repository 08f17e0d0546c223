/** Redis and Postgres as containers, by testcontainers, where a Docker engine answers. */
import { execFile } from 'node:child_process'
import { setTimeout as delay } from 'node:timers/promises'
import { promisify } from 'node:util'
import type { GenericContainer, StartedTestContainer } from 'testcontainers'

const ENGINE_TIMEOUT_MS = 3_000
const START_TIMEOUT_MS = 30_000
/** With the image still to be pulled. An engine that has no way to a registry may take for ever to say so. */
const PULL_AND_START_TIMEOUT_MS = 120_000
const REDIS_IMAGE = process.env['TEST_REDIS_IMAGE'] ?? 'redis:7-alpine'
const POSTGRES_IMAGE = process.env['TEST_POSTGRES_IMAGE'] ?? 'postgres:17-alpine'

/** The engine's version; undefined when none answers. A client without an engine counts as none. */
export async function findEngine(): Promise<string | undefined> {
  try {
    const { stdout } = await promisify(execFile)('docker', ['info', '--format', '{{.ServerVersion}}'], {
      timeout: ENGINE_TIMEOUT_MS,
    })
    return stdout.trim() || undefined
  } catch {
    return undefined // no client, no engine, or one that does not answer: all the same to us
  }
}

export async function startRedisContainer() {
  const { GenericContainer, Wait } = await testcontainers()
  const container = await startInTime(
    new GenericContainer(REDIS_IMAGE)
      .withCommand(['redis-server', '--save', ''])
      .withExposedPorts(6379)
      .withWaitStrategy(Wait.forLogMessage(/Ready to accept connections/))
      .withStartupTimeout(START_TIMEOUT_MS),
  )
  const url = `redis://${container.getHost()}:${container.getMappedPort(6379)}`
  return { url, how: `container of ${REDIS_IMAGE}`, stop: async () => void (await container.stop()) }
}

export async function startPostgresContainer() {
  const { GenericContainer, Wait } = await testcontainers()
  const password = 'only-for-tests'
  const container = await startInTime(
    new GenericContainer(POSTGRES_IMAGE)
      .withEnvironment({ POSTGRES_PASSWORD: password })
      // As a local one is started (postgres-server.ts).
      .withCommand(['postgres', '-c', 'fsync=off', '-c', 'max_connections=200'])
      .withExposedPorts(5432)
      // The image's start-up starts the server twice; the second time it stays.
      .withWaitStrategy(Wait.forLogMessage(/database system is ready to accept connections/, 2))
      .withStartupTimeout(START_TIMEOUT_MS),
  )
  const url = `postgres://postgres:${password}@${container.getHost()}:${container.getMappedPort(5432)}/postgres`
  return { url, how: `container of ${POSTGRES_IMAGE}`, stop: async () => void (await container.stop()) }
}

/** Rejects when it takes too long; what starts all the same after that is stopped. */
async function startInTime(container: GenericContainer): Promise<StartedTestContainer> {
  const starting = container.start()
  const late = new AbortController()
  const tooLong = delay(PULL_AND_START_TIMEOUT_MS, undefined, { signal: late.signal }).then(() => {
    void starting.then(
      (started) => started.stop(),
      () => {}, // it came to nothing by itself
    )
    throw new Error(`the engine has not started it within ${PULL_AND_START_TIMEOUT_MS / 1000} s`)
  })
  return Promise.race([starting, tooLong]).finally(() => late.abort())
}

/** Loaded only when needed: it takes half a second. */
async function testcontainers() {
  // Its reaper is one more image to pull; the run stops its containers itself.
  process.env['TESTCONTAINERS_RYUK_DISABLED'] ??= 'true'
  return import('testcontainers')
}
