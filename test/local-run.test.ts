/**
 * `npm start` as a person meets it: started for real, in a folder and on ports of its own.
 *
 * The stories share one folder, because making the database is what takes long; each begins where the one
 * before it ended. Refusals, which start nothing, have a folder each.
 */
import { execFileSync, spawn } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { afterAll, afterEach, describe, expect, test } from 'vitest'
import { identify, isAlive } from '../deploy/local/process-id.ts'
import { freePort } from '../deploy/local/ports.ts'
import { startRedis } from '../deploy/local/redis-server.ts'
import { askRedis } from '../deploy/local/redis-wire.ts'
import { findOnPath } from '../deploy/local/run-command.ts'
import { pasteIntoBash } from './harness/curl.ts'
import { NODE_ENVIRONMENT } from './harness/node-environment.ts'

const repository = join(import.meta.dirname, '..')
const scratch = mkdtempSync(join(tmpdir(), 'local-run-'))
/** The first start makes a database, on a machine that runs other tests too. */
const READY_MS = 60_000
/** Within the longest patience with each part, and some. */
const END = { timeout: 15_000, interval: 50 }
const isLinux = process.platform === 'linux'

interface Run {
  readonly pid: number
  /** Everything printed so far. */
  readonly output: () => string
  readonly until: (pattern: RegExp) => Promise<void>
  readonly exitCode: Promise<number | null>
}

type Environment = Record<string, string>

const runs: Run[] = []

/** The two ports that may not move are given; the others find free ones by themselves. */
async function settings(dataDir: string): Promise<Environment> {
  const ports = { PORT: String(await freePort()), ADMIN_PORT: String(await freePort()) }
  return { ...NODE_ENVIRONMENT, HOME: scratch, DATA_DIR: dataDir, ...ports }
}

function start(env: Environment, command = [process.execPath, join(repository, 'deploy', 'local.ts')]): Run {
  const [file = '', ...args] = command
  // Not in the repository, where the developer's own .env would be read.
  const child = spawn(file, args, { cwd: scratch, env, stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      output += text
    })
  }
  const run: Run = {
    pid: child.pid ?? 0,
    output: () => output,
    async until(pattern) {
      await expect.poll(() => output, { timeout: READY_MS, interval: 20 }).toMatch(pattern)
    },
    exitCode: new Promise((resolve) => {
      child.once('close', resolve)
    }),
  }
  runs.push(run)
  return run
}

async function startReady(env: Environment, command?: string[]): Promise<Run> {
  const run = start(env, command)
  const ended = run.exitCode.then((code) => `exit code ${code}`)
  const result = await Promise.race([run.until(/Ready in/), ended])
  if (result !== undefined) throw new Error(`It ended with ${result}:\n${run.output()}`)
  return run
}

/** Expects the end with code 1, and gives what was printed. */
async function refusal(env: Environment): Promise<string> {
  const run = start(env)
  expect(await run.exitCode).toBe(1)
  return run.output().trim()
}

/** What was started for this folder and still runs: children inherit the environment. */
function processesOf(dataDir: string): number[] {
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name))
  return pids.map(Number).filter((pid) => {
    try {
      const environment = readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0')
      return environment.includes(`DATA_DIR=${dataDir}`) && isAlive(identify(pid))
    } catch {
      return false // it has ended meanwhile
    }
  })
}

/** Does what a person does with the printed line. */
async function pasteLogin(run: Run): Promise<string> {
  const lines = run.output().split('\n')
  const line = lines.find((text) => text.includes('curl -s')) ?? ''
  const { token } = object(await pasteIntoBash(line))
  return String(token)
}

async function session({ PORT }: Environment, token: string): Promise<Record<string, unknown>> {
  const response = await fetch(`http://127.0.0.1:${PORT}/session`, {
    headers: { authorization: `Bearer ${token}` },
  })
  return { status: response.status, ...object(await response.text()) }
}

