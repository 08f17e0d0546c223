/** A sound configuration, and what the operator is told about an unsound one. */
import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import { ConfigError, loadGatewayConfig } from '../../src/config.ts'
import type { Environment } from '../../src/config.ts'
import { APP_SECRET, APPID, newKey } from './environment.ts'

/** The least that a gateway needs. */
export const soundEnvironment: Environment = {
  ADMIN_TOKEN: randomBytes(32).toString('base64'),
  WECHAT_APPID: APPID,
  WECHAT_SECRET: APP_SECRET,
  REDIS_URL: 'redis://127.0.0.1:6379',
  SEAL_KEYS: newKey('s1'),
  TOKEN_KEYS: newKey('t1'),
}

/** What the operator is told when the sound environment is changed so; empty when nothing is wrong. */
export function faultsOf(
  own: Environment,
  load: (env: Environment) => unknown = loadGatewayConfig,
): readonly string[] {
  try {
    load({ ...soundEnvironment, ...own })
    return []
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    return error.faults
  }
}

/** A file with this content; it is removed when the test ends. */
export function writeTemporary(content: string): string {
  const folder = mkdtempSync(join(tmpdir(), 'gateway-config-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  const path = join(folder, 'file')
  writeFileSync(path, content)
  return path
}
