/**
 * `npm run users -- export APPID OPENID`: prints all that is held about one user, as JSON. Reads the environment as
 * the worker does. The embedded database is open to one process only: stop the worker first.
 */
import { ConfigError, loadWorkerConfig, readEnvironment } from '../../src/config.ts'
import type { WorkerConfig } from '../../src/config.ts'
import { GatewayError } from '../../src/errors.ts'
import { connectFailFast, disconnect, waitUntilReady } from '../../src/redis/connections.ts'
import { createKeys } from '../../src/redis/keys.ts'
import { DataDirInUse } from '../data-dir-lock.ts'
import { describeDatabaseError } from '../database-errors.ts'
import { openDatabase } from '../database.ts'
import { collectHeldData } from './held-data.ts'

const USAGE = `usage: npm run -s users -- export APPID OPENID

  prints everything that is held about this user as JSON: personal data, but no secret
`
/** Nobody waits for an answer here; a busy Redis may take its time. */
const COMMAND_TIMEOUT_MS = 10_000
const FIRST_CONTACT_MS = 5_000
const CLOSE_MS = 1_000

process.exitCode = await run(process.argv.slice(2))

async function run([command, appid, openid, ...others]: string[]): Promise<number> {
  if (command !== 'export' || !appid || !openid || others.length > 0) {
    console.error(USAGE)
    return 2
  }
  try {
    const held = await collect(loadWorkerConfig(readEnvironment()), { appid, openid })
    console.log(JSON.stringify(held, undefined, 2))
    return 0
  } catch (error) {
    if (error instanceof ConfigError || error instanceof DataDirInUse) console.error(error.message)
    else if (error instanceof GatewayError) console.error('Redis does not answer.')
    else console.error('The database cannot be read:', JSON.stringify(describeDatabaseError(error)))
    return 1
  }
}

async function collect(config: WorkerConfig, asked: { appid: string; openid: string }) {
  const redis = connectFailFast({ ...config.redis, commandTimeoutMs: COMMAND_TIMEOUT_MS })
  const database =
    config.provisionModule === undefined
      ? await openDatabase({
          url: config.databaseUrl?.reveal(),
          dataDir: config.dataDir,
          onConnectionError: () => {},
        })
      : undefined
  try {
    await waitUntilReady(redis, FIRST_CONTACT_MS)
    const keys = createKeys(config.redis.keyPrefix)
    return await collectHeldData({ redis, keys, db: database?.db }, asked)
  } finally {
    await Promise.all([disconnect(redis, CLOSE_MS), database?.close()])
  }
}
