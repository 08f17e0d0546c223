/** A gateway whose app takes message pushes, and a WeChat that sends them. */
import { randomBytes } from 'node:crypto'
import { Queue } from 'bullmq'
import { onTestFinished } from 'vitest'
import { ERASE_QUEUE, parseEraseJob } from '../../src/erasure.ts'
import type { PushSettings } from '../simulator/pushes.ts'
import { APPID } from './environment.ts'
import { startHarness } from './gateway.ts'
import type { Harness, HarnessOptions } from './gateway.ts'

/** How far WeChat's attempts are apart. */
export const PUSH_TIMEOUT_MS = 1_000

export const newPushToken = () => randomBytes(16).toString('hex')
export const newAesKey = () => randomBytes(32).toString('base64').slice(0, -1)

/** Token and, but in plain mode, EncodingAESKey are known on both sides. */
export async function startPushHarness(
  { mode = 'safe', format = 'xml' }: Partial<Pick<PushSettings, 'mode' | 'format'>> = {},
  { env = {}, ...options }: HarnessOptions = {},
) {
  const push = { token: newPushToken(), aesKey: newAesKey(), mode, format }
  const harness = await startHarness({
    ...options,
    env: {
      WECHAT_PUSH_TOKEN: push.token,
      ...(mode === 'plain' ? {} : { WECHAT_PUSH_AES_KEY: push.aesKey }),
      ...env,
    },
    simulator: { pushTimeoutMs: PUSH_TIMEOUT_MS, ...options.simulator },
  })
  harness.wechat.putApp({ appid: APPID, push: { url: `${harness.url}/push/${APPID}`, ...push } })
  return { ...harness, push }
}

export type PushHarness = Awaited<ReturnType<typeof startPushHarness>>

/** How many pushes of a type have ended so. */
export const outcomes = ({ metric }: PushHarness, type: string, outcome: string) =>
  metric('push_messages_total', { type, outcome })

/** The erasures that are queued; no worker takes them. */
export async function queuedErasures({ redis, keys }: Pick<Harness, 'redis' | 'keys'>) {
  const queue = eraseQueue({ redis, keys })
  const jobs = await queue.getJobs()
  await queue.close()
  return jobs.map(({ id, data }) => ({ id, ...parseEraseJob(data) }))
}

/** As a worker leaves it that has done them all. */
export async function doErasures({ redis, keys }: Pick<Harness, 'redis' | 'keys'>): Promise<void> {
  const queue = eraseQueue({ redis, keys })
  for (const job of await queue.getJobs()) await job.remove()
  await queue.close()
}

function eraseQueue({ redis, keys }: Pick<Harness, 'redis' | 'keys'>) {
  const queue = new Queue<unknown>(ERASE_QUEUE, {
    connection: redis,
    prefix: keys.queue(ERASE_QUEUE),
    skipVersionCheck: true,
  })
  queue.on('error', () => {})
  onTestFinished(() => queue.close())
  return queue
}
