/**
 * An app as it is written down: an entry of WECHAT_APPS_FILE, the body of POST /apps, a registration in
 * Redis. One reading for all three, so that what one takes the others take.
 *
 *   {appid, secret | secrets: [newest, older], kind?, login_enabled?, limits?: {exchange_per_minute?},
 *    push?: {token, aes_key?}, …}
 *
 * What a kind needs beside that stands in APP_KINDS.
 */
import { Secret } from './secret.ts'
import { SettingFault } from './setting-kinds.ts'
import { SETTINGS } from './settings.ts'

interface KindSpec {
  /** Whether the app has a secret of its own. */
  readonly secret: boolean
  /** Further fields, all required; kept as text in `App.extra`. None may be a secret: they are shown. */
  readonly extra: Readonly<Record<string, RegExp>>
  /** Whether its platform pushes messages in WeChat's way, to the app's own server. */
  readonly push: boolean
}

/** The platforms and forms of account whose codes can be exchanged. The first is meant when none is named. */
export const APP_KINDS = {
  wechat: { secret: true, extra: {}, push: true },
  wechat_component: { secret: false, extra: { component_appid: /^[A-Za-z0-9_-]{4,64}$/ }, push: false },
  wecom: { secret: true, extra: { corpid: /^[A-Za-z0-9_-]{4,64}$/ }, push: false },
  qq: { secret: true, extra: {}, push: false },
  douyin: { secret: true, extra: {}, push: false },
} as const satisfies Record<string, KindSpec>

export type AppKind = keyof typeof APP_KINDS

/** A Mini Program. An app that has changed is another object: what is remembered of one may hang on it. */
export interface App {
  readonly appid: string
  readonly kind: AppKind
  /** Newest first. Two are valid while one is being rotated. */
  readonly secrets: readonly Secret<string>[]
  /** What its kind needs beside the secret, by the names of APP_KINDS. */
  readonly extra: Readonly<Record<string, string>>
  readonly loginEnabled: boolean
  readonly limits: AppLimits
  /** undefined: it takes no message pushes. */
  readonly push: AppPush | undefined
}

/** What WeChat signs and encrypts its message pushes with. Two of a thing are valid while it is being rotated. */
export interface AppPush {
  /** Newest first; at least one. */
  readonly tokens: readonly Secret<string>[]
  /** EncodingAESKeys, decoded, newest first. None: messages come in clear. */
  readonly aesKeys: readonly Secret<Buffer>[]
}

/** An app but for what is kept apart from the rest, sealed. */
export type AppShape = Omit<App, 'secrets' | 'push'>

/** Limits of one app; undefined: the gateway's. */
export interface AppLimits {
  readonly exchangePerMinute: number | undefined
}

/** What is wrong with an entry, in words that hold nothing of it. */
export class AppFault extends Error {}

const SECRETS_MAX = 2
const FIELDS: ReadonlySet<string> = new Set([
  'appid',
  'secret',
  'secrets',
  'kind',
  'login_enabled',
  'limits',
  'push',
])

/**
 * Reads an entry.
 * @throws {AppFault} naming the first thing that is wrong.
 */
export function parseAppEntry(entry: unknown): App {
  const app = parseAppShape(entry)
  const { push } = entry as Record<string, unknown>
  if (push !== undefined && !APP_KINDS[app.kind].push)
    throw new AppFault(`has push, and an app of kind ${app.kind} gets no pushes here`)
  return {
    ...app,
    secrets: parseSecrets(entry as Record<string, unknown>, app.kind),
    push: push === undefined ? undefined : parseAppPush(push),
  }
}

/**
 * Reads an entry but for its secrets, those of the message push included.
 * @throws {AppFault} naming the first thing that is wrong.
 */
export function parseAppShape(entry: unknown): AppShape {
  if (!isRecord(entry)) throw new AppFault('must be an object with "appid" and "secret"')
  const kind = parseKind(entry['kind'])
  const { extra: extraFields }: KindSpec = APP_KINDS[kind]
  const unknown = Object.keys(entry).some((name) => !FIELDS.has(name) && !Object.hasOwn(extraFields, name))
  if (unknown) throw new AppFault(`has a field that is none of an app of kind ${kind}`)
  return {
    appid: parseAppid(entry['appid']),
    kind,
    extra: Object.fromEntries(
      Object.entries(extraFields).map(([name, pattern]) => {
        const value = entry[name]
        if (typeof value !== 'string' || !pattern.test(value))
          throw new AppFault(`${name} is missing or malformed, for an app of kind ${kind}`)
        return [name, value]
      }),
    ),
    loginEnabled: parseFlag(entry['login_enabled']),
    limits: parseLimits(entry['limits']),
  }
}

