/** What every scene stands on: the simulated WeChat and the load, on a core that is not measured. */
import { newWechatApp, startWechat } from '../faults/wechat.ts'
import type { Wechat, WechatApp } from '../faults/wechat.ts'
import { createClosing } from './closing.ts'
import type { Closing } from './closing.ts'
import { startLoad } from './load.ts'
import type { Load } from './load.ts'
import { pin } from './processes.ts'

export interface Stage {
  wechat: Wechat
  load: Load
  closing: Closing
}

/** As at WeChat: a session_key is renewed by a login, but not more often than this. */
const KEY_REFRESH_SECONDS = 60

/** Runs something on a stage, which is taken away afterwards. */
export async function onStage<T>(
  play: (stage: Stage) => Promise<T>,
  apps: readonly WechatApp[] = [newWechatApp()],
): Promise<T> {
  const closing = createClosing()
  try {
    const wechat = await startWechat(closing, { keyRefreshSeconds: KEY_REFRESH_SECONDS, apps })
    pin(wechat.program.pid, 'others')
    const load = startLoad()
    closing.defer(() => load.close())
    return await play({ wechat, load, closing })
  } finally {
    await closing.close()
  }
}
