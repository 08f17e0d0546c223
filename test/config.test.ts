/** The configuration: what is wrong is refused before anything starts, all of it at once, and shown nowhere. */
import { randomBytes } from 'node:crypto'
import { inspect } from 'node:util'
import { describe, expect, test } from 'vitest'
import { ConfigError, loadGatewayConfig, loadWorkerConfig } from '../src/config.ts'
import type { Environment } from '../src/config.ts'
import { SETTINGS } from '../src/settings.ts'
import type { SettingName } from '../src/settings.ts'
import { faultsOf, soundEnvironment } from './harness/configuration.ts'
import { newKey } from './harness/environment.ts'

describe('a sound configuration', () => {
  test('needs six variables, the rest has defaults', () => {
    const config = loadGatewayConfig(soundEnvironment)
    expect(config).toMatchObject({
      host: '0.0.0.0',
      port: 3000,
      adminHost: '127.0.0.1',
      adminPort: 9090,
      loginDeadlineMs: 3_000,
      exposeOpenid: true,
      wechatApiUrls: ['https://api.weixin.qq.com', 'https://api2.weixin.qq.com'],
    })
    expect(config.adminToken.reveal()).toBe(soundEnvironment['ADMIN_TOKEN'])
  })

  test('shows none of its secrets when it is printed, inspected or serialised', () => {
    const env: Environment = {
      ...soundEnvironment,
      REDIS_URL: 'redis://:PLANTED-redis@127.0.0.1:6379',
      REDIS_PASSWORD: 'PLANTED-pw',
    }
    const config = loadGatewayConfig(env)
    const shown = [
      inspect(config, { depth: 9, showHidden: true }),
      JSON.stringify(config),
      String(config.adminToken),
    ]
    const keyBytes = [env['SEAL_KEYS'], env['TOKEN_KEYS']].map((key) => key?.slice('s1:'.length))
    for (const secret of ['PLANTED', env['ADMIN_TOKEN'], env['WECHAT_SECRET'], ...keyBytes]) {
      expect(shown.join('\n')).not.toContain(secret)
    }
  })

  test('an empty variable counts as absent', () => {
    expect(faultsOf({ PORT: '', TRUST_PROXY: '', KEY_PREFIX: '', SEAL_KEYS_FILE: '' })).toEqual([])
  })
})

describe('a faulty configuration', () => {
  test('is told in one message that names every fault', () => {
    const faults = faultsOf({
      PORT: '70000',
      EXPOSE_OPENID: 'yes',
      LOG_LEVEL: 'loud',
      ADMIN_TOKEN: undefined,
      WECHAT_APPID: undefined,
      WECHAT_SECRET: undefined,
      WECHAT_API_URLS: 'ftp://x',
      REDIS_URL: undefined,
      REDIS_COMMAND_TIMEOUT_MS: '0',
      SEAL_KEYS: undefined,
      TOKEN_KEYS: 't1:short',
      TRUST_PROXY: 'everybody',
    })
    const named = [
      /^PORT must/,
      /^EXPOSE_OPENID must/,
      /^LOG_LEVEL must/,
      /^ADMIN_TOKEN is missing/,
      /^no Mini Program/,
      /^WECHAT_API_URLS must/,
      /^REDIS_URL is missing/,
      /^REDIS_COMMAND_TIMEOUT_MS must/,
      /^SEAL_KEYS is missing/,
      /^TOKEN_KEYS, key 1/,
      /^TRUST_PROXY must/,
    ]
    for (const name of named) expect(faults).toContainEqual(expect.stringMatching(name))
    expect(faults).toHaveLength(named.length)
  })

  test.each([
    ['ADMIN_TOKEN', 'short'],
    ['WECHAT_APPID', 'wx!'],
    ['WECHAT_SECRET', 'short'],
    ['WECHAT_PUSH_TOKEN', 'a,b,c'],
    ['WECHAT_PUSH_AES_KEY', 'short'],
    ['REDIS_URL', '127.0.0.1'],
    ['SEAL_KEYS', 's1'],
    ['WECHAT_APPS_FILE', '/nonexistent'],
    ['DATABASE_URL', 'mysql://x'],
  ])('a malformed %s is one fault: it is not called missing as well', (name, value) => {
    const load = name === 'DATABASE_URL' ? loadWorkerConfig : loadGatewayConfig
    const faults = faultsOf({ NODE_ENV: 'production', [name]: value }, load)
    expect(faults.filter((fault) => !fault.startsWith('DATABASE_URL is missing'))).toHaveLength(1)
    expect(faults[0]).toContain(name)
    expect(faults[0]).not.toContain('missing')
  })

  // Each variable is given something that no check lets pass; what it was must not be in the message.
  const planted = 'PLANTED value, with ä in it'
  test.each(Object.keys(SETTINGS) as SettingName[])('does not show the value of %s', (name) => {
    for (const value of [planted, `s1:${planted}`, `redis://:${planted}@h:1`, `https://${planted}`]) {
      for (const load of [loadGatewayConfig, loadWorkerConfig]) {
        expect(faultsOf({ [name]: value }, load).join('\n')).not.toContain('PLANTED')
      }
    }
  })
})

