/**
 * The gateway process: reads the environment, listens on two ports, goes away gracefully.
 *
 *   --check-config   validates the configuration and exits
 */
import closeWithGrace from 'close-with-grace'
import { ConfigError, loadGatewayConfig, readEnvironment } from './config.ts'
import type { GatewayConfig } from './config.ts'
import { createGateway } from './gateway.ts'
import type { Gateway } from './gateway.ts'
import { createLog } from './log.ts'
import type { Log } from './log.ts'

/** After this a shutdown is given up and the process ends anyway. */
const SHUTDOWN_MS_MAX = 25_000
const START_RETRY_MS = 500
/** Taken, or kept for the administrator. Other faults of listening are the host's. */
const PORT_FAULTS: ReadonlySet<string> = new Set(['EADDRINUSE', 'EACCES'])

const config = readConfig()
if (process.argv.includes('--check-config')) {
  console.log('The configuration is valid.')
  process.exit(0)
}
const log = createLog(config.logLevel, 'gateway')
const gateway = createGateway(config, log)

// Registered before listening, so that a signal during the start is obeyed too.
closeWithGrace({ delay: config.drainDelayMs + SHUTDOWN_MS_MAX, logger: false }, async ({ err, signal }) => {
  if (err) log.fatal({ err }, 'the gateway failed')
  else log.info({ signal, drainDelayMs: config.drainDelayMs }, 'draining')
  gateway.drain()
  if (!err) await new Promise((resolve) => setTimeout(resolve, config.drainDelayMs))
  await gateway.close()
  log.info('closed')
})

const adminUrl = await listen(gateway.admin, {
  host: config.adminHost,
  port: config.adminPort,
  prefix: 'ADMIN_',
})
const url = await listen(gateway.app, { host: config.host, port: config.port, prefix: '' })
await startWhenPossible(gateway, log)
log.info({ url, adminUrl, apps: config.apps.length }, 'gateway ready')

function readConfig(): GatewayConfig {
  try {
    return loadGatewayConfig(readEnvironment())
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    console.error(error.message)
    process.exit(1)
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
    const { code } = error as NodeJS.ErrnoException
    if (code === undefined) throw error
    const remedy = PORT_FAULTS.has(code)
      ? `Set ${prefix}PORT to a free port that this user may take.`
      : `Set ${prefix}HOST to an address of this machine.`
    console.error(`Cannot listen on ${host}:${port} (${code}). ${remedy}`)
    process.exit(1)
  }
}

/** Redis may come up after us. Until it does, /readyz says so and logins get 503. */
async function startWhenPossible(gateway: Gateway, log: Log): Promise<void> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      await gateway.start()
      return
    } catch (error) {
      log.warn({ attempt, err: error }, 'waiting for Redis')
      await new Promise((resolve) => setTimeout(resolve, START_RETRY_MS))
    }
  }
}
