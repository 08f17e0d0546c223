/** What tests of the worker look at: a database of their own, the queue, the worker's metrics. */
import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { inject, onTestFinished } from 'vitest'
import { createProvisioning } from '../../src/provisioning.ts'
import { createPostgresDatabase } from '../postgres-database.ts'
import { createClient } from './client.ts'
import { metricIn } from './gateway.ts'
import type { Harness } from './gateway.ts'
import type { RunningProcess } from './processes.ts'

/** A database of its own for the test, and a way to read it once the workers are gone. */
export async function newDatabase() {
  const serverUrl = inject('postgresUrl')
  if (serverUrl === '') {
    const dataDir = mkdtempSync(join(tmpdir(), 'gateway-data-'))
    return { env: { DATA_DIR: dataDir }, location: { url: undefined, dataDir } }
  }
  const { url } = await createPostgresDatabase(serverUrl)
  return { env: { DATABASE_URL: url }, location: { url, dataDir: '' } }
}

export async function queuedJobs(harness: Harness): Promise<number> {
  const counts = await queueOf(harness).counts()
  return (counts['waiting'] ?? 0) + (counts['active'] ?? 0) + (counts['delayed'] ?? 0)
}

/** A view of the queue over the test's own connection. */
const queues = new WeakMap<Harness, ReturnType<typeof createProvisioning>>()
export function queueOf(harness: Harness) {
  const queue = queues.get(harness) ?? createProvisioning(harness.redis, harness.keys, () => {})
  if (!queues.has(harness)) {
    queues.set(harness, queue)
    onTestFinished(() => queue.close())
  }
  return queue
}

export async function workerMetric(
  worker: RunningProcess,
  name: string,
  labels: Record<string, string> = {},
) {
  const client = createClient(worker.url)
  const { text } = await client.get('/metrics')
  await client.close()
  return metricIn(text, name, labels)
}