/** The worker's and the gateway's process, in this order. */
function childrenOf(dataDir: string): number[] {
  const { children } = object(readFileSync(join(dataDir, 'local.lock.json'), 'utf8'))
  return (Array.isArray(children) ? children : []).map(({ pid }: { pid: number }) => pid)
}

function object(json: string): Record<string, unknown> {
  const value: unknown = JSON.parse(json)
  return typeof value === 'object' ? { ...value } : {}
}

afterEach(() => {
  for (const { pid } of runs.splice(0)) {
    if (isAlive(identify(pid))) process.kill(pid, 'SIGKILL') // its test has failed
  }
})
afterAll(() => rmSync(scratch, { recursive: true, force: true }))

describe.skipIf(!isLinux)('npm start', { timeout: 90_000 }, () => {
  const dataDir = join(scratch, 'stories')
  let env: Environment
  let token: string

  test('brings up everything, and the printed line logs in', async () => {
    env = await settings(dataDir)
    const run = await startReady(env)

    token = await pasteLogin(run)
    expect(token).toMatch(/^wxs_/)
    // Provisioned: the queue, the worker and the database did their part.
    await expect
      .poll(() => session(env, token), { timeout: 10_000 })
      .toMatchObject({ status: 200, provisioned: true })

    const secretsFile = join(dataDir, 'development-secrets.json')
    expect(statSync(secretsFile).mode & 0o777).toBe(0o600)
    const secrets = Object.values(object(readFileSync(secretsFile, 'utf8'))).map(String)
    expect(secrets).toHaveLength(4)
    for (const secret of secrets) expect(run.output()).not.toContain(secret)

    // A second start would spoil the database of the first.
    expect(await refusal(env)).toBe(
      `Already running: process ${run.pid} uses stories and listens on http://127.0.0.1:${env['PORT']}. ` +
        'End it with Ctrl-C there, or start a second one with its own DATA_DIR, PORT and ADMIN_PORT.',
    )

    process.kill(run.pid, 'SIGINT')
    expect(await run.exitCode).toBe(0)
    await expect.poll(() => processesOf(dataDir), END).toEqual([])
    expect(readFileSync(join(dataDir, 'logs', 'worker.log'), 'utf8')).toContain('the worker has stopped')
    expect(readFileSync(join(dataDir, 'logs', 'gateway.log'), 'utf8')).toContain('"msg":"closed"')
  })

  test('keeps sessions over a restart, and leaves nothing behind when killed', async () => {
    const first = await startReady(env)
    expect(await session(env, token)).toMatchObject({ status: 200 })
    process.kill(first.pid, 'SIGKILL')
    await first.exitCode

    // At once, while what the first had started is still ending and holds ports, Redis and the database.
    const second = await startReady(env)
    expect(await session(env, token)).toMatchObject({ status: 200 })
    process.kill(second.pid, 'SIGKILL')
    await second.exitCode
    await expect.poll(() => processesOf(dataDir), END).toEqual([])
  })

  test('stops as a whole when one part dies, and says why', async () => {
    const run = await startReady(env)
    process.kill(childrenOf(dataDir)[0] ?? 0, 'SIGKILL')
    expect(await run.exitCode).toBe(1)
    expect(run.output()).toMatch(
      /The worker ended unexpectedly \(signal SIGKILL\)\. Its last log lines.*:\n {2}\S/,
    )
    await expect.poll(() => processesOf(dataDir), END).toEqual([])
  })

  // npm passes Ctrl-C on, but a signal to npm alone ends npm and its shell and nobody else.
  test('ends when the npm that started it is killed', async () => {
    const run = await startReady(env, ['npm', 'start', '--prefix', repository])
    process.kill(run.pid, 'SIGKILL')
    await expect.poll(() => processesOf(dataDir), END).toEqual([])
  })

  test('ends at once at the second Ctrl-C', async () => {
    const run = await startReady(env)
    const [, gateway = 0] = childrenOf(dataDir)
    process.kill(gateway, 'SIGSTOP') // it cannot even see that it should end
    process.kill(run.pid, 'SIGINT')
    await run.until(/Ending/)
    const startedMs = performance.now()
    const impatience = setInterval(() => process.kill(run.pid, 'SIGINT'), 50)
    const exitCode = await run.exitCode
    clearInterval(impatience)
    expect(exitCode).toBe(1)
    expect(performance.now() - startedMs).toBeLessThan(3_000) // left alone it would give the gateway 4 s
    await expect.poll(() => processesOf(dataDir), END).toEqual([])
  })

  test('uses the Redis of REDIS_URL and lets it run on', async () => {
    await using redis = await ownRedis()
    const run = await startReady({ ...env, REDIS_URL: redis.url })
    expect(run.output()).toContain(`yours on 127.0.0.1:${redis.port} (REDIS_URL)`)
    expect(await pasteLogin(run)).toMatch(/^wxs_/)
    process.kill(run.pid, 'SIGTERM')
    expect(await run.exitCode).toBe(0)
    expect(await askRedis(redis.url, [['PING']], 1_000)).toEqual(['PONG'])
  })
})

