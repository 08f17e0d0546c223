/** One app of every kind, at a simulator that plays all platforms, and the settings of a gateway for them. */
import { renameSync, writeFileSync } from 'node:fs'
import type { AppKind } from '../../src/app-entry.ts'
import type { AppInput } from '../simulator/apps.ts'
import type { Simulator } from '../simulator/server.ts'
import { writeTemporary } from './configuration.ts'
import { APP_SECRET, APPID } from './environment.ts'
import type { TestEnvironment } from './environment.ts'

export const CORPID = 'ww0123456789abcdef'
export const COMPONENT_APPID = 'wxc0c0c0c0c0c0c0c0'
export const COMPONENT_TOKEN = 'component-token-canary-61xK-0123456789abcdef'

/** What a gateway is told of each app, and where the platform takes its codes. */
export const PLATFORMS = {
  wechat: { appid: APPID, secret: APP_SECRET, path: '/sns/jscode2session' },
  wechat_component: { appid: 'wxauthorised000001', path: '/sns/component/jscode2session' },
  wecom: {
    appid: 'wxinwecom000000001',
    secret: 'wecom-agent-secret-canary-8Zt3',
    path: '/cgi-bin/miniprogram/jscode2session',
  },
  qq: { appid: '1110000001', secret: 'qq-app-secret-canary-5Nb9', path: '/sns/jscode2session' },
  douyin: {
    appid: 'tt0123456789abcdef',
    secret: 'douyin-app-secret-canary-2Hs7',
    path: '/api/apps/v2/jscode2session',
  },
} as const satisfies Record<AppKind, { appid: string; secret?: string; path: string }>

export const KINDS = Object.keys(PLATFORMS) as AppKind[]

/** The apps as the simulator knows them. */
export const SIMULATED_APPS: AppInput[] = KINDS.map((kind) => {
  const { appid, ...rest } = PLATFORMS[kind]
  return {
    appid,
    kind,
    ...('secret' in rest && { secret: rest.secret }),
    ...(kind === 'wecom' && { corpid: CORPID }),
    ...(kind === 'wechat_component' && {
      componentAppid: COMPONENT_APPID,
      componentAccessTokens: [COMPONENT_TOKEN],
    }),
  }
})

/** For a gateway that knows them all. `secrets`: others than the right ones. */
export function platformsEnvironment(
  { url }: Pick<Simulator, 'url'>,
  {
    secrets = {},
    componentToken = COMPONENT_TOKEN,
  }: { secrets?: Partial<Record<AppKind, string[]>>; componentToken?: string } = {},
): TestEnvironment & { WECHAT_COMPONENT_TOKENS_FILE: string } {
  const others = KINDS.filter((kind) => kind !== 'wechat').map((kind) => {
    const { appid, ...rest } = PLATFORMS[kind]
    return {
      appid,
      kind,
      ...('secret' in rest && { secrets: secrets[kind] ?? [rest.secret] }),
      ...(kind === 'wecom' && { corpid: CORPID }),
      ...(kind === 'wechat_component' && { component_appid: COMPONENT_APPID }),
    }
  })
  return {
    ...(secrets.wechat?.[0] !== undefined && { WECHAT_SECRET: secrets.wechat[0] }),
    WECHAT_APPS_FILE: writeTemporary(JSON.stringify(others)),
    WECHAT_COMPONENT_TOKENS_FILE: writeTemporary(JSON.stringify({ [COMPONENT_APPID]: componentToken })),
    WECOM_API_URLS: url,
    QQ_API_URLS: url,
    DOUYIN_API_URLS: url,
  }
}

/** As whoever writes the file should: another file, renamed. */
export function replaceFile(path: string, content: string): void {
  writeFileSync(`${path}.new`, content)
  renameSync(`${path}.new`, path)
}
