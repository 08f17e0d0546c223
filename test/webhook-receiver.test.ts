/** The receiver of deploy/examples/: run as it is. It takes what the worker sends, each event once, and nothing else. */
import { spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { Webhook } from 'standardwebhooks'
import { expect, onTestFinished, test, vi } from 'vitest'
import { createClient } from './harness/client.ts'
import { workerEnvironment } from './harness/environment.ts'
import { startHarness } from './harness/gateway.ts'
import { NODE_ENVIRONMENT } from './harness/node-environment.ts'
import { startWorkerProcess } from './harness/processes.ts'
import { newDatabase, workerMetric } from './harness/provisioning.ts'
import { until } from './harness/until.ts'
import { newWebhookSecret } from './harness/webhook-receiver.ts'
import type { Receiver } from './harness/webhook-receiver.ts'
import { webhookEnvironment } from './harness/webhooks.ts'

// Processes, on a machine that runs others too.
vi.setConfig({ testTimeout: 60_000 })

const PROGRAM = new URL('../deploy/examples/receive-webhooks.mjs', import.meta.url).pathname
const BODY = '{"type":"user.created","timestamp":"2026-11-24T20:00:00.000Z","data":{"user_id":"u-1"}}'

interface Message {
  id: string
  at: Date
  secret: string
  /** As it is signed. */
  body: string
  /** As it arrives. */
  sent: string
}

async function startExample(secrets = [newWebhookSecret()]) {
  const child = spawn(process.execPath, [PROGRAM], {
    env: { ...NODE_ENVIRONMENT, PORT: '0', WEBHOOK_SECRETS: secrets.join(',') },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let output = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text))
  onTestFinished(async () => {
    child.kill('SIGKILL')
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
  })
  const port = await until('the example to listen', () => /listening on (\d+)/.exec(output)?.[1], 15_000)
  const client = createClient(`http://127.0.0.1:${port}`)
  onTestFinished(() => client.close())
  return {
    port: Number(port),
    url: `http://127.0.0.1:${port}/`,
    output: () => output,
    /** Signed by the reference library. */
    async send(own: Partial<Message> = {}) {
      const { id, at, secret, body } = {
        id: randomUUID(),
        at: new Date(),
        secret: secrets[0] ?? '',
        body: BODY,
        ...own,
      }
      const headers = {
        'content-type': 'application/json',
        'webhook-id': id,
        'webhook-timestamp': String(Math.floor(at.getTime() / 1_000)),
        'webhook-signature': new Webhook(secret).sign(id, at, body),
      }
      return (await client.send('POST', '/', { headers, body: own.sent ?? body })).status
    },
  }
}

const minutesAgo = (minutes: number) => new Date(Date.now() - minutes * 60_000)

test('takes an event of the last five minutes, and none that is replayed after six', async () => {
  const { send, output } = await startExample()
  expect(await send()).toBe(204)
  expect(await send({ at: minutesAgo(4) })).toBe(204)
  expect(await send({ at: minutesAgo(6) })).toBe(401)
  expect(await send({ at: minutesAgo(-6) })).toBe(401)
  expect(output().match(/user\.created u-1/g)).toHaveLength(2)
})

test('takes an event once, and says so each time', async () => {
  const { send, output } = await startExample()
  const id = randomUUID()
  expect([await send({ id }), await send({ id }), await send({ id })]).toEqual([204, 204, 204])
  expect(output().match(/user\.created/g)).toHaveLength(1)
})

test('refuses what is signed by somebody else, and what was changed', async () => {
  const { send, output } = await startExample()
  expect(await send({ secret: newWebhookSecret() })).toBe(401)
  expect(await send({ sent: BODY.replace('u-1', 'u-2') })).toBe(401)
  expect(await send({ sent: `${BODY} ` })).toBe(401)
  expect(output()).not.toContain('user.created')
})

test('knows the old secret and the new one', async () => {
  const secrets = [newWebhookSecret(), newWebhookSecret()]
  const { send } = await startExample(secrets)
  expect([await send({ secret: secrets[0] ?? '' }), await send({ secret: secrets[1] ?? '' })]).toEqual([
    204, 204,
  ])
})

test('takes what the worker sends', async () => {
  const secret = newWebhookSecret()
  const { port, url, output } = await startExample([secret])
  const harness = await startHarness()
  const { env } = await newDatabase()
  const receiver = { port, url, secret } as Receiver
  const settings = { ...env, ...webhookEnvironment([{ receiver }]) }
  const worker = await startWorkerProcess(workerEnvironment(harness.env, settings))
  const { body } = await harness.login({ code: harness.wechat.issueCode().code })
  await until('the event', () => output().includes('user.created'), 20_000)
  const session = await until('the user id', async () => {
    const reply = await harness.get('/session', body.token)
    return reply.body.user_id
  })
  expect(output()).toContain(`user.created ${session}`)
  await until(
    'it to be counted',
    async () => (await workerMetric(worker, 'webhook_deliveries_total', { outcome: 'delivered' })) === 1,
  )
})