test('the message of a faulty configuration holds all its faults, a line each', () => {
  const message = new ConfigError(['A is missing', 'B must be a number']).message
  expect(message.split('\n').slice(1)).toEqual(['  - A is missing', '  - B must be a number'])
})

describe('a weak key', () => {
  const zeros = Buffer.alloc(32).toString('base64')
  const kinds: [kind: string, keys: string, told: RegExp][] = [
    ['too short', `k1:${randomBytes(31).toString('base64')}`, /32 bytes/],
    ['too long', `k1:${randomBytes(33).toString('base64')}`, /32 bytes/],
    ['all zeros', `k1:${zeros}`, /not random/],
    ['one byte repeated', `k1:${Buffer.alloc(32, 0xa7).toString('base64')}`, /not random/],
    ['a few bytes repeated', `k1:${Buffer.alloc(32, 'password').toString('base64')}`, /not random/],
    ['not base64', `k1:${'§'.repeat(44)}`, /kid:base64/],
    ['a pass phrase', 'k1:correct horse battery staple', /kid:base64/],
    ['without a kid', randomBytes(32).toString('base64'), /kid:base64/],
    ['with a kid that is too long', newKey('k23456789'), /kid:base64/],
    ['with a kid used twice', `${newKey('k1')},${newKey('k1')}`, /second time/],
    ['an empty entry', `${newKey('k1')},`, /kid:base64/],
  ]
  const rings = ['SEAL_KEYS', 'TOKEN_KEYS'] as const

  test.each(rings.flatMap((ring) => kinds.map((kind) => [ring, ...kind] as const)))(
    '%s: %s is refused',
    (ring, _kind, keys, told) => {
      const faults = faultsOf({ [ring]: keys })
      expect(faults).toEqual([expect.stringMatching(told)])
      expect(faults[0]).toContain(ring)
      for (const key of keys.split(',').filter((key) => key !== '')) {
        expect(faults[0]).not.toContain(key.split(':').at(-1))
      }
    },
  )

  test('behind a good one is refused, and told by its place', () => {
    expect(faultsOf({ SEAL_KEYS: `${newKey('s2')},s1:${zeros}` })).toEqual([
      expect.stringMatching(/^SEAL_KEYS, key 2 \(s1\)/),
    ])
  })

  test('the same key for both rings is refused, also under another kid', () => {
    const bytes = randomBytes(32).toString('base64')
    expect(faultsOf({ SEAL_KEYS: `a:${bytes}`, TOKEN_KEYS: `b:${bytes}` })).toEqual([
      expect.stringMatching(/same key/),
    ])
    const both = `${newKey('s2')},s1:${bytes}`
    expect(faultsOf({ SEAL_KEYS: both, TOKEN_KEYS: `${newKey('t2')},t1:${bytes}` })).toHaveLength(1)
  })

  test('several good ones in both rings are taken in their order', () => {
    const { sealKeys } = loadGatewayConfig({
      ...soundEnvironment,
      SEAL_KEYS: `${newKey('s2')}, ${newKey('s1')}`,
    })
    expect(sealKeys.map((key) => key.kid)).toEqual(['s2', 's1'])
    expect(sealKeys.map((key) => key.bytes.reveal().length)).toEqual([32, 32])
  })

  test.each(['a'.repeat(32), 'x', 'password password password', `${'0'.repeat(40)}1`])(
    'an ADMIN_TOKEN such as %j is refused',
    (token) => {
      const faults = faultsOf({ ADMIN_TOKEN: token })
      expect(faults).toEqual([expect.stringMatching(/^ADMIN_TOKEN /)])
      expect(faults[0]).not.toContain(token.length > 1 ? token : ' x ')
    },
  )
})

