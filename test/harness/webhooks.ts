/** A receiver of webhooks that goes with the test, and the file that has them sent to it. */
import type { ServerResponse } from 'node:http'
import { onTestFinished } from 'vitest'
import { writeTemporary } from './configuration.ts'
import type { TestEnvironment } from './environment.ts'
import { openReceiver, webhookSettings } from './webhook-receiver.ts'
import type { ReceivedWebhook, Receiver, ToldReceiver } from './webhook-receiver.ts'

/** Says 204 unless told otherwise; with a certificate by https, as `localhost`. Closed when the test ends. */
export async function startReceiver(
  answer?: (response: ServerResponse, webhook: ReceivedWebhook) => void,
  certificate?: { key: string; cert: string },
): Promise<Receiver> {
  const receiver = await openReceiver({ answer, certificate })
  onTestFinished(() => receiver.close())
  return receiver
}

export function webhookEnvironment(told: readonly ToldReceiver[]): TestEnvironment {
  return webhookSettings(told, writeTemporary)
}

/** Ways to write an address inside, as the URL's host. */
export const INSIDE_HOSTS = [
  '127.0.0.1',
  '127.1',
  '2130706433',
  '0x7f000001',
  '0x7f.1',
  '0177.0.0.1',
  '017700000001',
  '127.0.0.1.',
  '①②⑦.⓪.⓪.①',
  '0',
  '0.0.0.0',
  '10.0.0.1',
  '172.16.0.1',
  '172.31.255.255',
  '192.168.1.1',
  '100.64.0.1',
  '100.100.100.200',
  '169.254.169.254',
  '168.63.129.16',
  '224.0.0.1',
  '255.255.255.255',
  '[::1]',
  '[::]',
  '[::ffff:127.0.0.1]',
  '[::ffff:7f00:1]',
  '[::ffff:8.8.8.8]',
  '[::127.0.0.1]',
  '[64:ff9b::7f00:1]',
  '[2002:7f00:1::]',
  '[2001:0:7f00:1::]',
  '[fc00::1]',
  '[fd00:ec2::254]',
  '[fe80::1]',
  '[ff02::1]',
]
