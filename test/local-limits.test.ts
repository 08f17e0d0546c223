/** Limits that a gateway counts for itself: guessed tokens (failures.md S-3), and users in a loop. */
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { connect } from 'node:net'
import { expect, test } from 'vitest'
import { createLocalLimits } from '../src/local-limits.ts'
import { startHarness } from './harness/gateway.ts'
import type { Harness } from './harness/gateway.ts'
import { expectProblem } from './harness/problem.ts'
import { ageSession, logIn } from './harness/session-values.ts'

/** The catalogue's 100,000 take three times as long and say the same. */
const GUESSES = 30_000
const CONNECTIONS = 10
const AT_ONCE = 20
const GUESSER = '203.0.113.66'

/** Asks as if over HTTP from that address. */
async function from(harness: Harness, remoteAddress: string, path: string, authorization?: string) {
  const { statusCode, body, headers } = await harness.gateway.app.inject({
    method: 'GET',
    url: path,
    remoteAddress,
    headers: authorization === undefined ? {} : { authorization },
  })
  const { 'x-request-id': _id, date: _date, ...others } = headers
  return { status: statusCode, body, headers: others }
}

/** Tokens that are wrong in every way there is, beside one that is right. */
async function wrongTokens(harness: Harness) {
  const [living, expired, revoked] = [await logIn(harness), await logIn(harness), await logIn(harness)]
  await ageSession(harness, expired.sub, { opened: 700_000 })
  await harness.delete('/session', revoked.token)
  const guess = (index: number): string => {
    const random = randomBytes(48).toString('base64url')
    switch (index % 8) {
      case 0:
        return expired.token
      case 1:
        return revoked.token
      case 2:
        return `wxs_${random.slice(0, 40)}`
      case 3:
        return random
      case 4:
        return `wxs_${living.sub}${random.slice(0, 32)}`
      case 5:
        return living.token.slice(0, -1) + (living.token.endsWith('A') ? 'B' : 'A')
      default:
        return `wxs_${random.slice(0, 54)}`
    }
  }
  return { living, guess }
}

/**
 * Sends requests on one connection, some at once, and gives each answer without what differs by request. A client
 * library would be most of the work.
 */
async function pipeline(url: string, heads: readonly string[]): Promise<string[]> {
  const { hostname, port } = new URL(url)
  const socket = connect({ host: hostname, port: Number(port) })
  const answers: string[] = []
  for (let from = 0; from < heads.length; from += AT_ONCE) {
    const batch = heads.slice(from, from + AT_ONCE)
    socket.write(batch.map((head) => `GET ${head}\r\nhost: gateway\r\n\r\n`).join(''))
    let text = ''
    let complete: string[] = []
    while (complete.length < batch.length) {
      const [chunk] = (await once(socket, 'data')) as [Buffer]
      text += chunk.toString('latin1')
      complete = text.match(/HTTP\/1\.1 [^{]*\{[^}]*\}/g) ?? []
    }
    answers.push(...complete)
  }
  socket.destroy()
  return answers.map((answer) => answer.replaceAll(/^(x-request-id|date): .*\r\n/gim, ''))
}

test('of 30,000 guessed tokens none hits, and unknown, expired, revoked and malformed ones look alike', {
  timeout: 120_000,
}, async () => {
  const harness = await startHarness()
  const { living, guess } = await wrongTokens(harness)
  const startedMs = performance.now()
  const answers = await Promise.all(
    Array.from({ length: CONNECTIONS }, (_, connection) =>
      pipeline(
        harness.url,
        Array.from({ length: GUESSES / CONNECTIONS }, (_, index) => {
          const path = index % 16 < 8 ? '/session' : '/auth'
          return `${path} HTTP/1.1\r\nauthorization: Bearer ${guess(connection + index)}`
        }),
      ),
    ),
  )
  console.log(`${GUESSES} guesses in ${((performance.now() - startedMs) / 1_000).toFixed(1)} s`)
  const different = new Set(answers.flat())
  expect(answers.flat()).toHaveLength(GUESSES)
  expect([...different]).toEqual([expect.stringMatching(/^HTTP\/1\.1 401 [\s\S]*"session_invalid"/)])
  expect((await harness.get('/auth', living.token)).status).toBe(200)
  expect(await harness.metric('session_validations_total', { outcome: 'valid' })).toBe(1)
})

