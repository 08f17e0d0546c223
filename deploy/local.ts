/**
 * `npm start`: the whole system on this machine with one command.
 *
 *   data folder → lock → ports → secrets → Redis and the simulator → worker and gateway → ready
 *
 * Whatever the environment does not give is started here: Redis, an embedded Postgres, a simulated WeChat,
 * secrets for development. The gateway and the worker run as processes of their own, as in production.
 * Everything that is started ends with this process, in order, however it ends.
 */
import { existsSync } from 'node:fs'
import { enableCompileCache } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { readEnvironment } from '../src/config.ts'
import type { Environment } from '../src/config.ts'
import { banner, shortPath } from './local/banner.ts'
import { prepareDataDir } from './local/data-dir.ts'
import { gatewayEnvironment, SIMULATED_APPID, workerEnvironment } from './local/environment.ts'
import { watchLauncher } from './local/launcher.ts'
import { takeLock } from './local/lock.ts'
import type { Lock } from './local/lock.ts'
import { given, planRun } from './local/plan.ts'
import type { Plan } from './local/plan.ts'
import { addresses, choosePorts } from './local/ports.ts'
import { endProcesses, startProcess, untilHealthy } from './local/processes.ts'
import { isAlive } from './local/process-id.ts'
import { startRedis } from './local/redis-server.ts'
import { explainWriteFailure, StartRefused } from './local/refusal.ts'
import { loadDevelopmentSecrets } from './local/secrets.ts'
import { bringSimulator } from './local/simulator.ts'
import { createSupervisor } from './local/supervisor.ts'
import { createTerminal } from './local/terminal.ts'

const repository = dirname(dirname(fileURLToPath(import.meta.url)))
const READY_MS = 20_000
/** Making a database takes 4 s on a fast machine and much longer on a slow one. */
const READY_MS_EMBEDDED = 90_000

const supervisor = createSupervisor({
  onDeath: (name, how) => terminal.sayDeath(name, how),
  onRequest: () => terminal.say('Ending …'),
})
// Redis warns of its surroundings at every start, before it is handed over; parts that end may complain.
const terminal = createTerminal((name) => supervisor.signal.aborted || !supervisor.has(name))
watchLauncher(() => supervisor.end(0))
// Somebody who pipes the output into `head` has seen enough; that is no reason to stop.
process.stdout.on('error', () => {})

try {
  await startAll(readEnvironment())
} catch (error) {
  // Once the end has begun, whatever still fails does so because of that.
  if (!supervisor.signal.aborted) console.error(error instanceof StartRefused ? error.message : error)
  supervisor.end(1)
}
process.exit(await supervisor.over)

async function startAll(env: Environment): Promise<void> {
  const plan = planRun(env, repository)
  try {
    await startPlanned(plan, env)
  } catch (error) {
    throw explainWriteFailure(error, plan.dataDir.path) ?? error
  }
}

async function startPlanned(plan: Plan, env: Environment): Promise<void> {
  const { dataDir } = plan
  prepareDataDir(dataDir)
  enableCompileCache(dataDir.compileCache)
  const lock = takeLock(dataDir.lockFile, shortPath(dataDir.path))
  supervisor.add({ name: 'lock', stop: lock.release, kill: lock.release })
  if (lock.leftBehind.some(isAlive)) terminal.say('Waiting for what the last run left behind to end …')
  await endProcesses(lock.leftBehind)

  const ports = await choosePorts(plan.ports)
  const urls = addresses(plan.ports, ports)
  lock.listensOn(urls.gateway)
  const secrets = loadDevelopmentSecrets(dataDir.secretsFile)
  const simulatedApp = { appid: SIMULATED_APPID, secret: secrets.SIMULATED_WECHAT_SECRET }

  const [redis] = await Promise.all([
    bringRedis(plan),
    plan.wechat.kind === 'simulated' && bringSimulator(simulatedApp, ports).then(supervisor.add),
  ])
  const surroundings = { plan, ports, urls, redisUrl: redis.url }
  const workerEnv = workerEnvironment(env, surroundings)
  const gatewayEnv = gatewayEnvironment(env, surroundings, secrets)
  if (plan.database.kind === 'embedded' && !existsSync(join(dataDir.path, 'pglite'))) {
    terminal.say('Making the database (once, some seconds) …')
  }
  const worker = bringProcess('worker', {
    entry: 'workers/main.ts',
    env: workerEnv,
    healthUrls: [`${urls.worker}/readyz`],
    readyMs: plan.database.kind === 'embedded' ? READY_MS_EMBEDDED : READY_MS,
    logFolder: dataDir.logs,
    lock,
  })
  const gateway = bringProcess('gateway', {
    entry: 'src/main.ts',
    env: gatewayEnv,
    healthUrls: [`${urls.gateway}/readyz`, `${urls.admin}/readyz`],
    readyMs: READY_MS,
    logFolder: dataDir.logs,
    lock,
  })
  await Promise.all([worker, gateway])
  terminal.say(
    banner({ plan, urls, redis: redis.how, adminTokenGiven: given(env, 'ADMIN_TOKEN') !== undefined }),
  )
  terminal.say(`Ready in ${(performance.now() / 1000).toFixed(1)} s. Ctrl-C ends everything.`)
}

/** Ours, or the one that the environment names; Sentinel and Cluster are left to the gateway's own client. */
async function bringRedis({ redis, dataDir }: Plan): Promise<{ url: string | undefined; how: string }> {
  if (redis.kind === 'sentinel') return { url: undefined, how: 'yours, by way of REDIS_SENTINELS' }
  if (redis.kind === 'cluster') return { url: undefined, how: 'yours, the cluster in REDIS_CLUSTER' }
  const server = await startRedis({
    url: redis.url,
    persistent: true,
    dataDir: dataDir.path,
    say: terminal.say,
    onLog: redis.kind === 'own' ? terminal.logOf('redis', dataDir.logs) : undefined,
    signal: supervisor.signal,
  })
  supervisor.add({ name: 'redis', ...server })
  return server
}

interface ProcessPlan {
  readonly entry: string
  readonly env: NodeJS.ProcessEnv
  readonly healthUrls: readonly string[]
  readonly readyMs: number
  readonly logFolder: string
  readonly lock: Lock
}

/** Starts a process and waits until it answers. Its death, also meanwhile, ends the run. */
async function bringProcess(
  name: 'gateway' | 'worker',
  { entry, env, healthUrls, readyMs, logFolder, lock }: ProcessPlan,
) {
  const child = startProcess(join(repository, entry), { env, onLine: terminal.logOf(name, logFolder) })
  supervisor.add({ name, ...child })
  lock.addChild(child.pid)
  await untilHealthy(healthUrls, {
    timeoutMs: readyMs,
    signal: supervisor.signal,
    refusal: `The ${name} was not ready within ${readyMs / 1000} s; ${shortPath(logFolder)}/${name}.log has the reason.`,
  })
}
