/**
 * The secrets of a development machine: made once, kept in DATA_DIR, so that sessions outlive a restart.
 *
 * Each carries a mark ("dev") by which the gateway recognises and refuses it when NODE_ENV=production.
 */
import { randomBytes } from 'node:crypto'
import { chmodSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { errorCode, StartRefused } from './refusal.ts'

export interface DevelopmentSecrets {
  readonly SEAL_KEYS: string
  readonly TOKEN_KEYS: string
  readonly ADMIN_TOKEN: string
  /** AppSecret of the simulated Mini Program; worth nothing at WeChat. */
  readonly SIMULATED_WECHAT_SECRET: string
}

const SHAPES: Record<keyof DevelopmentSecrets, RegExp> = {
  SEAL_KEYS: /^dev[A-Za-z0-9]{0,5}:[A-Za-z0-9+/]{43}=/,
  TOKEN_KEYS: /^dev[A-Za-z0-9]{0,5}:[A-Za-z0-9+/]{43}=/,
  ADMIN_TOKEN: /^dev_\S{20,}$/,
  SIMULATED_WECHAT_SECRET: /^[0-9a-f]{32}$/,
}

/**
 * Reads the secrets from the file, or makes the file (mode 0600).
 * @throws {StartRefused} when the file is damaged; it is never overwritten, for sessions hang on it.
 */
export function loadDevelopmentSecrets(file: string): DevelopmentSecrets {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return create(file)
    throw error
  }
  const secrets = parse(text)
  if (secrets === undefined) {
    throw new StartRefused(
      `${file} is damaged. Remove it to get new development secrets; old sessions end with it.`,
    )
  }
  chmodSync(file, 0o600)
  return secrets
}

function create(file: string): DevelopmentSecrets {
  const secrets: DevelopmentSecrets = {
    SEAL_KEYS: `dev1:${randomBytes(32).toString('base64')}`,
    TOKEN_KEYS: `dev1:${randomBytes(32).toString('base64')}`,
    ADMIN_TOKEN: `dev_${randomBytes(24).toString('base64url')}`,
    SIMULATED_WECHAT_SECRET: randomBytes(16).toString('hex'),
  }
  // By way of a second name: half a file would be taken for a damaged one at the next start.
  writeFileSync(`${file}.new`, `${JSON.stringify(secrets, undefined, 2)}\n`, { mode: 0o600 })
  renameSync(`${file}.new`, file)
  return secrets
}

function parse(text: string): DevelopmentSecrets | undefined {
  try {
    const values: unknown = JSON.parse(text)
    return isSound(values) ? values : undefined
  } catch {
    return undefined // not JSON; the caller says so without quoting it
  }
}

function isSound(value: unknown): value is DevelopmentSecrets {
  if (typeof value !== 'object' || value === null) return false
  const fields = new Map<string, unknown>(Object.entries(value))
  return Object.entries(SHAPES).every(([name, shape]) => shape.test(String(fields.get(name))))
}