describe('npm start refuses with one clear line', () => {
  test('NODE_ENV=production, for its secrets are no secrets', async () => {
    const env = await settings(join(scratch, 'production'))
    expect(await refusal({ ...env, NODE_ENV: 'production' })).toMatch(
      /^NODE_ENV=production: .*npm run gateway.*$/,
    )
    expect(existsSync(join(scratch, 'production'))).toBe(false)
  })

  test('a taken port, before anything is started', async () => {
    const env = await settings(join(scratch, 'port'))
    await using port = await takenPort()
    const hint = `Port ${port.number} is taken by another program. End that, or choose another port: `
    expect(await refusal({ ...env, PORT: `${port.number}` })).toBe(
      `${hint}PORT=${port.number + 10} npm start`,
    )
    expect(await refusal({ ...env, ADMIN_PORT: `${port.number}` })).toContain(`${hint}ADMIN_PORT=`)
    // The worker's port moves when it is taken, but not when somebody asked for it.
    expect(await refusal({ ...env, WORKER_PORT: `${port.number}` })).toContain(`${hint}WORKER_PORT=`)
    expect(existsSync(join(scratch, 'port', 'redis'))).toBe(false)
  })

  test('a port that is no number', async () => {
    const env = await settings(join(scratch, 'number'))
    expect(await refusal({ ...env, PORT: 'three' })).toBe('PORT must be a whole number from 0 to 65535.')
  })

  test('a DATA_DIR that is a file, or below one', async () => {
    const file = join(scratch, 'file')
    writeFileSync(file, '')
    for (const path of [file, join(file, 'below')]) {
      expect(await refusal(await settings(path))).toMatch(
        /^DATA_DIR \(.*file.*\) is not a folder \(E\w+\)\. .*$/,
      )
    }
  })

  test('a DATA_DIR that cannot be written, or is on a full disk', async (context) => {
    const disk = join(scratch, 'disk')
    mkdirSync(disk)
    // A disk of its own, because root may write everywhere.
    const mount = (...options: string[]) =>
      execFileSync('/bin/mount', ['-t', 'tmpfs', '-o', options.join(','), 'tmpfs', disk], { stdio: 'ignore' })
    try {
      mount('size=1m')
    } catch {
      context.skip('no permission to mount a small disk')
    }
    try {
      const env = await settings(join(disk, 'data'))
      expect(await refusal(env)).toMatch(
        /^The disk of DATA_DIR \(.*\) is full \(\d MB free, 100 MB needed\)\. .*$/,
      )
      writeFileSync(join(disk, 'filling'), Buffer.alloc(2 ** 20 - 2 ** 14))
      expect(await refusal(env)).toMatch(/^The disk of DATA_DIR \(.*\) is full \(ENOSPC\)\. .*$/)
      mount('remount', 'ro')
      expect(await refusal(env)).toMatch(/^DATA_DIR \(.*\) cannot be written \(EROFS\)\. .*$/)
    } finally {
      execFileSync('/bin/umount', ['-l', disk])
    }
  })

  test('a REDIS_URL that nobody answers, without its password', async () => {
    const port = await freePort()
    const env = {
      ...(await settings(join(scratch, 'redis'))),
      REDIS_URL: `redis://:hidden@127.0.0.1:${port}`,
    }
    const line = await refusal(env)
    expect(line).toContain(
      `REDIS_URL names 127.0.0.1:${port}, which does not answer as it should: ECONNREFUSED.`,
    )
    expect(line).not.toContain('hidden')
    expect(line.split('\n')).toHaveLength(1)
  })

  test('half of the credentials for the real WeChat', async () => {
    const env = await settings(join(scratch, 'wechat'))
    expect(await refusal({ ...env, WECHAT_APPID: 'wx0123456789abcdef' })).toBe(
      'WECHAT_APPID is given and WECHAT_SECRET is not. Give both to use the real WeChat, or none to use the simulator.',
    )
  })

  test('damaged development secrets, which it does not replace', async () => {
    const env = await settings(join(scratch, 'secrets'))
    mkdirSync(join(scratch, 'secrets'))
    const file = join(scratch, 'secrets', 'development-secrets.json')
    writeFileSync(file, '{"SEAL_KEYS": "dev1:')
    expect(await refusal(env)).toMatch(/development-secrets\.json is damaged\. Remove it .*$/)
    expect(readFileSync(file, 'utf8')).toBe('{"SEAL_KEYS": "dev1:')
  })

  test('no way to a Redis, with the reason of each and what to install', async () => {
    const empty = join(scratch, 'empty')
    mkdirSync(empty)
    const lines = await refusal({ ...(await settings(join(scratch, 'none'))), PATH: empty })
    expect(lines.split('\n')).toEqual([
      'No Redis could be started.',
      '  installed here: neither redis-server nor valkey-server is on the PATH',
      '  in Docker: there is no docker command',
      '  from Debian packages: there is no apt-get',
      expect.stringMatching(/apt-get install redis-server.*brew install redis.*Docker.*REDIS_URL/),
    ])
  })
})

