/** A Redis master with a replica and a sentinel that watches them: real processes, the master of which may die. */
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import { onTestFinished } from 'vitest'
import { freePort, LOOPBACK } from '../../deploy/local/ports.ts'
import { startRedis } from '../../deploy/local/redis-server.ts'
import { findLaunch } from '../../deploy/local/redis-ways.ts'
import { until } from './until.ts'

const MASTER_NAME = 'mymaster'
/** One sentinel decides alone, and soon: this is about what survives, not about how long it takes. */
const DOWN_AFTER_MS = 500
const REPLICATION_TIMEOUT_MS = 5_000

/** All of it ends with the test. */
export async function startSentinel() {
  const ours = { persistent: false, allowDocker: false } as const
  const master = await startRedis(ours)
  const replica = await startRedis({ ...ours, extraArgs: ['--replicaof', LOOPBACK, String(master.port)] })
  const port = await startSentinelProcess(master.port)
  const onMaster = new Redis(master.url)
  const onSentinel = new Redis({ host: LOOPBACK, port })
  onTestFinished(async () => {
    onMaster.disconnect()
    onSentinel.disconnect()
    await Promise.all([master.stop(), replica.stop()])
  })
  onMaster.on('error', () => {}) // it is going to die
  onSentinel.on('error', () => {}) // it is not up yet
  await until('the replica to follow', async () => /state=online/.test(await onMaster.info('replication')))
  await until('the sentinel to know the replica', async () => {
    const replicas = await onSentinel.call('SENTINEL', 'replicas', MASTER_NAME)
    return Array.isArray(replicas) && replicas.length === 1
  })

  return {
    /** For a gateway. */
    env: {
      REDIS_URL: '',
      REDIS_SENTINELS: `${LOOPBACK}:${port}`,
      REDIS_SENTINEL_NAME: MASTER_NAME,
    },
    /** Resolves when the replica has everything that was written so far. */
    async replicated(): Promise<void> {
      // WAIT counts for what its own connection wrote; replication keeps the order of all.
      await onMaster.set('last-write-before-failover', '1', 'EX', 60)
      if ((await onMaster.wait(1, REPLICATION_TIMEOUT_MS)) !== 1) throw new Error('the replica lags')
    },
    /** Kills the master without a goodbye, and waits until the replica has taken its place. */
    async failOver(): Promise<void> {
      onMaster.disconnect()
      master.kill()
      await until('the replica to be promoted', async () => {
        const address = await onSentinel.call('SENTINEL', 'get-master-addr-by-name', MASTER_NAME)
        return Array.isArray(address) && Number(address[1]) === replica.port
      })
    },
  }
}

async function startSentinelProcess(masterPort: number): Promise<number> {
  const port = await freePort()
  const folder = mkdtempSync(join(tmpdir(), 'sentinel-'))
  const file = join(folder, 'sentinel.conf')
  writeFileSync(
    file,
    [
      `port ${port}`,
      `bind ${LOOPBACK}`,
      `dir ${folder}`,
      `sentinel monitor ${MASTER_NAME} ${LOOPBACK} ${masterPort} 1`,
      `sentinel down-after-milliseconds ${MASTER_NAME} ${DOWN_AFTER_MS}`,
      `sentinel failover-timeout ${MASTER_NAME} 3000`,
    ].join('\n'),
  )
  const options = {
    port,
    folder,
    persistent: false,
    extraArgs: [],
    cacheDir: undefined,
    say: () => {},
    signal: undefined,
  }
  const { command, env } = await findLaunch('path', options).catch(() => findLaunch('debian', options))
  const child = spawn(command[0], [file, '--sentinel'], { env: env ?? process.env, stdio: 'ignore' })
  onTestFinished(() => {
    child.kill('SIGKILL')
    rmSync(folder, { recursive: true, force: true })
  })
  return port
}