test('an address that guesses is told to wait; who has a valid token there is let in, and others notice nothing', async () => {
  const harness = await startHarness({ env: { LIMIT_WRONG_TOKEN_PER_IP: '200' } })
  const { living, guess } = await wrongTokens(harness)
  const statuses: number[] = []
  for (let index = 0; index < 300; index += 1)
    statuses.push((await from(harness, GUESSER, '/session', `Bearer ${guess(index)}`)).status)
  expect(statuses).toEqual([...Array<number>(200).fill(401), ...Array<number>(100).fill(429)])

  const denied = new Set<string>()
  for (let index = 0; index < 16; index += 1) {
    const { body, headers } = await from(harness, GUESSER, '/session', `Bearer ${guess(index)}`)
    expect(Number(headers['retry-after'])).toBeGreaterThan(0)
    expect(Number(headers['retry-after'])).toBeLessThanOrEqual(62)
    denied.add(body)
  }
  denied.add((await from(harness, GUESSER, '/session')).body)
  expect(denied.size).toBe(1)
  expect([...denied][0]).toContain('"rate_limited"')

  for (const path of ['/session', '/sessions', '/auth'])
    expect((await from(harness, GUESSER, path, `Bearer ${living.token}`)).status).toBe(200)
  // The neighbour's address, and the same one in another notation.
  expect((await from(harness, '203.0.113.67', '/session', `Bearer ${guess(4)}`)).status).toBe(401)
  expect((await from(harness, `::ffff:${GUESSER}`, '/session', `Bearer ${guess(4)}`)).status).toBe(429)
  expect(await harness.metric('limit_total', { limit: 'wrong_token_per_ip', outcome: 'allowed' })).toBe(201)
  // Its login is another matter.
  expect((await harness.login({ code: harness.wechat.issueCode().code })).status).toBe(200)
})

test('a subscriber with a whole IPv6 network is one guesser', async () => {
  const harness = await startHarness({ env: { LIMIT_WRONG_TOKEN_PER_IP: '20' } })
  const statuses: number[] = []
  for (let host = 0; host < 25; host += 1)
    statuses.push((await from(harness, `2001:db8:1:2::${host.toString(16)}`, '/session')).status)
  expect(statuses.filter((status) => status === 401)).toHaveLength(20)
  expect((await from(harness, '2001:db8:1:3::1', '/session')).status).toBe(401)
})

// It is the proxy's address there, and nginx would make a failure of any other answer than 401 and 403.
test('at /auth nobody is counted and nobody told to wait', async () => {
  const harness = await startHarness({ env: { LIMIT_WRONG_TOKEN_PER_IP: '5' } })
  const { guess } = await wrongTokens(harness)
  for (let index = 0; index < 50; index += 1)
    expect((await from(harness, GUESSER, '/auth', `Bearer ${guess(index)}`)).status).toBe(401)
  expect((await from(harness, GUESSER, '/session', `Bearer ${guess(3)}`)).status).toBe(401)
  expect(await harness.metric('limit_total', { limit: 'wrong_token_per_ip', outcome: 'allowed' })).toBe(1)
})

test('one user makes so many JWTs a minute and no more, and others theirs', async () => {
  const harness = await startHarness({ env: { LIMIT_TOKEN_PER_USER: '3', JWT_AUDIENCES: 'orders' } })
  const [one, other] = [await logIn(harness), await logIn(harness)]
  const make = (token: string) => harness.post('/token', { audience: 'orders' }, token)
  for (let i = 0; i < 3; i += 1) expect((await make(one.token)).status).toBe(200)
  const denied = await make(one.token)
  expect(expectProblem(denied, 'the fourth').code).toBe('rate_limited')
  expect(Number(denied.headers['retry-after'])).toBeGreaterThan(0)
  expect((await make(other.token)).status).toBe(200)
})

test('one user asks for so many phone numbers a minute, and WeChat hears of no more', async () => {
  const harness = await startHarness({ env: { LIMIT_PHONE_PER_USER: '2' } })
  const { token } = await logIn(harness)
  const codes: string[] = []
  for (let i = 0; i < 4; i += 1) codes.push(randomBytes(32).toString('hex'))
  const statuses: number[] = []
  for (const code of codes) statuses.push((await harness.post('/session/phone', { code }, token)).status)
  expect(statuses.slice(2)).toEqual([429, 429])
  expect(statuses.slice(0, 2)).toEqual([400, 400]) // codes that WeChat does not know
  expect(await harness.metric('limit_total', { limit: 'phone_per_user', outcome: 'denied' })).toBe(2)
})

test('what is counted is bounded, and a count ends with its minute', () => {
  const limits = createLocalLimits({ wrongTokenPerIp: 1, tokenPerUser: 1, phonePerUser: 1 }, () => {})
  limits.spendToken('first')
  expect(() => limits.spendToken('first')).toThrow(expect.objectContaining({ code: 'rate_limited' }))
  for (let index = 0; index < 20_000; index += 1) limits.spendToken(`sub-${index}`)
  expect(() => limits.spendToken('sub-19999')).toThrow(expect.objectContaining({ code: 'rate_limited' }))
  limits.spendToken('first') // forgotten, for others came after it
})
