/** What a program is told by its manifest: variables, and secrets in files. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import { soundEnvironment } from './configuration.ts'
import { all, containerOf, find } from './kubernetes.ts'
import type { Manifest } from './kubernetes.ts'

/** The variables of the one container of this Deployment. */
export function environmentOf(manifests: readonly Manifest[], deployment: string): Record<string, string> {
  const { env = [], envFrom = [] } = containerOf(find(manifests, 'Deployment', deployment))
  const maps = envFrom.map(({ configMapRef }) => find(manifests, 'ConfigMap', configMapRef?.name ?? '').data)
  return Object.assign({}, ...maps, Object.fromEntries(env.map(({ name, value }) => [name, value ?? ''])))
}

/** The same, but that its secrets are in a folder of this machine, which goes with the test. */
export function programEnvironment(
  manifests: readonly Manifest[],
  deployment: string,
): Record<string, string> {
  const [mount] = containerOf(find(manifests, 'Deployment', deployment)).volumeMounts ?? []
  const folder = mkdtempSync(join(tmpdir(), 'gateway-secrets-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  for (const [name, text = ''] of Object.entries(secretsOf(manifests)))
    writeFileSync(join(folder, name), text)
  return Object.fromEntries(
    Object.entries(environmentOf(manifests, deployment)).map(([name, value]) => [
      name,
      value.replace(mount?.mountPath ?? '', folder),
    ]),
  )
}

/** Those of the manifests themselves, or such as an operator makes. */
function secretsOf(manifests: readonly Manifest[]): Record<string, string | undefined> {
  const { ADMIN_TOKEN, SEAL_KEYS, TOKEN_KEYS, REDIS_URL, WECHAT_APPID, WECHAT_SECRET } = soundEnvironment
  const own = all(manifests, 'Secret').flatMap(({ data = {} }) => Object.entries(data))
  return {
    'admin-token': ADMIN_TOKEN,
    'seal-keys': SEAL_KEYS,
    'token-keys': TOKEN_KEYS,
    'redis-url': REDIS_URL,
    'database-url': 'postgres://h/d',
    'wechat-apps.json': JSON.stringify([{ appid: WECHAT_APPID, secret: WECHAT_SECRET }]),
    ...Object.fromEntries(own.map(([name, value]) => [name, Buffer.from(value, 'base64').toString()])),
  }
}