const inProduction = (WECHAT_API_URLS: string) => ({ NODE_ENV: 'production', WECHAT_API_URLS })

describe('in production', () => {
  const production = { NODE_ENV: 'production' }

  test('the same sound configuration is taken', () => {
    expect(faultsOf(production)).toEqual([])
  })

  test.each(['SEAL_KEYS', 'TOKEN_KEYS'])('a development key in %s is refused', (ring) => {
    expect(faultsOf({ [ring]: newKey('dev1') })).toEqual([])
    expect(faultsOf({ ...production, [ring]: newKey('dev1') })).toEqual([
      expect.stringMatching(/development/),
    ])
    expect(faultsOf({ ...production, [ring]: `${newKey('k2')},${newKey('dev1')}` })).toHaveLength(1)
  })

  test('the ADMIN_TOKEN of a development machine is refused', () => {
    const token = { ADMIN_TOKEN: `dev_${randomBytes(24).toString('base64url')}` }
    expect(faultsOf(token)).toEqual([])
    expect(faultsOf({ ...production, ...token })).toEqual([expect.stringMatching(/development/)])
  })

  test('WeChat is reached by https only, for the AppSecret travels in the address', () => {
    const refused = [expect.stringMatching(/https/)]
    expect(faultsOf(inProduction('http://api.weixin.qq.com'))).toEqual(refused)
    expect(faultsOf(inProduction('https://api.weixin.qq.com,http://api2.weixin.qq.com'))).toEqual(refused)
    expect(faultsOf(inProduction('http://127.0.0.1.example.com'))).toEqual(refused)
    expect(faultsOf(inProduction('http://localhost.example.com:80'))).toEqual(refused)
    // A simulator or proxy on the same machine: nothing leaves it.
    expect(faultsOf(inProduction('http://127.0.0.1:3080'))).toEqual([])
    expect(faultsOf({ WECHAT_API_URLS: 'http://wechat.test' })).toEqual([])
  })

  test('the worker wants a database of its own, and elsewhere does not', () => {
    expect(faultsOf(production, loadWorkerConfig)).toEqual([
      expect.stringMatching(/^DATABASE_URL is missing/),
    ])
    expect(faultsOf({}, loadWorkerConfig)).toEqual([])
  })
})

describe('the worker', () => {
  test('needs no key, token or secret of the gateway, and does not look for their files', () => {
    const { REDIS_URL } = soundEnvironment
    const files = { SEAL_KEYS_FILE: '/nonexistent', WECHAT_SECRET_FILE: '/nonexistent', ADMIN_TOKEN: 'short' }
    expect(loadWorkerConfig({ REDIS_URL, ...files })).toMatchObject({ port: 9091, concurrency: 128 })
  })

  test('shares what concerns both, and the gateway does not look for the file of its database', () => {
    expect(faultsOf({ REDIS_URL: undefined, WORKER_PORT: 'x' }, loadWorkerConfig)).toHaveLength(2)
    expect(faultsOf({ DATABASE_URL_FILE: '/nonexistent' })).toEqual([])
  })
})
