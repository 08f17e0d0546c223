/** The start as an operator sees it: a process that runs, or ends with 1 and says in plain words why. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, inject, onTestFinished, test } from 'vitest'
import { freePort } from '../deploy/local/ports.ts'
import { soundEnvironment } from './harness/configuration.ts'
import { newPrefix } from './harness/environment.ts'
import { NODE_ENVIRONMENT } from './harness/node-environment.ts'

const ROOT = new URL('../', import.meta.url).pathname
const END_TIMEOUT_MS = 20_000

interface Ended {
  code: number | null
  stdout: string
  stderr: string
}

/** Runs the gateway until it ends by itself, in an empty folder unless one is given. */
async function runGateway(args: string[], env: Record<string, string | undefined>, cwd = newFolder()) {
  const child = spawn(process.execPath, [join(ROOT, 'src/main.ts'), ...args], {
    cwd,
    env: { ...NODE_ENVIRONMENT, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: END_TIMEOUT_MS,
    killSignal: 'SIGKILL',
  })
  const ended: Ended = { code: null, stdout: '', stderr: '' }
  child.stdout.setEncoding('utf8').on('data', (text: string) => (ended.stdout += text))
  child.stderr.setEncoding('utf8').on('data', (text: string) => (ended.stderr += text))
  await once(child, 'close')
  return { ...ended, code: child.exitCode }
}

function newFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'gateway-start-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

describe('--check-config', () => {
  test('ends with 0 when the configuration is sound, and says so in one line', async () => {
    expect(await runGateway(['--check-config'], soundEnvironment)).toEqual({
      code: 0,
      stdout: 'The configuration is valid.\n',
      stderr: '',
    })
  })

  test('ends with 1 when it is not, with one message that names every fault and shows no value', async () => {
    const { code, stdout, stderr } = await runGateway(['--check-config'], {
      ...soundEnvironment,
      PORT: 'PLANTED',
      ADMIN_TOKEN: undefined,
      WECHAT_SECRET: 'PLANTED',
      REDIS_URL: 'redis://:PLANTED/word@127.0.0.1:6379',
      SEAL_KEYS: 's1:PLANTED',
    })
    expect(code).toBe(1)
    expect(stdout).toBe('')
    const [head, ...faults] = stderr.trimEnd().split('\n')
    expect(head).toBe('The configuration has 5 faults:')
    expect(faults.map((fault) => /^ {2}- ([A-Z_]+)/.exec(fault)?.[1])).toEqual([
      'PORT',
      'WECHAT_SECRET',
      'REDIS_URL',
      'SEAL_KEYS',
      'ADMIN_TOKEN',
    ])
    expect(stderr).not.toContain('PLANTED')
    expect(stderr).not.toContain('    at ')
  })

  test('reads the .env of the working directory, behind the environment', async () => {
    const folder = newFolder()
    const lines = Object.entries(soundEnvironment).map(([name, value]) => `${name}=${value}`)
    writeFileSync(join(folder, '.env'), lines.join('\n'))
    expect(await runGateway(['--check-config'], {}, folder)).toMatchObject({ code: 0 })
    const beside = await runGateway(['--check-config'], { SEAL_KEYS: 's1:weak' }, folder)
    expect(beside).toMatchObject({ code: 1, stderr: expect.stringContaining('SEAL_KEYS, key 1') })
  })

  test('says so when .env cannot be read', async () => {
    const folder = newFolder()
    mkdirSync(join(folder, '.env'))
    const { code, stderr } = await runGateway(['--check-config'], soundEnvironment, folder)
    expect(code).toBe(1)
    expect(stderr).toMatch(/^The configuration has a fault:\n {2}- the file \.env cannot be read .*\n$/)
  })

  test('is what the start itself checks: an unsound one ends it before anything is opened', async () => {
    const { code, stdout, stderr } = await runGateway([], { ...soundEnvironment, TOKEN_KEYS: undefined })
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
    expect(stderr).toContain('TOKEN_KEYS is missing')
  })
})

/** A port that is taken until the test ends. */
async function takePort(): Promise<string> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => void server.close())
  const address = server.address()
  if (address === null || typeof address === 'string') throw new TypeError('a TCP server has a port')
  return String(address.port)
}

const running = () => ({
  ...soundEnvironment,
  HOST: '127.0.0.1',
  PORT: '0',
  ADMIN_PORT: '0',
  REDIS_URL: inject('redisUrl'),
  KEY_PREFIX: newPrefix(),
  LOG_LEVEL: 'error',
})

describe('an address that cannot be had', () => {
  test.each(['PORT', 'ADMIN_PORT'])('ends with 1 and one line when %s is taken', async (variable) => {
    const port = await takePort()
    const { code, stdout, stderr } = await runGateway([], { ...running(), [variable]: port })
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
    expect(stderr).toMatch(new RegExp(`^Cannot listen on 127.0.0.1:${port} \\(EADDRINUSE\\)[^\\n]*\\n$`))
    expect(stderr).toContain(`Set ${variable} to`)
  })

  // 192.0.2.0/24 is kept for documentation: no machine has it.
  test.each(['HOST', 'ADMIN_HOST'])(
    'ends with 1 and blames the host when %s is not ours',
    async (variable) => {
      const { code, stderr } = await runGateway([], { ...running(), [variable]: '192.0.2.1' })
      expect(code).toBe(1)
      expect(stderr).toMatch(/^Cannot listen on 192\.0\.2\.1:0 \(EADDRNOTAVAIL\)[^\n]*\n$/)
      expect(stderr).toContain(`Set ${variable} to`)
    },
  )

  test('one port for both listeners is one too few', async () => {
    const port = String(await freePort())
    const both = { ...running(), HOST: '0.0.0.0', PORT: port, ADMIN_PORT: port }
    const { code, stderr } = await runGateway([], both)
    expect(code).toBe(1)
    expect(stderr).toMatch(new RegExp(`^Cannot listen on 0.0.0.0:${port} \\(EADDRINUSE\\)[^\\n]*\\n$`))
  })
})
