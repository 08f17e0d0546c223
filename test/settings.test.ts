/** The forms in which settings may be given: files, lists, numbers, and the three ways to a Redis. */
import { tmpdir } from 'node:os'
import { describe, expect, test } from 'vitest'
import { loadGatewayConfig, loadWorkerConfig } from '../src/config.ts'
import type { Environment } from '../src/config.ts'
import { SETTINGS } from '../src/settings.ts'
import type { SettingName } from '../src/settings.ts'
import { faultsOf, soundEnvironment, writeTemporary } from './harness/configuration.ts'
import { newKey } from './harness/environment.ts'

describe('X_FILE', () => {
  test('gives the value of X without the line end that editors leave', () => {
    const file = writeTemporary(`${soundEnvironment['ADMIN_TOKEN']}\n`)
    const config = loadGatewayConfig({ ...soundEnvironment, ADMIN_TOKEN: undefined, ADMIN_TOKEN_FILE: file })
    expect(config.adminToken.reveal()).toBe(soundEnvironment['ADMIN_TOKEN'])
  })

  test('works for every variable', () => {
    for (const [name, { shownDefault }] of Object.entries(SETTINGS)) {
      const value = soundEnvironment[name] ?? shownDefault
      if (!value || `${name}_FILE` in SETTINGS) continue
      const file = writeTemporary(value)
      expect(faultsOfBoth({ [name]: undefined, [`${name}_FILE`]: file })).toEqual([])
      expect(faultsOfBoth({ [name]: value, [`${name}_FILE`]: file })).toContain(
        `${name} is given twice, also as ${name}_FILE`,
      )
    }
  })

  test('beside X is refused, for nobody could tell which counts', () => {
    expect(faultsOf({ SEAL_KEYS_FILE: writeTemporary(newKey('s2')) })).toEqual([
      'SEAL_KEYS is given twice, also as SEAL_KEYS_FILE',
    ])
  })

  test.each([
    ['is not there', '/nonexistent/seal', 'ENOENT'],
    ['is a folder', tmpdir(), 'EISDIR'],
  ])('is refused when it %s', (_what, path, reason) => {
    const faults = faultsOf({ SEAL_KEYS: undefined, SEAL_KEYS_FILE: path })
    expect(faults).toEqual([`SEAL_KEYS cannot be read from the file in SEAL_KEYS_FILE (${reason})`])
  })

  test('is refused when it is empty: a secret that was not written is not a secret left out', () => {
    const faults = faultsOf({ REDIS_PASSWORD_FILE: writeTemporary('\n') })
    expect(faults).toEqual([expect.stringMatching(/^REDIS_PASSWORD .*empty/)])
  })
})

/** The apps of a file, and no other. */
function alone(content: string): Environment {
  return {
    WECHAT_APPID: undefined,
    WECHAT_SECRET: undefined,
    WECHAT_APPS_FILE: writeTemporary(content),
  }
}

describe('WECHAT_APPS_FILE', () => {
  const good = { appid: 'wxaaaaaaaaaaaaaaaa', secret: 'PLANTED0secret0of0an0app00000001' }
  test('gives several apps, also beside WECHAT_APPID', () => {
    const other = { appid: 'wxbbbbbbbbbbbbbbbb', secret: 'PLANTED0secret0of0an0app00000002' }
    const own = alone(JSON.stringify([good, other]))
    expect(loadGatewayConfig({ ...soundEnvironment, ...own }).apps.map((app) => app.appid)).toEqual([
      good.appid,
      other.appid,
    ])
    const { WECHAT_APPS_FILE } = own
    expect(loadGatewayConfig({ ...soundEnvironment, WECHAT_APPS_FILE }).apps).toHaveLength(3)
  })

  test.each([
    ['JSON cut short', `[{"appid": "wxaaaaaaaaaaaaaaaa", "secret": "PLANTED`],
    ['JSON with a bare word', `[{"appid": PLANTED}]`],
    ['no JSON at all', 'PLANTED'],
    ['an empty file', ''],
    ['an object instead of a list', JSON.stringify(good)],
    ['an empty list', '[]'],
    ['an entry that is null', '[null]'],
    ['an entry that is text', '["PLANTED"]'],
    ['an entry without secret', `[{"appid": "wxaaaaaaaaaaaaaaaa"}]`],
    ['an entry without appid', `[{"secret": "${good.secret}"}]`],
    ['an appid that is null', `[{"appid": null, "secret": "${good.secret}"}]`],
    ['an appid in a list', `[{"appid": ["wxaaaaaaaaaaaaaaaa"], "secret": "${good.secret}"}]`],
    ['a secret that is a number', `[{"appid": "wxaaaaaaaaaaaaaaaa", "secret": 1234567890123456}]`],
    ['a secret that is too short', `[{"appid": "wxaaaaaaaaaaaaaaaa", "secret": "PLANTED"}]`],
    ['an appid twice', JSON.stringify([good, good])],
  ])('with %s is refused, and nothing of it is shown', (_what, content) => {
    const faults = faultsOf(alone(content))
    expect(faults).toEqual([expect.stringMatching(/^WECHAT_APPS_FILE /)])
    expect(faults[0]).not.toContain('PLANTED')
  })

  test('that names the secret where the appid belongs, twice, does not show it', () => {
    const swapped = { appid: good.secret, secret: good.secret }
    expect(faultsOf(alone(JSON.stringify([swapped, swapped]))).join()).not.toContain('PLANTED')
  })

  test('that is not there is refused', () => {
    expect(faultsOf({ WECHAT_APPS_FILE: '/nonexistent' })).toEqual([
      'WECHAT_APPS_FILE cannot be used (ENOENT)',
    ])
  })

  test.each(['WECHAT_APPID', 'WECHAT_SECRET'])('without it, %s does not go alone', (name) => {
    expect(faultsOf({ [name]: undefined })).toEqual([expect.stringMatching(`^${name} is missing, while`)])
  })
})

