/**
 * The Mini Programs the simulated platforms know: their AppSecrets, switches and quotas.
 *
 * An app may have two valid secrets, because WeChat keeps the old one alive for some minutes after a
 * reset. Its counts of calls live beside it, so that they are bounded by the number of apps.
 */
import type { Read } from './fields.ts'
import { flag, InputError, listOf, must, nullable, oneOf, readFields, text } from './fields.ts'
import type { Count, QuotaInput, Quotas } from './quotas.ts'
import type { PushSettings } from './pushes.ts'
import { readPushSettings } from './pushes.ts'
import { QUOTA_FIELDS, startCount } from './quotas.ts'

const APPS_MAX = 1_000

const KINDS = ['wechat', 'wechat_component', 'wecom', 'qq', 'douyin'] as const
export type AppKind = (typeof KINDS)[number]

const APP_FIELDS = {
  appid: must(text(64)),
  /** Whose Mini Program it is; wechat unless another is named. Each is exchanged at its own endpoint only. */
  kind: oneOf(...KINDS),
  /** Of a wecom app: the corp whose agent's secret is the app's. */
  corpid: text(64),
  /** Of a wechat_component app: the third-party platform it has authorised, and the tokens that work for it. */
  componentAppid: text(64),
  componentAccessTokens: listOf(text(1_024), 8),
  /** Replaces all secrets by this one. */
  secret: text(256),
  /** All that are valid at the moment; the first is the newest. */
  secrets: listOf(text(256), 8),
  /** Addresses that may call; null switches the whitelist off, which is WeChat's default. */
  ipWhitelist: nullable(listOf(text(64), 1_000)),
  secretFrozen: flag,
  /** Whether the app is bound to an Open Platform account; without, no answer has a unionid. */
  openPlatform: flag,
  /** Where and how messages are pushed; null: they are not. */
  push: nullable(readPushSettings),
  quotas: (value: unknown, name: string): QuotaInput => readFields(value, name, QUOTA_FIELDS),
}

/** What a test says of an app; fields left out keep their value. */
export type AppInput = Read<typeof APP_FIELDS>

/** An app as the platform sees it. */
export interface App {
  appid: string
  kind: AppKind
  corpid: string | null
  componentAppid: string | null
  componentAccessTokens: string[]
  secrets: string[]
  ipWhitelist: string[] | null
  secretFrozen: boolean
  openPlatform: boolean
  push: PushSettings | null
  quotas: Quotas
  counts: { [K in keyof Quotas]: Count }
}

/** What may be shown of an app: everything but its secrets. */
export type AppView = Omit<App, 'secrets' | 'componentAccessTokens' | 'counts' | 'push'> & {
  push: Pick<PushSettings, 'url' | 'mode' | 'format'> | null
  secrets: number
  componentAccessTokens: number
}

export type Apps = ReturnType<typeof createApps>

/** Keeps the apps. The first one put is the default of every call that names none. */
export function createApps(quotas: Quotas) {
  const apps = new Map<string, App>()

  return {
    /** Adds an app or changes the fields given. */
    put(input: unknown): App {
      const fields = readFields(input, 'an app', APP_FIELDS)
      const { appid } = fields
      const known = apps.get(appid)
      if (!known && apps.size >= APPS_MAX) throw new InputError(`no more than ${APPS_MAX} apps`)
      const kind = fields.kind ?? known?.kind ?? 'wechat'
      const before = known?.secrets ?? (kind === 'wechat_component' ? [] : undefined)
      const secrets = fields.secrets ?? (fields.secret === undefined ? before : [fields.secret])
      if (!secrets) throw new InputError(`an app: ${appid} is new and needs a secret`)
      const app: App = {
        appid,
        kind,
        corpid: fields.corpid ?? known?.corpid ?? null,
        componentAppid: fields.componentAppid ?? known?.componentAppid ?? null,
        componentAccessTokens: fields.componentAccessTokens ?? known?.componentAccessTokens ?? [],
        secrets,
        ipWhitelist: fields.ipWhitelist === undefined ? (known?.ipWhitelist ?? null) : fields.ipWhitelist,
        secretFrozen: fields.secretFrozen ?? known?.secretFrozen ?? false,
        openPlatform: fields.openPlatform ?? known?.openPlatform ?? true,
        push: fields.push === undefined ? (known?.push ?? null) : fields.push,
        quotas: { ...(known?.quotas ?? quotas), ...fields.quotas },
        counts: known?.counts ?? startCounts(),
      }
      apps.set(appid, app)
      return app
    },
    find: (appid: string): App | undefined => apps.get(appid),
    /** The WeCom apps of a corp. */
    ofCorp: (corpid: string): App[] =>
      [...apps.values()].filter((app) => app.kind === 'wecom' && app.corpid === corpid),
    /** The app that is meant; an InputError when there is none. */
    choose(appid: string | undefined): App {
      const app = appid === undefined ? apps.values().next().value : apps.get(appid)
      if (app) return app
      throw new InputError(appid === undefined ? 'there is no app' : `there is no app ${appid}`)
    },
    list: (): AppView[] => [...apps.values()].map(viewApp),
    clear: () => apps.clear(),
  }
}

/** The app without its secrets. */
export function viewApp({ secrets, componentAccessTokens, counts: _counts, push, ...shown }: App): AppView {
  return {
    ...shown,
    push: push && { url: push.url, mode: push.mode, format: push.format },
    secrets: secrets.length,
    componentAccessTokens: componentAccessTokens.length,
  }
}

function startCounts(): App['counts'] {
  return {
    exchangesPerUserPerMinute: startCount(),
    exchangesPerAppPerMinute: startCount(),
    stableTokensPerMinute: startCount(),
    stableTokensPerDay: startCount(),
    forcedRefreshesPerDay: startCount(),
    tokensPerDay: startCount(),
    keyResetsPerMinute: startCount(),
  }
}
