/** All platforms, by the kind of app. */
import type { App, AppKind } from '../app-entry.ts'
import type { Hosts } from './hosts.ts'
import type { Platform } from './platform.ts'
import { createComponentTokens } from './platforms/component-tokens.ts'
import { createComponent } from './platforms/component.ts'
import { createDouyin } from './platforms/douyin.ts'
import { createQq } from './platforms/qq.ts'
import { createWechat } from './platforms/wechat.ts'
import { createWecomTokens } from './platforms/wecom-tokens.ts'
import { createWecom, WECOM_ERRCODES } from './platforms/wecom.ts'

export type Platforms = Readonly<Record<AppKind, Platform>>

export interface PlatformsSettings {
  /** Origins in order of preference; those of WeChat are its third-party platforms' as well. */
  wechatApiUrls: readonly string[]
  wecomApiUrls: readonly string[]
  qqApiUrls: readonly string[]
  douyinApiUrls: readonly string[]
  /** JSON file {component_appid: component_access_token}. */
  componentTokensFile: string | undefined
  loginDeadlineMs: number
}

export interface PlatformsObserver {
  /** A platform answered with an errcode other than 0. */
  onErrcode(app: App, errcode: number, rid: string | undefined): void
  /** The file of component_access_tokens cannot be used; what was read before goes on. */
  onComponentTokensFault(reason: string): void
}

/** The adapters; what they hold beside (access_tokens) is in memory. */
export function createPlatforms(
  hosts: Hosts,
  settings: PlatformsSettings,
  { onErrcode, onComponentTokensFault }: PlatformsObserver,
): Platforms {
  const wecomTokens = createWecomTokens(
    { hosts, errcodes: WECOM_ERRCODES, onErrcode },
    { origins: settings.wecomApiUrls, timeoutMs: settings.loginDeadlineMs },
  )
  const componentTokens = createComponentTokens(settings.componentTokensFile, onComponentTokensFault)
  return {
    wechat: createWechat(settings.wechatApiUrls),
    wechat_component: createComponent(settings.wechatApiUrls, componentTokens),
    wecom: createWecom(settings.wecomApiUrls, wecomTokens),
    qq: createQq(settings.qqApiUrls),
    douyin: createDouyin(settings.douyinApiUrls),
  }
}