const pushOf = (own: Environment) => loadGatewayConfig({ ...soundEnvironment, ...own }).apps[0]?.push

describe('the message push', () => {
  const token = 'PLANTEDtoken'
  const aesKey = 'PLANTED'.padEnd(43, 'A')

  test('has a token, and with a key it is encrypted; both may be two', () => {
    expect(pushOf({})).toBeUndefined()
    const plain = pushOf({ WECHAT_PUSH_TOKEN: token })
    expect([plain?.tokens.map((one) => one.reveal()), plain?.aesKeys]).toEqual([[token], []])
    const both = pushOf({ WECHAT_PUSH_TOKEN: `other,${token}`, WECHAT_PUSH_AES_KEY: `${aesKey},${aesKey}` })
    expect(both?.tokens.map((one) => one.reveal())).toEqual(['other', token])
    expect(both?.aesKeys.map((one) => one.reveal().length)).toEqual([32, 32])
  })

  test('stands in an entry of a file as well', () => {
    const app = { appid: 'wxaaaaaaaaaaaaaaaa', secret: 'PLANTED0secret0of0an0app00000001' }
    const load = (push: unknown, kind = 'wechat') => {
      const corpid = kind === 'wecom' ? { corpid: 'ww0123' } : {}
      return faultsOf(alone(JSON.stringify([{ ...app, kind, ...corpid, push }])))
    }
    for (const push of [{ token }, { token: [token, 'other'], aes_key: aesKey }])
      expect(load(push)).toEqual([])
    for (const push of [null, [], {}, { aes_key: aesKey }, { token: 7 }, { token: [token, token, token] }])
      expect(load(push)).toEqual([expect.stringMatching(/^WECHAT_APPS_FILE entry 1: push/)])
    for (const push of [{ token, aes_key: 'PLANTED' }, { token, mode: 'PLANTED' }, { token: ['PLANTED '] }])
      expect(load(push).join()).toMatch(/^WECHAT_APPS_FILE entry 1: push(?!.*PLANTED)/)
    expect(load({ token }, 'wecom')).toEqual([expect.stringContaining('has push')])
  })

  test('goes with an app, and a key with a token', () => {
    expect(faultsOf({ WECHAT_PUSH_AES_KEY: aesKey })).toEqual([
      'WECHAT_PUSH_TOKEN is missing, while WECHAT_PUSH_AES_KEY is given',
    ])
    const file = alone(JSON.stringify([{ appid: 'wxaaaaaaaaaaaaaaaa', secret: 'a'.repeat(32) }]))
    expect(faultsOf({ ...file, WECHAT_PUSH_TOKEN: token })).toEqual([
      expect.stringContaining('those of WECHAT_APPID, which is missing'),
    ])
  })
})

