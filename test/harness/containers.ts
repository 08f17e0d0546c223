/** Redis and Postgres as containers, by testcontainers, where a Docker engine answers. */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'

const ENGINE_TIMEOUT_MS = 3_000
const START_TIMEOUT_MS = 30_000
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
  const container = await new GenericContainer(REDIS_IMAGE)
    .withCommand(['redis-server', '--save', ''])
    .withExposedPorts(6379)
    .withWaitStrategy(Wait.forLogMessage(/Ready to accept connections/))
    .withStartupTimeout(START_TIMEOUT_MS)
    .start()
  const url = `redis://${container.getHost()}:${container.getMappedPort(6379)}`
  return { url, how: `container of ${REDIS_IMAGE}`, stop: async () => void (await container.stop()) }
}

export async function startPostgresContainer() {
  const { GenericContainer, Wait } = await testcontainers()
  const password = 'only-for-tests'
  const container = await new GenericContainer(POSTGRES_IMAGE)
    .withEnvironment({ POSTGRES_PASSWORD: password })
    .withExposedPorts(5432)
    // The image's start-up starts the server twice; the second time it stays.
    .withWaitStrategy(Wait.forLogMessage(/database system is ready to accept connections/, 2))
    .withStartupTimeout(START_TIMEOUT_MS)
    .start()
  const url = `postgres://postgres:${password}@${container.getHost()}:${container.getMappedPort(5432)}/postgres`
  return { url, how: `container of ${POSTGRES_IMAGE}`, stop: async () => void (await container.stop()) }
}

/** Loaded only when needed: it takes half a second. */
async function testcontainers() {
  // Its reaper is one more image to pull; the run stops its containers itself.
  process.env['TESTCONTAINERS_RYUK_DISABLED'] ??= 'true'
  return import('testcontainers')
}