/** The inverse of parseAppShape(): the entry without its secrets. */
export function writeAppShape({ appid, kind, extra, loginEnabled, limits }: AppShape) {
  return {
    appid,
    kind,
    login_enabled: loginEnabled,
    limits: limits.exchangePerMinute === undefined ? {} : { exchange_per_minute: limits.exchangePerMinute },
    ...extra,
  }
}

/** One AppSecret. @throws {AppFault} */
export function parseAppSecret(value: unknown): Secret<string> {
  return new Secret(read('secret', value, SETTINGS.WECHAT_SECRET))
}

/** The settings of the message push: `{token, aes_key?}`, each a text or a list of two, newest first. @throws {AppFault} */
export function parseAppPush(value: unknown): AppPush {
  if (!isRecord(value) || Object.keys(value).some((name) => name !== 'token' && name !== 'aes_key'))
    throw new AppFault('push may hold token and aes_key and nothing else')
  const { token, aes_key: aesKey } = value
  const tokens = readPair('push.token', token, SETTINGS.WECHAT_PUSH_TOKEN)
  const aesKeys = aesKey === undefined ? [] : readPair('push.aes_key', aesKey, SETTINGS.WECHAT_PUSH_AES_KEY)
  return {
    tokens: tokens.map((one) => new Secret(one)),
    // 43 characters are two bits more than 32 bytes; WeChat does not mind what they are.
    aesKeys: aesKeys.map((one) => new Secret(Buffer.from(`${one}=`, 'base64'))),
  }
}

/** The inverse of parseAppPush(), secrets revealed. */
export function writeAppPush({ tokens, aesKeys }: AppPush) {
  const keys = aesKeys.map((one) => one.reveal().toString('base64').slice(0, -1))
  return { token: tokens.map((one) => one.reveal()), ...(keys.length === 0 ? {} : { aes_key: keys }) }
}

function readPair(field: string, value: unknown, setting: typeof SETTINGS.WECHAT_SECRET): string[] {
  return read(field, Array.isArray(value) ? value.join(',') : value, setting).split(',')
}

function parseAppid(value: unknown): string {
  return read('appid', value, SETTINGS.WECHAT_APPID)
}

/** As the variable of that meaning is read. What is not text is malformed, as '' is. */
function read(field: string, value: unknown, setting: typeof SETTINGS.WECHAT_SECRET): string {
  try {
    return setting.parse(typeof value === 'string' ? value : '') ?? ''
  } catch (error) {
    if (!(error instanceof SettingFault)) throw error
    throw new AppFault(`${field} ${error.message}`)
  }
}

function parseKind(value: unknown): AppKind {
  if (value === undefined) return 'wechat'
  if (typeof value === 'string' && Object.hasOwn(APP_KINDS, value)) return value as AppKind
  throw new AppFault(`kind must be one of ${Object.keys(APP_KINDS).join(', ')}`)
}

function parseSecrets(entry: Record<string, unknown>, kind: AppKind): Secret<string>[] {
  const { secret, secrets } = entry
  if (secret !== undefined && secrets !== undefined) throw new AppFault('has both secret and secrets')
  if (!APP_KINDS[kind].secret) {
    if (secret === undefined && secrets === undefined) return []
    throw new AppFault(`has a secret, and an app of kind ${kind} has none`)
  }
  const list = secrets === undefined ? [secret] : secrets
  if (!Array.isArray(list) || list.length === 0 || list.length > SECRETS_MAX)
    throw new AppFault(`secrets must be a list of 1 to ${SECRETS_MAX}`)
  const parsed = list.map(parseAppSecret)
  if (new Set(parsed.map((one) => one.reveal())).size < parsed.length)
    throw new AppFault('has the same secret twice')
  return parsed
}

function parseFlag(value: unknown): boolean {
  if (value === undefined) return true
  if (typeof value !== 'boolean') throw new AppFault('login_enabled must be true or false')
  return value
}

/** As LIMIT_EXCHANGE_PER_APP. */
const EXCHANGES_MAX = 100_000_000

function parseLimits(value: unknown): AppLimits {
  if (value === undefined) return { exchangePerMinute: undefined }
  if (!isRecord(value) || Object.keys(value).some((name) => name !== 'exchange_per_minute'))
    throw new AppFault('limits may hold exchange_per_minute and nothing else')
  const perMinute = value['exchange_per_minute']
  if (perMinute === undefined) return { exchangePerMinute: undefined }
  if (!isWholeNumber(perMinute) || perMinute < 1 || perMinute > EXCHANGES_MAX)
    throw new AppFault(`limits.exchange_per_minute must be a whole number from 1 to ${EXCHANGES_MAX}`)
  return { exchangePerMinute: perMinute }
}

function isWholeNumber(value: unknown): value is number {
  return Number.isSafeInteger(value)
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