describe('Redis', () => {
  const targets = {
    REDIS_URL: 'redis://127.0.0.1:6379',
    REDIS_SENTINELS: '10.0.0.1:26379, 10.0.0.2:26379',
    REDIS_CLUSTER: 'redis-1:7000,redis-2:7000',
  }
  const none = { REDIS_URL: undefined, REDIS_SENTINELS: undefined, REDIS_CLUSTER: undefined }
  const names = Object.keys(targets) as (keyof typeof targets)[]

  test.each([
    ['REDIS_URL', 'standalone'],
    ['REDIS_SENTINELS', 'sentinel'],
    ['REDIS_CLUSTER', 'cluster'],
  ] as const)('is found by %s alone', (name, kind) => {
    const { redis } = loadGatewayConfig({ ...soundEnvironment, ...none, [name]: targets[name] })
    expect(redis.target.kind).toBe(kind)
  })

  test('is one: two of the three are refused, and none', () => {
    for (const [index, name] of names.entries()) {
      const next = names[(index + 1) % 3] ?? name
      expect(faultsOf({ ...none, [name]: targets[name], [next]: targets[next] })).toEqual([
        expect.stringMatching(/^only one of/),
      ])
    }
    expect(faultsOf(none)).toEqual([expect.stringMatching(/^REDIS_URL is missing/)])
    expect(faultsOf({ ...none, REDIS_SENTINELS: ',' })).toEqual([
      expect.stringMatching(/^REDIS_URL is missing/),
    ])
  })

  // The URL parser's error quotes the URL, password and all: such a URL must not get as far as the client.
  test.each([
    'redis://:PLANTED/word@host:6379',
    'redis://:PLANTED@host:99999',
    'redis://:PLANTED%zz@host:6379',
  ])('is refused when its URL cannot be taken apart: %s', (url) => {
    const faults = faultsOf({ REDIS_URL: url })
    expect(faults).toEqual([expect.stringMatching(/^REDIS_URL must be a URL/)])
    expect(faults.join()).not.toContain('PLANTED')
    const postgres = url.replace('redis', 'postgres')
    expect(faultsOf({ DATABASE_URL: postgres }, loadWorkerConfig)).toEqual([
      expect.stringMatching(/^DATABASE_URL must be a URL/),
    ])
  })
})

const faultsOfBoth = (own: Environment) => [...faultsOf(own), ...faultsOf(own, loadWorkerConfig)]
/** Whether the number itself is refused; that it contradicts another one is told in other words. */
const refuses = (name: SettingName, value: string) =>
  faultsOfBoth({ [name]: value }).some((fault) => fault.startsWith(`${name} must be a whole number`))

describe('a number', () => {
  const numbers = (Object.keys(SETTINGS) as SettingName[]).filter((name) =>
    /^\d+$/.test(SETTINGS[name].shownDefault ?? ''),
  )

  test.each(numbers)('%s is taken from its least to its greatest, and not beyond', (name) => {
    const [told = ''] = faultsOfBoth({ [name]: 'none' })
    const [, min = 0, max = 0] = /from (\d+) to (\d+)$/.exec(told)?.map(Number) ?? []
    expect(max).toBeGreaterThan(min)
    expect([min, max].map((value) => refuses(name, String(value)))).toEqual([false, false])
    expect([min - 1, max + 1].map((value) => refuses(name, String(value)))).toEqual([true, true])
    expect(refuses(name, SETTINGS[name].shownDefault ?? '')).toBe(false)
  })

  test.each(['1e3', '0x10', '1.5', '+80', '-1', ' 80', '８０', 'NaN', 'Infinity', '9'.repeat(400)])(
    'is written in digits: %j is none',
    (text) => {
      expect(numbers.map((name) => refuses(name, text))).toEqual(numbers.map(() => true))
    },
  )
})

describe('lists', () => {
  test.each(['10.0.0.0/8', '10.0.0.1', '::1', 'fd00::/8', ' 10.0.0.0/8 , 192.168.0.0/16,'])(
    'TRUST_PROXY takes %j',
    (value) => {
      expect(faultsOf({ TRUST_PROXY: value })).toEqual([])
    },
  )

  // Fastify would end the start with a stack trace; /0 would let every client choose its address.
  test.each([
    '10.0.0.0/33',
    '10.0.0.0/0',
    '::/0',
    'fd00::/129',
    '10.0.0',
    'deadbeef',
    '10.0.0.0/8/8',
    'true',
    '1',
  ])('TRUST_PROXY does not take %j', (value) => {
    expect(faultsOf({ TRUST_PROXY: value })).toEqual([expect.stringMatching(/^TRUST_PROXY must/)])
  })

  test.each([
    'https://api.weixin.qq.com/',
    'https://a:99999',
    'https://[',
    'https://u:p@a',
    'api.weixin.qq.com',
  ])('WECHAT_API_URLS does not take %j', (value) => {
    expect(faultsOf({ WECHAT_API_URLS: value })).toEqual([expect.stringMatching(/^WECHAT_API_URLS must/)])
  })

  test('WECHAT_API_URLS names at least one', () => {
    expect(faultsOf({ WECHAT_API_URLS: ',' })).toEqual(['WECHAT_API_URLS is empty'])
  })

  test.each(['h', 'h:', 'h:0', 'h:65536', ':1', 'h h:1', 'h:1:x'])(
    'REDIS_CLUSTER does not take %j',
    (value) => {
      expect(faultsOf({ REDIS_URL: undefined, REDIS_CLUSTER: value })).toEqual([
        expect.stringMatching(/^REDIS_CLUSTER must/),
      ])
    },
  )
})
