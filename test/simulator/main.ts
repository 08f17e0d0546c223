/**
 * The simulator as a process: `npm run simulator`, or a container beside the system under test.
 *
 * Configured by flags or environment, the flag first. It prints where it listens and a curl line that
 * issues a code, and ends on SIGINT and SIGTERM.
 */
import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import type { AppInput } from './apps.ts'
import type { Simulator, SimulatorOptions } from './server.ts'
import { InputError } from './fields.ts'
import { DEFAULT_APP } from './platform.ts'
import { startSimulator } from './server.ts'

const USAGE = `The WeChat simulator. For tests only.

  npm run simulator -- [flags]          each flag is also an environment variable

  --port 3080                 PORT               where WeChat listens
  --host 127.0.0.1            HOST
  --control-port 3081         CONTROL_PORT       where tests steer it
  --control-host 127.0.0.1    CONTROL_HOST
  --control-remote            CONTROL_REMOTE=1   serve control calls from other machines too
  --appid, --secret           WECHAT_APPID, WECHAT_SECRET
  --apps-file FILE            WECHAT_APPS_FILE   JSON list of {appid, secret, kind?, …}, for several apps
  --seed TEXT                 SEED               the same seed gives the same codes and faults
  --key-refresh-seconds 60    KEY_REFRESH_SECONDS
  --push-timeout-ms 5000      PUSH_TIMEOUT_MS    how long a push waits for its answer, and for the next attempt
  --tls-key, --tls-cert FILE  TLS_KEY_FILE, TLS_CERT_FILE   serve https
`

const FLAGS = {
  port: 'PORT',
  host: 'HOST',
  'control-port': 'CONTROL_PORT',
  'control-host': 'CONTROL_HOST',
  appid: 'WECHAT_APPID',
  secret: 'WECHAT_SECRET',
  'apps-file': 'WECHAT_APPS_FILE',
  seed: 'SEED',
  'key-refresh-seconds': 'KEY_REFRESH_SECONDS',
  'push-timeout-ms': 'PUSH_TIMEOUT_MS',
  'tls-key': 'TLS_KEY_FILE',
  'tls-cert': 'TLS_CERT_FILE',
} as const

/** The exit code for a wrong flag or value, as shells have it. */
const EXIT_USAGE = 2

try {
  const options = readOptions(process.argv.slice(2), process.env)
  const simulator = await startSimulator(options)
  announce(simulator, options.apps ?? [])
  // A second signal finds no listener and ends the process at once.
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => void simulator.close())
} catch (error) {
  if (!(error instanceof Error)) throw error
  process.stderr.write(`simulator: ${explain(error)}\n`)
  // parseArgs throws its own kind for an unknown flag.
  process.exitCode = error instanceof InputError || error instanceof TypeError ? EXIT_USAGE : 1
}

function readOptions(args: string[], env: NodeJS.ProcessEnv): SimulatorOptions {
  const options = Object.fromEntries(Object.keys(FLAGS).map((name) => [name, { type: 'string' as const }]))
  const values: Record<string, string | boolean | undefined> = parseArgs({
    args,
    options: { ...options, 'control-remote': { type: 'boolean' }, help: { type: 'boolean' } },
  }).values
  if (values['help']) {
    process.stdout.write(USAGE)
    process.exit(0)
  }
  const setting = (name: keyof typeof FLAGS): string | undefined => {
    const value = values[name]
    return typeof value === 'string' ? value : env[FLAGS[name]] || undefined
  }
  const whole = (name: keyof typeof FLAGS, fallback: number, max: number): number => {
    const value = setting(name)
    if (value === undefined) return fallback
    if (/^\d+$/.test(value) && Number(value) <= max) return Number(value)
    throw new InputError(`${FLAGS[name]} must be a whole number from 0 to ${max}`)
  }

  const [tlsKey, tlsCert] = [setting('tls-key'), setting('tls-cert')]
  if ((tlsKey === undefined) !== (tlsCert === undefined)) {
    throw new InputError('TLS_KEY_FILE and TLS_CERT_FILE belong together')
  }
  const seed = setting('seed')
  return {
    port: whole('port', 3080, 65_535),
    host: setting('host') ?? '127.0.0.1',
    controlPort: whole('control-port', 3081, 65_535),
    controlHost: setting('control-host') ?? '127.0.0.1',
    controlRemote: values['control-remote'] === true || env['CONTROL_REMOTE'] === '1',
    apps: readApps(setting),
    keyRefreshSeconds: whole('key-refresh-seconds', 60, 86_400),
    pushTimeoutMs: whole('push-timeout-ms', 5_000, 60_000),
    ...(seed !== undefined && { seed }),
    ...(tlsKey !== undefined &&
      tlsCert !== undefined && {
        tls: { key: readFileSync(tlsKey, 'utf8'), cert: readFileSync(tlsCert, 'utf8') },
      }),
  }
}

function readApps(setting: (name: 'apps-file' | 'appid' | 'secret') => string | undefined): AppInput[] {
  const file = setting('apps-file')
  if (file !== undefined) {
    const list: unknown = JSON.parse(readFileSync(file, 'utf8'))
    if (!Array.isArray(list) || list.length === 0)
      throw new InputError(`${file} must hold a JSON list of apps`)
    // The gateway's own file may say more of an app; only these concern its platform.
    return list.map((app: Partial<AppInput> & { component_appid?: string }) => ({
      appid: app.appid ?? '',
      ...(app.kind !== undefined && { kind: app.kind }),
      ...(app.secret !== undefined && { secret: app.secret }),
      ...(app.secrets !== undefined && { secrets: app.secrets }),
      ...(app.corpid !== undefined && { corpid: app.corpid }),
      ...(app.component_appid !== undefined && { componentAppid: app.component_appid }),
    }))
  }
  const [appid, secret] = [setting('appid'), setting('secret')]
  if (appid === undefined && secret === undefined) return [DEFAULT_APP]
  if (appid === undefined || secret === undefined) {
    throw new InputError('WECHAT_APPID and WECHAT_SECRET belong together')
  }
  return [{ appid, secret }]
}

function announce({ url, controlUrl, stats }: Simulator, apps: AppInput[]): void {
  const isDefault = apps[0]?.appid === DEFAULT_APP.appid
  const lines = [
    'The WeChat simulator is up. For tests only.',
    '',
    `  WeChat    ${url}            (WECHAT_API_URLS=${url})`,
    `  control   ${controlUrl}     (open it for the list of calls)`,
    ...apps.map(({ appid }) => `  app       ${appid}${isDefault ? `   secret ${DEFAULT_APP.secret}` : ''}`),
    `  seed      ${stats().seed}   (SEED=… repeats its codes, keys and faults)`,
    '',
    'A code, as wx.login() would give it:',
    '',
    `  curl -s -X POST ${controlUrl}/codes`,
    '',
  ]
  process.stdout.write(`${lines.join('\n')}\n`)
}

function explain(error: Error & { code?: string; port?: number; address?: string }): string {
  if (error.code === 'EADDRINUSE') {
    return `port ${error.port} of ${error.address} is taken; choose another with PORT or CONTROL_PORT.`
  }
  if (error.code === 'EACCES' && error.port !== undefined) {
    return `port ${error.port} may not be used by this account; choose one above 1023.`
  }
  return error.message
}
