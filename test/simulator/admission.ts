/**
 * The checks every call with an AppSecret passes: does the app exist, may this address call, is the
 * secret right, is it frozen.
 *
 * The order is a guess that no source confirms (app, address, secret), and the gateway must not depend on it.
 */
import type { App, AppKind, Apps } from './apps.ts'

/** Why a call was turned away; errmsg only where it differs from the errcode's usual text. */
export interface Refusal {
  errcode: number
  errmsg?: string
}

/** The app, when the call may go on. */
export function admit(
  apps: Apps,
  { appid, secret, ip }: { appid: string; secret: string; ip: string },
  kinds: readonly AppKind[] = ['wechat'],
): { app: App } | Refusal {
  const app = apps.find(appid)
  if (!app || !kinds.includes(app.kind)) return { errcode: 40013 }
  if (app.ipWhitelist && !app.ipWhitelist.includes(ip)) {
    return { errcode: 40164, errmsg: `invalid ip ${ip} ipv6 ::ffff:${ip}, not in whitelist` }
  }
  if (!app.secrets.includes(secret)) return { errcode: 40125 }
  if (app.secretFrozen) return { errcode: 40243 }
  return { app }
}

/** Whether the secret is one of the app's; null when the call names no secret or no known app. */
export function isSecretRight(
  apps: Apps,
  appid: string | undefined,
  secret: string | undefined,
): boolean | null {
  const app = appid === undefined ? undefined : apps.find(appid)
  return app && secret !== undefined ? app.secrets.includes(secret) : null
}
