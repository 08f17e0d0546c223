/** A receiver of webhooks that keeps what it got, and the file that has them sent to it. */
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { createServer as createHttpsServer } from 'node:https'
import type { IncomingHttpHeaders, RequestListener, ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Webhook } from 'standardwebhooks'
import { onTestFinished } from 'vitest'
import { writeTemporary } from './configuration.ts'
import type { TestEnvironment } from './environment.ts'

export interface ReceivedWebhook {
  id: string
  headers: IncomingHttpHeaders
  body: string
  event: { type: string; timestamp: string; data: Record<string, unknown> }
  /** Whether the reference library takes it, with the receiver's secret. */
  verified: boolean
}

export const newWebhookSecret = () => `whsec_${randomBytes(32).toString('base64')}`

/** Says 204 unless told otherwise; with a certificate by https, as `localhost`. Closed when the test ends. */
export async function startReceiver(
  answer: (response: ServerResponse, webhook: ReceivedWebhook) => void = (response) =>
    response.writeHead(204).end(),
  certificate?: { key: string; cert: string },
) {
  const secret = newWebhookSecret()
  const library = new Webhook(secret)
  const received: ReceivedWebhook[] = []
  const listener: RequestListener = (request, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => {
      const body = Buffer.concat(chunks).toString()
      const webhook: ReceivedWebhook = {
        id: String(request.headers['webhook-id']),
        headers: request.headers,
        body,
        event: JSON.parse(body) as ReceivedWebhook['event'],
        verified: true,
      }
      try {
        library.verify(body, request.headers as Record<string, string>)
      } catch {
        webhook.verified = false
      }
      received.push(webhook)
      answer(response, webhook)
    })
  }
  const server = certificate ? createHttpsServer(certificate, listener) : createServer(listener)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  const { port } = server.address() as AddressInfo
  return {
    port,
    url: certificate ? `https://localhost:${port}/hooks` : `http://127.0.0.1:${port}/hooks`,
    secret,
    received: received as readonly ReceivedWebhook[],
    ofType: (type: string) => received.filter(({ event }) => event.type === type),
  }
}

export type Receiver = Awaited<ReturnType<typeof startReceiver>>

/** The worker's settings that have these endpoints told. They are on this machine, which has to be permitted. */
export function webhookEnvironment(
  endpoints: readonly { receiver: Receiver; name?: string; [field: string]: unknown }[],
): TestEnvironment {
  const entries = endpoints.map(({ receiver, ...fields }, index) => ({
    name: `endpoint-${index + 1}`,
    url: receiver.url,
    secrets: [receiver.secret],
    ...fields,
  }))
  return {
    WEBHOOKS_FILE: writeTemporary(JSON.stringify(entries)),
    WEBHOOK_PORTS: endpoints.map(({ receiver }) => receiver.port).join(','),
    WEBHOOK_PRIVATE_NETWORKS: '127.0.0.0/8,::1',
  }
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
