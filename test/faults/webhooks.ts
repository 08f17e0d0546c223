/** Receivers of webhooks, and the settings of the workers that tell them. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openReceiver, webhookSettings } from '../harness/webhook-receiver.ts'
import type { Receiver, ToldReceiver } from '../harness/webhook-receiver.ts'
import type { Bench } from './row.ts'

/** A receiver that is well, and the settings of the workers that tell it. */
export interface Webhooks {
  receiver: Receiver
  env: Record<string, string>
}

export async function startReceiver(
  bench: Bench,
  ...options: Parameters<typeof openReceiver>
): Promise<Receiver> {
  const receiver = await openReceiver(...options)
  bench.defer(() => receiver.close())
  return receiver
}

/** Has all events of the default told to a receiver of its own, and these endpoints told beside it. */
export async function startWebhooks(bench: Bench, others: readonly ToldReceiver[] = []): Promise<Webhooks> {
  const receiver = await startReceiver(bench)
  return { receiver, env: settingsFor(bench, [{ receiver, name: 'sound' }, ...others]) }
}

export function settingsFor(bench: Bench, told: readonly ToldReceiver[]): Record<string, string> {
  const folder = mkdtempSync(join(tmpdir(), 'gateway-webhooks-'))
  bench.defer(() => rmSync(folder, { recursive: true, force: true }))
  return webhookSettings(told, (content) => {
    const path = join(folder, 'webhooks.json')
    writeFileSync(path, content)
    return path
  })
}
