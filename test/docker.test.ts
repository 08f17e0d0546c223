/**
 * Dockerfile and docker-compose.yml against the code: ports, paths, times and users that stand in two places are the same.
 * That it works is for `npm run compose:check`, which wants an engine.
 */
import { spawnSync } from 'node:child_process'
import { createPrivateKey, X509Certificate } from 'node:crypto'
import { existsSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { makeCertificate } from '../deploy/compose/certificate.ts'
import { GATEWAY_CLOSE_MS_MAX, WORKER_CLOSE_MS_MAX } from '../src/closing.ts'
import { SETTINGS } from '../src/settings.ts'
import { absence, DAEMON_PATH } from './harness/load-balancers.ts'
import { readSource } from './harness/sources.ts'

interface Service {
  image: string
  user?: string
  command?: string[]
  scale?: number
  build?: { target: string }
  environment?: Record<string, string | number>
  ports?: string[]
  volumes?: string[]
  networks?: string[]
  tmpfs?: string[]
  profiles?: string[]
  restart?: string
  stop_grace_period?: string
  cap_drop?: string[]
  security_opt?: string[]
  read_only?: boolean
  init?: boolean
  mem_limit?: string
  pids_limit?: number
  logging?: { options: Record<string, string> }
  depends_on?: Record<string, { condition: string }>
}

interface ComposeFile {
  services: Record<string, Service>
  networks: Record<string, { internal?: boolean } | null>
  volumes: Record<string, null>
}

const dockerfile = readSource('Dockerfile')
const compose = parse(readSource('docker-compose.yml'), { merge: true }) as ComposeFile
const HAPROXY_CONFIG = new URL('../deploy/load-balancers/haproxy.cfg', import.meta.url).pathname
const services = Object.entries(compose.services)
const setup = readSource('deploy/compose/setup.ts')

/** What a stage of the Dockerfile says, and the stages it is made from. */
function stage(name: string): string {
  const [, from = '', body = ''] =
    new RegExp(String.raw`^FROM (\S+) AS ${name}$([\s\S]*?)(?=^FROM |$(?![\s\S]))`, 'm').exec(dockerfile) ??
    []
  return /^[a-z-]+$/.test(from) && from !== 'scratch' ? stage(from) + body : body
}

function environment(text: string): Record<string, string> {
  const lines = text.split('\n').filter((line) => line.startsWith('ENV '))
  return Object.fromEntries(
    lines.flatMap((line) => [...line.matchAll(/(\w+)=(\S+)/g)].map(([, name, value]) => [name, value])),
  )
}

function service(name: string): Service {
  const found = compose.services[name]
  if (found === undefined) throw new Error(`there is no service ${name}`)
  return found
}

const isSetting = (variable: string) => variable in SETTINGS || variable.replace(/_FILE$/, '') in SETTINGS

const milliseconds = (text = '') => Number(/^(\d+)s$/.exec(text)?.[1]) * 1000

describe('the Dockerfile', () => {
  const images = ['gateway', 'worker', 'simulator']

  test('uses the Node that the tests run on', () => {
    const { optionalDependencies } = JSON.parse(readSource('package.json')) as {
      optionalDependencies: Record<string, string>
    }
    const versions = new Set(Object.values(optionalDependencies))
    expect([...versions].map((version) => `node:${version}-slim`)).toEqual([
      /^ARG NODE_IMAGE=(\S+)$/m.exec(dockerfile)?.[1],
    ])
  })

  test.each(images)('of the %s starts a program that there is, as a user that is not root', (name) => {
    const [, program = ''] = /^CMD \["(\S+)\.js"\]$/m.exec(stage(name)) ?? []
    expect(existsSync(new URL(`../${program}.ts`, import.meta.url))).toBe(true)
    expect(stage(name)).toMatch(/^USER [1-9]\d*:[1-9]\d*$/m)
    expect(environment(stage(name))['NODE_ENV']).toBe('production')
  })

  test.each([
    ['gateway', ['PORT', 'ADMIN_PORT']],
    ['worker', ['WORKER_PORT']],
  ] as const)(
    'of the %s exposes the ports that it listens on, and asks one of them for its health',
    (name, variables) => {
      const text = stage(name)
      const ports = variables.map((variable) => SETTINGS[variable].shownDefault)
      expect(variables.map((variable) => environment(text)[variable])).toEqual(ports)
      expect(/^EXPOSE (.*)$/m.exec(text)?.[1]?.split(' ')).toEqual(ports)
      expect(/^HEALTHCHECK .* CMD \["node", "deploy\/docker\/health\.js", "(\w+)"\]$/m.exec(text)?.[1]).toBe(
        variables[0],
      )
    },
  )

  test('gets nothing that it does not name: no secret, no data, no history', () => {
    const [first, ...rest] = readSource('.dockerignore')
      .split('\n')
      .filter((line) => !/^(#|$)/.test(line))
    expect(first).toBe('*')
    const added = rest.filter((line) => line.startsWith('!')).map((line) => line.slice(1))
    expect(added.filter((path) => !existsSync(new URL(`../${path}`, import.meta.url)))).toEqual([])
    expect(added.filter((path) => /^(\.env|\.git|\.data|secrets|node_modules|test)$/.test(path))).toEqual([])
  })
})

describe('docker-compose.yml', () => {
  test('confines every service, bounds it, and starts it again', () => {
    for (const [name, found] of services) {
      expect({ name, ...found }).toMatchObject({
        read_only: true,
        init: true,
        cap_drop: ['ALL'],
        security_opt: ['no-new-privileges:true'],
        restart: ['setup', 'demo'].includes(name) ? 'no' : 'unless-stopped',
      })
      expect({ name, memory: found.mem_limit, log: found.logging?.options['max-size'] }).toEqual({
        name,
        memory: expect.stringMatching(/^\d+[mg]$/) as string,
        log: expect.stringMatching(/^\d+m$/) as string,
      })
    }
  })

  test('gives time to end: what the code takes at most, and room', () => {
    const gatewayMs = Number(SETTINGS.DRAIN_DELAY_MS.shownDefault) + GATEWAY_CLOSE_MS_MAX
    expect(milliseconds(service('gateway').stop_grace_period)).toBeGreaterThan(gatewayMs)
    expect(milliseconds(service('worker').stop_grace_period)).toBeGreaterThan(WORKER_CLOSE_MS_MAX)
  })

  test('names settings that there are, and files that setup writes', () => {
    for (const name of ['gateway', 'worker']) {
      const { environment: values = {} } = service(name)
      const variables = Object.keys(values).filter((variable) => variable !== 'NODE_EXTRA_CA_CERTS')
      expect(variables.filter((variable) => !isSetting(variable))).toEqual([])
      const files = Object.values(values).filter((value) => String(value).startsWith('/run/setup/'))
      for (const file of files) expect(setup).toContain(`'${String(file).slice('/run/setup/'.length)}'`)
      const given = Object.keys(values).filter((variable) => !variable.endsWith('_FILE'))
      const secrets = Object.entries(SETTINGS).filter(([, { secret }]) => secret)
      expect(given.filter((variable) => secrets.some(([secret]) => secret === variable))).toEqual([])
    }
  })

  test('says how many gateways there are', () => {
    expect(service('gateway').environment?.['GATEWAY_COUNT']).toBe(service('gateway').scale)
  })

  test('has the load balancer and Prometheus ask where the listeners are', () => {
    const { environment: balancer } = service('load-balancer')
    expect(balancer?.['GATEWAYS']).toBe(`gateway:${SETTINGS.PORT.shownDefault}`)
    const { scrape_configs: jobs } = parse(readSource('deploy/compose/prometheus.yml')) as {
      scrape_configs: { dns_sd_configs: { names: string[]; port: number }[] }[]
    }
    const targets = jobs
      .flatMap(({ dns_sd_configs: found }) => found)
      .map(({ names, port }) => `${names.join(',')}:${port}`)
    expect(targets).toEqual([
      `gateway:${SETTINGS.ADMIN_PORT.shownDefault}`,
      `worker:${SETTINGS.WORKER_PORT.shownDefault}`,
      `load-balancer${String(balancer?.['STATUS_LISTEN'])}`,
    ])
    const shared = (one: string, other: string) =>
      service(one).networks?.filter((network) => service(other).networks?.includes(network))
    expect(shared('load-balancer', 'gateway')).toContain('frontend')
    for (const scraped of ['gateway', 'worker', 'load-balancer'])
      expect(shared('prometheus', scraped)).toContain('monitoring')
  })

  test('publishes what clients ask and, to this machine alone, what its operator asks', () => {
    const published = services.flatMap(([name, { ports = [] }]) => ports.map((port) => `${name} ${port}`))
    expect(published).toEqual([
      'load-balancer ${PUBLIC_ADDRESS:-127.0.0.1}:${PUBLIC_PORT:-3000}:8080',
      'prometheus 127.0.0.1:${PROMETHEUS_PORT:-9099}:9090',
      'grafana 127.0.0.1:${GRAFANA_PORT:-3001}:3000',
      'simulator 127.0.0.1:${SIMULATOR_PORT:-3081}:3081',
    ])
    for (const network of ['frontend', 'stores', 'database', 'monitoring'])
      expect(compose.networks[network]).toEqual({ internal: true })
    for (const store of ['redis', 'postgres'])
      for (const network of service(store).networks ?? [])
        expect(compose.networks[network]).toEqual({ internal: true })
  })

  test('has setup write for the users that read', () => {
    const readers = Object.fromEntries(
      [...(/const READERS = \{([^}]*)\}/.exec(setup)?.[1] ?? '').matchAll(/(\w+): ([\d_]+)/g)].map(
        ([, name, id]) => [name, Number(id?.replaceAll('_', ''))],
      ),
    )
    const [, ours] = /^USER (\d+):/m.exec(dockerfile) ?? []
    for (const name of ['gateway', 'worker', 'simulator'])
      expect({ name, id: readers[name] }).toEqual({ name, id: Number(ours) })
    for (const name of ['redis', 'postgres'])
      expect({ name, id: String(readers[name]) }).toEqual({ name, id: service(name).user?.split(':')[0] })
    for (const name of Object.keys(readers)) {
      expect(service('setup').volumes).toContain(`secrets-${name}:/run/setup/${name}`)
      expect(service(name).volumes).toContain(`secrets-${name}:/run/setup:ro`)
    }
  })

  test('keeps each secret from whom it is not for', () => {
    for (const [name, { volumes = [] }] of services.filter(([service]) => service !== 'setup')) {
      const foreign = volumes.filter(
        (volume) => volume.startsWith('secrets-') && !volume.startsWith(`secrets-${name}:`),
      )
      expect({ name, foreign }).toEqual({ name, foreign: [] })
    }
  })

  test('keeps what waits in Redis, and drops nothing of it', () => {
    const command = service('redis').command?.join(' ')
    for (const option of [
      '--appendonly yes',
      '--maxmemory-policy noeviction',
      '--aclfile /run/setup/users.acl',
    ])
      expect(command).toContain(option)
  })

  test.skipIf(absence('haproxy'))(
    'gives HAProxy an environment with which its configuration is valid',
    () => {
      const env = { PATH: DAEMON_PATH, ...(service('load-balancer').environment as Record<string, string>) }
      const { status, stderr } = spawnSync('haproxy', ['-c', '-f', HAPROXY_CONFIG], { env, encoding: 'utf8' })
      expect({ status, stderr }).toMatchObject({ status: 0 })
    },
  )

  test('takes the images that the tests take', () => {
    const containers = readSource('test/harness/containers.ts')
    const standIns = readSource('test/compose/stand-in-images.sh')
    for (const name of ['redis', 'postgres']) expect(containers).toContain(`'${service(name).image}'`)
    for (const name of ['redis', 'postgres', 'load-balancer', 'prometheus'])
      expect(standIns).toContain(`=${service(name).image}\n`)
  })
})

test('the certificate of the simulated WeChat is for its name and its key', () => {
  const { key, certificate } = makeCertificate('simulator')
  const found = new X509Certificate(certificate)
  expect(found.checkHost('simulator')).toBe('simulator')
  expect(found.checkHost('api.weixin.qq.com')).toBeUndefined()
  expect(found.verify(found.publicKey)).toBe(true)
  expect(found.checkPrivateKey(createPrivateKey(key))).toBe(true)
  expect(new Date(found.validTo).getTime()).toBeGreaterThan(Date.now())
})
