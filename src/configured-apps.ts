/** The Mini Programs of the environment: the one of WECHAT_APPID, and those of WECHAT_APPS_FILE. */
import { parseAppEntry } from './app-entry.ts'
import type { App } from './app-entry.ts'
import { readAppsFile } from './apps-file.ts'
import type { Reading } from './reading.ts'

type AppSetting =
  | 'WECHAT_APPID'
  | 'WECHAT_SECRET'
  | 'WECHAT_PUSH_TOKEN'
  | 'WECHAT_PUSH_AES_KEY'
  | 'WECHAT_APPS_FILE'

/** All of them, in order. What is wrong is added to the reading's faults. */
export function loadApps({ values, faults, isMissing }: Reading<AppSetting>): App[] {
  const apps = new Map<string, App>()
  const { WECHAT_APPID: appid, WECHAT_SECRET: secret, WECHAT_APPS_FILE: file } = values
  const push = loadPush(values)
  if (appid !== undefined && secret !== undefined)
    apps.set(appid, parseAppEntry({ appid, secret, ...(push === undefined ? {} : { push }) }))
  if (isMissing('WECHAT_APPID') && !(isMissing('WECHAT_PUSH_TOKEN') && isMissing('WECHAT_PUSH_AES_KEY')))
    faults.push('WECHAT_PUSH_TOKEN and WECHAT_PUSH_AES_KEY are those of WECHAT_APPID, which is missing')
  if (isMissing('WECHAT_PUSH_TOKEN') && values.WECHAT_PUSH_AES_KEY !== undefined)
    faults.push('WECHAT_PUSH_TOKEN is missing, while WECHAT_PUSH_AES_KEY is given')
  if (isMissing('WECHAT_APPID') && !isMissing('WECHAT_SECRET'))
    faults.push('WECHAT_APPID is missing, while WECHAT_SECRET is given')
  if (isMissing('WECHAT_SECRET') && !isMissing('WECHAT_APPID'))
    faults.push('WECHAT_SECRET is missing, while WECHAT_APPID is given')
  for (const [index, app] of (file === undefined ? [] : readAppsFile(file, faults)).entries()) {
    if (apps.has(app.appid)) faults.push(`WECHAT_APPS_FILE entry ${index + 1} repeats the appid of another`)
    apps.set(app.appid, app)
  }
  if (isMissing('WECHAT_APPID') && isMissing('WECHAT_SECRET') && isMissing('WECHAT_APPS_FILE')) {
    faults.push('no Mini Program is configured: set WECHAT_APPID and WECHAT_SECRET, or WECHAT_APPS_FILE')
  }
  return [...apps.values()]
}

/** As parseAppPush() takes it. */
function loadPush({ WECHAT_PUSH_TOKEN: token, WECHAT_PUSH_AES_KEY: aesKey }: Reading<AppSetting>['values']) {
  if (token === undefined) return undefined
  return { token: token.split(','), ...(aesKey === undefined ? {} : { aes_key: aesKey.split(',') }) }
}
