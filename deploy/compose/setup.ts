/**
 * The first container of docker-compose.yml: makes the secrets that are missing, once, and gives each service its own as
 * files that only its user can read.
 *
 *   /secrets/NAME        given by the operator; goes before what is made here.
 *   /run/kept/NAME       made here, and kept for the next start
 *   /run/setup/SERVICE   what the service reads, written anew at each start
 *
 * Without a Mini Program it looks for the service "demo", which is there with --profile demo: then WeChat is the simulator.
 */
import { createHash, randomBytes } from 'node:crypto'
import { lookup } from 'node:dns/promises'
import { chmodSync, chownSync, existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { rootCertificates } from 'node:tls'
import { setTimeout as delay } from 'node:timers/promises'
import { makeCertificate } from './certificate.ts'

/** As whom each service reads: the users of the images, as docker-compose.yml names them. */
const READERS = { gateway: 65_532, worker: 65_532, simulator: 65_532, redis: 999, postgres: 70, grafana: 472 }
const DEMO_APPID = 'wxdec0de0000000001'
const DEMO_WAIT_MS = 10_000
const WECHAT_API_URLS = 'https://api.weixin.qq.com,https://api2.weixin.qq.com'
const SIMULATOR_HOST = 'simulator'
const SIMULATOR_PORT = 3080

const NO_APP = `
No Mini Program is configured, so nothing was started. Put its appid and AppSecret into files beside docker-compose.yml:

  mkdir -p secrets
  printf %s wx0123456789abcdef                > secrets/wechat-appid
  printf %s 0123456789abcdef0123456789abcdef  > secrets/wechat-secret

or several as secrets/wechat-apps.json (a list, as in WECHAT_APPS_FILE). To try the system with a simulated WeChat instead:

  docker compose --profile demo up
`

const apps = readApps()
if (apps !== undefined) {
  writeAll({ apps, apiUrls: given('wechat-api-urls') ?? WECHAT_API_URLS, authority: given('wechat-ca.pem') })
  console.log('The secrets are in place.')
} else if (await isDemo()) {
  const secret = kept('demo-secret', () => randomBytes(16).toString('hex'))
  const { key, certificate } = makeCertificate(SIMULATOR_HOST)
  const demoApps = JSON.stringify([{ appid: DEMO_APPID, secret }])
  give('simulator', { 'wechat-apps.json': demoApps, 'tls-key.pem': key, 'tls-cert.pem': certificate })
  writeAll({ apps: demoApps, apiUrls: `https://${SIMULATOR_HOST}:${SIMULATOR_PORT}`, authority: certificate })
  console.log('The secrets are in place. No Mini Program is configured: WeChat is simulated.')
} else {
  console.error(NO_APP)
  process.exitCode = 1
}

/** The list of apps as JSON text; undefined when none is given. */
function readApps(): string | undefined {
  const list = given('wechat-apps.json')
  if (list !== undefined) return list
  const [appid, secret] = [given('wechat-appid'), given('wechat-secret')]
  if (appid === undefined && secret === undefined) return undefined
  if (appid === undefined || secret === undefined)
    throw new Error(
      'secrets/wechat-appid and secrets/wechat-secret belong together; one of them is missing or empty',
    )
  const [token, aesKey] = [given('wechat-push-token'), given('wechat-push-aes-key')]
  // As in WECHAT_PUSH_TOKEN: "new,old".
  const push = token && { token: token.split(','), ...(aesKey && { aes_key: aesKey.split(',') }) }
  return JSON.stringify([{ appid, secret, ...(push && { push }) }])
}

/** Services start side by side: it may need a moment to be there. */
async function isDemo(): Promise<boolean> {
  const endMs = performance.now() + DEMO_WAIT_MS
  while (performance.now() < endMs) {
    try {
      await lookup('demo')
      return true
    } catch {
      await delay(200)
    }
  }
  return false
}

interface Wechat {
  /** JSON. */
  readonly apps: string
  readonly apiUrls: string
  /** A certificate to trust beside all others. */
  readonly authority: string | undefined
}

function writeAll({ apps, apiUrls, authority }: Wechat): void {
  const redisPasswords = {
    gateway: kept('redis-gateway-password', password),
    worker: kept('redis-worker-password', password),
  }
  const postgresPassword = kept('postgres-password', password)
  const redisUrl = (user: keyof typeof redisPasswords) =>
    `redis://${user}:${encodeURIComponent(redisPasswords[user])}@redis:6379`
  give('gateway', {
    'wechat-apps.json': apps,
    'wechat-api-urls': apiUrls,
    // Node trusts it beside all others. A file there has to be: one of those others, when none is given.
    'wechat-ca.pem': authority ?? rootCertificates[0] ?? '',
    'seal-keys': kept('seal-keys', () => `s1:${randomBytes(32).toString('base64')}`),
    'token-keys': kept('token-keys', () => `t1:${randomBytes(32).toString('base64')}`),
    'admin-token': kept('admin-token', () => randomBytes(32).toString('base64url')),
    'redis-url': redisUrl('gateway'),
  })
  give('worker', {
    'redis-url': redisUrl('worker'),
    'database-url': `postgres://gateway:${encodeURIComponent(postgresPassword)}@postgres:5432/gateway`,
  })
  give('redis', { 'users.acl': redisUsers(redisPasswords) })
  give('postgres', { password: postgresPassword })
  give('grafana', { password: kept('grafana-password', password) })
}

function password(): string {
  return randomBytes(24).toString('base64url')
}

/** All that gateway and worker use; nothing that ends, empties or reconfigures the server. */
function redisUsers(passwords: Record<string, string>): string {
  const users = Object.entries(passwords).map(([name, password]) => {
    const hash = createHash('sha256').update(password).digest('hex')
    return `user ${name} on #${hash} ~* &* +@all -@admin -@dangerous +info +client|list`
  })
  return ['user default off', 'user health on >health -@all +ping', ...users].join('\n') + '\n'
}

function given(name: string): string | undefined {
  const file = `/secrets/${name}`
  return existsSync(file) ? readFileSync(file, 'utf8').trim() || undefined : undefined
}

/** Given, or made when there is none yet. */
function kept(name: string, make: () => string): string {
  const file = `/run/kept/${name}`
  const operators = given(name)
  if (operators !== undefined) return operators
  if (existsSync(file)) return readFileSync(file, 'utf8')
  const value = make()
  write(file, value, 0)
  return value
}

function give(service: keyof typeof READERS, files: Record<string, string>): void {
  const folder = `/run/setup/${service}`
  chmodSync(folder, 0o755)
  for (const [name, content] of Object.entries(files)) write(`${folder}/${name}`, content, READERS[service])
}

/** By way of a second name: whoever reads meanwhile finds the old or the new, and never half of it. */
function write(file: string, content: string, owner: number): void {
  writeFileSync(`${file}.new`, content, { mode: 0o400 })
  chownSync(`${file}.new`, owner, owner)
  renameSync(`${file}.new`, file)
}
