/** WEBHOOKS_FILE: what it takes, and what it refuses with a word on why. */
import { describe, expect, test } from 'vitest'
import { loadWorkerConfig } from '../src/config.ts'
import { faultsOf, writeTemporary } from './harness/configuration.ts'
import { newWebhookSecret } from './harness/webhook-receiver.ts'
import { INSIDE_HOSTS } from './harness/webhooks.ts'

const entry = (own: Record<string, unknown> = {}) => ({
  name: 'orders',
  url: 'https://receiver.example/hooks',
  secrets: [newWebhookSecret()],
  ...own,
})

const faults = (entries: unknown, own: Record<string, string> = {}) =>
  faultsOf({ WEBHOOKS_FILE: writeTemporary(JSON.stringify(entries)), ...own }, loadWorkerConfig)

describe('the configuration', () => {
  test('takes what is sound', () => {
    expect(faults([])).toEqual([])
    expect(faults([entry(), entry({ name: 'crm', events: ['user.login'], include_openid: true })])).toEqual(
      [],
    )
    expect(faults([entry({ url: 'https://receiver.example:8443/' })])).toEqual([])
    const local = { WEBHOOK_PRIVATE_NETWORKS: '127.0.0.0/8', WEBHOOK_PORTS: '3999' }
    expect(faults([entry({ url: 'http://localhost:3999/' })], local)).toEqual([])
    expect(faults([entry({ url: 'http://127.0.0.1:3999/' })], local)).toEqual([])
  })

  test.each([
    ['http://receiver.example/', 'https://'],
    ['http://127.0.0.1:443/', 'https://'],
    ['ftp://receiver.example/', 'https://'],
    ['unix:/var/run/docker.sock', 'https://'],
    ['https://user:pw@receiver.example/', 'neither user nor password'],
    ['https://user@receiver.example/', 'neither user nor password'],
    ['https://receiver.example:22/', 'WEBHOOK_PORTS'],
    ['https://receiver.example:6379/', 'WEBHOOK_PORTS'],
    ['receiver.example', 'https://'],
    ...INSIDE_HOSTS.map((host) => [`https://${host}/`, 'not public'] as const),
  ] as const)('refuses the address %s', (url, why) => {
    const found = faults([entry({ url })])
    expect(found).toHaveLength(1)
    expect(found[0]).toMatch(/^WEBHOOKS_FILE entry 1: url /)
    expect(found[0]).toContain(why)
    expect(found[0]).not.toContain('pw')
  })

  test.each([
    [{ name: 'No Name' }, 'name'],
    [{ secrets: [] }, 'secrets'],
    [{ secrets: ['secret'] }, 'secrets'],
    [{ secrets: [`whsec_${Buffer.alloc(16, 'abcdefgh').toString('base64')}`] }, 'secrets'],
    [{ secrets: [`whsec_${Buffer.alloc(32).toString('base64')}`] }, 'secrets'],
    [{ events: ['user.deleted'] }, 'events'],
    [{ events: [] }, 'events'],
    [{ include_openid: 'yes' }, 'include_openid'],
    [{ concurrency: 0 }, 'concurrency'],
    [{ includeOpenid: true }, 'field'],
  ])('refuses %j, and quotes nothing', (own, field) => {
    const found = faults([entry(own)])
    expect(found).toHaveLength(1)
    expect(found[0]).toContain(field)
  })

  test('refuses what is no list, what is no JSON, a name given twice, and loopback in production', () => {
    expect(faults({})[0]).toContain('JSON list')
    expect(faultsOf({ WEBHOOKS_FILE: writeTemporary('whsec_') }, loadWorkerConfig)).toEqual([
      'WEBHOOKS_FILE cannot be used (not JSON)',
    ])
    expect(faults([entry(), entry()])[0]).toContain('repeats the name')
    const production = { NODE_ENV: 'production', DATABASE_URL: 'postgres://db/' }
    expect(faults([], { ...production, WEBHOOK_PRIVATE_NETWORKS: '127.0.0.0/8' })[0]).toContain('loopback')
    expect(faults([], { ...production, WEBHOOK_PRIVATE_NETWORKS: '10.0.0.0/8' })).toEqual([])
  })
})
