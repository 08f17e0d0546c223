/**
 * A receiver of webhooks that keeps what it got, checked by the reference library, and the entry that has them sent to
 * it. Needs nothing of vitest; who opens it closes it.
 */
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { createServer as createHttpsServer } from 'node:https'
import type { IncomingHttpHeaders, RequestListener, ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Webhook } from 'standardwebhooks'

export interface ReceivedWebhook {
  id: string
  headers: IncomingHttpHeaders
  body: string
  event: { type: string; timestamp: string; data: Record<string, unknown> }
  /** Whether the reference library takes it, with the receiver's secret as it is now. */
  verified: boolean
  /** On performance.now(). */
  atMs: number
}

export interface ReceiverOptions {
  /** Says 204 unless told otherwise. */
  answer?: ((response: ServerResponse, webhook: ReceivedWebhook) => void) | undefined
  /** With one it is https, as `localhost`. */
  certificate?: { key: string; cert: string } | undefined
}

export const newWebhookSecret = () => `whsec_${randomBytes(32).toString('base64')}`

export async function openReceiver({
  answer = (response) => void response.writeHead(204).end(),
  certificate,
}: ReceiverOptions = {}) {
  let secret = newWebhookSecret()
  let library = new Webhook(secret)
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
        atMs: performance.now(),
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
  let port = 0

  async function open(): Promise<void> {
    server.listen(port, '127.0.0.1')
    await once(server, 'listening')
    port = (server.address() as AddressInfo).port
  }

  async function close(): Promise<void> {
    if (!server.listening) return
    const closed = once(server, 'close')
    server.close()
    server.closeAllConnections()
    await closed
  }

  await open()
  return {
    port,
    url: certificate ? `https://localhost:${port}/hooks` : `http://127.0.0.1:${port}/hooks`,
    get secret() {
      return secret
    },
    /** It goes by this one from now on. */
    setSecret(text: string): void {
      secret = text
      library = new Webhook(text)
    },
    received: received as readonly ReceivedWebhook[],
    ofType: (type: string) => received.filter(({ event }) => event.type === type),
    /** Nobody is there any more. */
    close,
    /** And is again, on the same port. */
    reopen: open,
  }
}

export type Receiver = Awaited<ReturnType<typeof openReceiver>>

/** Where webhooks are to be told, beside what an entry of WEBHOOKS_FILE has by default. */
export interface ToldReceiver {
  receiver: Pick<Receiver, 'url' | 'secret' | 'port'>
  name?: string
  [field: string]: unknown
}

/** The worker's settings that have these endpoints told. They are on this machine, which has to be permitted. */
export function webhookSettings(told: readonly ToldReceiver[], writeFile: (content: string) => string) {
  const entries = told.map(({ receiver, ...fields }, index) => ({
    name: `endpoint-${index + 1}`,
    url: receiver.url,
    secrets: [receiver.secret],
    ...fields,
  }))
  return {
    WEBHOOKS_FILE: writeFile(JSON.stringify(entries)),
    WEBHOOK_PORTS: told.map(({ receiver }) => receiver.port).join(','),
    WEBHOOK_PRIVATE_NETWORKS: '127.0.0.0/8,::1',
  }
}
