/**
 * The life of a gateway process: reads the environment, listens on two ports, goes away gracefully.
 *
 * It goes away on SIGTERM or any other signal that asks, at every moment of its life:
 *
 *   1. /readyz says 503 and answers close their connections, while everything is still answered: for
 *      DRAIN_DELAY_MS, in which load balancers notice
 *   2. nothing new is accepted, what runs is finished; then all is closed, whether or not Redis answers
 *   3. exit 0, or 1 when that took longer than it ever should, or a second signal came
 *
 * A gateway that has not been ready yet skips the first.
 */
import { setTimeout as delay } from 'node:timers/promises'
import closeWithGrace from 'close-with-grace'
import { GATEWAY_CLOSE_MS_MAX } from './closing.ts'
import { ConfigError, loadGatewayConfig, readEnvironment } from './config.ts'
import type { GatewayConfig } from './config.ts'
import { createGateway } from './gateway.ts'
import type { Gateway } from './gateway.ts'
import { createLogOutput } from './log-output.ts'
import { createLog } from './log.ts'
import type { Log } from './log.ts'
import { traceFields } from './tracing/span.ts'
import { startTracing } from './tracing/start.ts'

const START_RETRY_MS = 500
/** Taken, or kept for the administrator. Other faults of listening are the host's. */
const PORT_FAULTS: ReadonlySet<string> = new Set(['EADDRINUSE', 'EACCES'])

const config = readConfig()
/** Loaded here, while signals are still seen to by main.ts. */
const tracing = config.tracing && (await startTracing(config.tracing, 'wechat-login-gateway'))

/** Sees to signals before it returns. Resolves when the gateway is ready, or has been told to end before. */
export async function runGateway(): Promise<void> {
  if (process.argv.includes('--check-config')) {
    console.log('The configuration is valid.')
    process.exit(0)
  }
  const output = createLogOutput()
  const log = createLog(config.logLevel, 'gateway', output, config.tracing && traceFields)
  const gateway = createGateway(config, log, output, tracing)
  const leaving = leaveWithGrace(gateway, log, config.drainDelayMs)
  try {
    await start(gateway, log, config, leaving)
  } catch (error) {
    // What was still being opened has met what is being closed; leaveWithGrace() ends the process.
    if (!leaving.aborted) throw error
  }
}

function readConfig(): GatewayConfig {
  try {
    return loadGatewayConfig(readEnvironment())
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    console.error(error.message)
    process.exit(1)
  }
}

/** From here on signals and faults are seen to. @returns a signal that is aborted as soon as one has come. */
function leaveWithGrace(gateway: Gateway, log: Log, drainDelayMs: number): AbortSignal {
  const leaving = new AbortController()
  const options = {
    delay: drainDelayMs + GATEWAY_CLOSE_MS_MAX,
    logger: false as const,
    onTimeout: () => log.error('could not close in time: what is left is cut off'),
    onSecondSignal: (signal: string) => log.warn({ signal }, 'second signal: what is left is cut off'),
    onSecondError: (err: unknown) => log.fatal({ err }, 'failed while closing'),
  }
  closeWithGrace(options, async ({ err, signal }) => {
    leaving.abort()
    const delayMs = err || !gateway.hasStarted() ? 0 : drainDelayMs
    if (err) log.fatal({ err }, 'the gateway failed')
    else log.info({ signal, delayMs }, 'draining')
    gateway.drain()
    await delay(delayMs)
    await gateway.close()
    log.info('closed')
  })
  return leaving.signal
}

async function start(gateway: Gateway, log: Log, config: GatewayConfig, leaving: AbortSignal): Promise<void> {
  const { adminHost, adminPort, host, port } = config
  const adminUrl = await listen(gateway.admin, { host: adminHost, port: adminPort, prefix: 'ADMIN_' })
  // Before the public port opens, for a load balancer without health checks sends clients as soon as it does. But
  // Redis may come up after us. Until it does, /readyz says so and logins get 503.
  let isReady = await startNow(gateway, log, leaving)
  const url = await listen(gateway.app, { host, port, prefix: '' })
  while (!isReady) {
    await delay(START_RETRY_MS, undefined, { signal: leaving })
    isReady = await startNow(gateway, log, leaving)
  }
  leaving.throwIfAborted()
  log.info({ url, adminUrl, apps: config.apps.length }, 'gateway ready')
}

async function startNow(gateway: Gateway, log: Log, leaving: AbortSignal): Promise<boolean> {
  try {
    await gateway.start()
    return true
  } catch (error) {
    leaving.throwIfAborted()
    log.warn({ err: error }, 'waiting for Redis')
    return false
  }
}

interface Address {
  host: string
  port: number
  /** Of the variables that say so: '' or ADMIN_. */
  prefix: string
}

async function listen(app: Gateway['app'], { host, port, prefix }: Address): Promise<string> {
  try {
    return await app.listen({ host, port })
  } catch (error) {
    const { code, syscall } = error as NodeJS.ErrnoException
    if (code === undefined || syscall === undefined) throw error
    const remedy = PORT_FAULTS.has(code)
      ? `Set ${prefix}PORT to a free port that this user may take.`
      : `Set ${prefix}HOST to an address of this machine.`
    console.error(`Cannot listen on ${host}:${port} (${code}). ${remedy}`)
    process.exit(1)
  }
}
