/** Headers by which a client says who it is: addresses that are not its own, and ids of requests. */
import { describe, expect, test } from 'vitest'
import { startHarness } from './harness/gateway.ts'
import { MARK } from './harness/problem.ts'

const ALLOWED = 5
const LIMITED = { LIMIT_LOGIN_PER_IP: String(ALLOWED) }
/** The test's client is the load balancer. */
const BEHIND_PROXY = { ...LIMITED, TRUST_PROXY: '127.0.0.1/32,10.0.0.0/8' }

/** How many of 12 logins are let through when each comes with other headers. */
async function letThrough(
  env: Record<string, string>,
  headersOf: (index: number) => Record<string, string>,
): Promise<number> {
  const { login, wechat } = await startHarness({ env })
  const statuses = []
  for (const [index, { code }] of wechat.issueCodes(12).entries()) {
    statuses.push((await login({ code }, headersOf(index))).status)
  }
  expect(statuses.filter((status) => status !== 200 && status !== 429)).toEqual([])
  return statuses.filter((status) => status === 200).length
}

describe('an address that a client claims', () => {
  test.each<[string, (index: number) => Record<string, string>]>([
    ['X-Forwarded-For', (index) => ({ 'x-forwarded-for': `203.0.113.${index}` })],
    ['a list in X-Forwarded-For', (index) => ({ 'x-forwarded-for': `203.0.113.${index}, 10.0.0.1` })],
    ['IPv6 in X-Forwarded-For', (index) => ({ 'x-forwarded-for': `2001:db8:${index}::1` })],
    ['garbage in X-Forwarded-For', (index) => ({ 'x-forwarded-for': `${MARK}${index}` })],
    ['Forwarded', (index) => ({ forwarded: `for=203.0.113.${index}` })],
    ['X-Real-IP', (index) => ({ 'x-real-ip': `203.0.113.${index}` })],
    ['CF-Connecting-IP', (index) => ({ 'cf-connecting-ip': `203.0.113.${index}` })],
    ['True-Client-IP', (index) => ({ 'true-client-ip': `203.0.113.${index}` })],
    ['X-Client-IP', (index) => ({ 'x-client-ip': `203.0.113.${index}` })],
  ])('in %s counts for nothing without a proxy', async (_what, headersOf) => {
    expect(await letThrough(LIMITED, headersOf)).toBe(ALLOWED)
  })

  test.each<[string, (index: number) => string]>([
    ['before the one the proxy has added', (index) => `203.0.113.${index}, 198.51.100.7`],
    ['before it, in many', (index) => `${'203.0.113.9, '.repeat(index * 10)}198.51.100.7`],
    ['before two proxies', (index) => `203.0.113.${index}, 198.51.100.7, 10.1.2.3`],
    ['as garbage before it', (index) => `${MARK}${index}, <script>, 198.51.100.7`],
    ['as nothing before it', (index) => `${','.repeat(index)} 198.51.100.7`],
    ['as garbage alone', (index) => `${MARK}-${index}`],
    ['with a port', (index) => `198.51.100.7:${1_000 + index}`],
    ['as a path', (index) => `unix:/run/${index}`],
    ['as a number', (index) => String(3_325_256_711 + index)],
    ['in octal', (index) => `0306.063.0144.0${index}`],
  ])('%s gives nobody more than the limit', async (_what, addressOf) => {
    const headersOf = (index: number) => ({ 'x-forwarded-for': addressOf(index) })
    expect(await letThrough(BEHIND_PROXY, headersOf)).toBe(ALLOWED)
  })

  test('is one address however it is written', async () => {
    const spellings = [
      '1.2.3.4',
      '::ffff:1.2.3.4',
      '::ffff:102:304',
      '0:0:0:0:0:ffff:102:304',
      '64:ff9b::1.2.3.4',
      '::FFFF:0102:0304',
    ]
    const headersOf = (index: number) => ({ 'x-forwarded-for': spellings[index % spellings.length] ?? '' })
    expect(await letThrough(BEHIND_PROXY, headersOf)).toBe(ALLOWED)
  })

  test('is one subscriber within a /64', async () => {
    expect(
      await letThrough(BEHIND_PROXY, (index) => ({
        'x-forwarded-for': `2001:db8:1:2:${index}:${index}:abcd:1`,
      })),
    ).toBe(ALLOWED)
  })

  // Or else all of this would hold because nothing is ever told apart.
  test('is believed of the proxy, and other addresses have limits of their own', async () => {
    expect(await letThrough(BEHIND_PROXY, (index) => ({ 'x-forwarded-for': `198.51.100.${index}` }))).toBe(12)
  })
})

describe('an id of a request', () => {
  test.each([
    '',
    'short',
    'x'.repeat(65),
    'x'.repeat(4_000),
    `${MARK} with blanks`,
    `{"${MARK}":1}`,
    `<script>${MARK}</script>`,
    `${MARK}_underscore`,
    `../../${MARK}`,
    `${MARK}%0d%0aset-cookie:x`,
    `${MARK}12345678;x=1`,
    '\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9',
  ])('that is none (%j) is replaced by one of ours', async (id) => {
    const { send } = await startHarness()
    const reply = await send('GET', '/livez', { headers: { 'x-request-id': id } })
    expect(reply.status).toBe(200)
    expect(reply.headers['x-request-id']).toMatch(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/)
  })

  test('that is one is kept', async () => {
    const { send } = await startHarness()
    const reply = await send('GET', '/livez', { headers: { 'x-request-id': 'edge-7f3a91c2' } })
    expect(reply.headers['x-request-id']).toBe('edge-7f3a91c2')
  })
})