test('the Redis comes from Debian packages when none is installed', { timeout: 180_000 }, async (context) => {
  if (findOnPath('apt-get') === undefined) context.skip('this is no Debian')
  const dataDir = join(scratch, 'debian')
  const env = { ...(await settings(dataDir)), PATH: pathWithout(/^(redis|valkey|docker)/) }
  const run = start(env)
  await run.until(/Ready in|No Redis could be started/)
  if (/apt-get (update|download)/.test(run.output())) context.skip(`no packages to be had: ${run.output()}`)
  expect(run.output()).toContain('redis-server from unpacked Debian packages')
  expect(await pasteLogin(run)).toMatch(/^wxs_/)
  process.kill(run.pid, 'SIGINT')
  expect(await run.exitCode).toBe(0)

  // The second time it is there already.
  const again = await startRedis({ persistent: false, cacheDir: dataDir, ways: ['debian'] })
  expect(again.how).toContain('redis-server from unpacked Debian packages')
  await again.stop()
})

async function ownRedis() {
  const redis = await startRedis({ persistent: false, allowDocker: false })
  return { ...redis, [Symbol.asyncDispose]: redis.stop }
}

async function takenPort() {
  const server = createServer()
  const number = await freePort()
  await new Promise<void>((resolve) => {
    server.listen(number, '127.0.0.1', resolve)
  })
  const close = () =>
    new Promise<void>((resolve) => {
      server.close(() => resolve())
    })
  return { number, [Symbol.asyncDispose]: close }
}

/** A folder with all commands of this machine but those. */
function pathWithout(names: RegExp): string {
  const folder = join(scratch, 'path')
  mkdirSync(folder)
  for (const source of (process.env['PATH'] ?? '').split(delimiter).filter((path) => existsSync(path))) {
    for (const name of readdirSync(source).filter((file) => !names.test(file))) {
      if (!existsSync(join(folder, name))) symlinkSync(join(source, name), join(folder, name))
    }
  }
  return folder
}
