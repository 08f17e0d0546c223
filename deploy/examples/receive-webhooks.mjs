/**
 * A receiver of the gateway's webhooks (Standard Webhooks 1.0.0), with nothing but Node.
 * Run: WEBHOOK_SECRETS=whsec_… node receive-webhooks.mjs
 *
 *   WEBHOOK_SECRETS   this endpoint's secrets, comma list: while one is rotated, the new and the old
 *   PORT              0 takes a free one
 *
 * It takes what is signed, of the last five minutes, and each event once. Put `known` into your database, in the
 * transaction that acts on the event: an event may come again after hours, and after this process has ended.
 */
import { createHmac, timingSafeEqual } from 'node:crypto'
import { createServer } from 'node:http'

const { WEBHOOK_SECRETS = '', PORT = '8090' } = process.env
const secrets = WEBHOOK_SECRETS.split(',')
  .filter((secret) => secret.startsWith('whsec_'))
  .map((secret) => Buffer.from(secret.slice('whsec_'.length), 'base64'))
if (secrets.length === 0) throw new Error('WEBHOOK_SECRETS is required')

/** Both ways: a message that is recorded and sent again later is refused, and so is one from the future. */
const TOLERANCE_SECONDS = 5 * 60
const BODY_BYTES_MAX = 20_000
const KNOWN_MAX = 100_000

/** The ids that were taken. */
const known = new Set()

/** What is wrong with a message, if anything. @param body its bytes as they came, before anything parses them */
function faultOf({ id, timestamp, signature }, body) {
  if (!id || !/^\d{1,12}$/.test(timestamp ?? '') || !signature) return 'a header is missing'
  if (Math.abs(Date.now() / 1_000 - Number(timestamp)) > TOLERANCE_SECONDS) return 'too old, or too new'
  const given = signature
    .split(' ')
    .filter((each) => each.startsWith('v1,'))
    .map((each) => Buffer.from(each.slice('v1,'.length), 'base64'))
  const isSigned = secrets.some((secret) => {
    const expected = createHmac('sha256', secret).update(`${id}.${timestamp}.`).update(body).digest()
    return given.some((mac) => mac.length === expected.length && timingSafeEqual(mac, expected))
  })
  return isSigned ? undefined : 'no signature fits'
}

/** Yours. What it throws is answered with 500, and the event comes again. */
async function act({ type, timestamp, data }) {
  console.log(`${timestamp} ${type} ${data.user_id ?? data.sub}`)
}

async function answer(request, response) {
  const chunks = []
  let bytes = 0
  for await (const chunk of request) {
    bytes += chunk.length
    if (bytes > BODY_BYTES_MAX) return response.writeHead(413, { connection: 'close' }).end()
    chunks.push(chunk)
  }
  const body = Buffer.concat(chunks)
  const { 'webhook-id': id, 'webhook-timestamp': timestamp, 'webhook-signature': signature } = request.headers
  const fault = faultOf({ id, timestamp, signature }, body)
  if (fault !== undefined) return response.writeHead(401, { 'content-type': 'text/plain' }).end(`${fault}\n`)
  if (!known.has(id)) {
    await act(JSON.parse(body))
    if (known.size >= KNOWN_MAX) known.delete(known.values().next().value)
    known.add(id)
  }
  response.writeHead(204).end() // also the second time, or it would come a third
}

const server = createServer((request, response) => {
  answer(request, response).catch(() => response.destroyed || response.writeHead(500).end())
})
server.listen(Number(PORT), '127.0.0.1', () => console.log(`listening on ${server.address().port}`))
