/** Nobody takes the log: its reader hangs, is gone, or has no room. The gateway goes on, says so, and can end. */
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, mkdtempSync, openSync, readSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { freePort } from '../deploy/local/ports.ts'
import { createClient } from './harness/client.ts'
import { gatewayEnvironment, SIMULATED } from './harness/environment.ts'
import { metricIn } from './harness/gateway.ts'
import { launchGateway } from './harness/processes.ts'
import { until } from './harness/until.ts'
import { startSimulator } from './simulator/server.ts'

/** Above what is kept (KEPT_BYTES_MAX) and what a pipe holds, at some 200 bytes a line. */
const REQUESTS_MAX = 20_000
const AT_ONCE = 200
const END_MS_MAX = 10_000

/** A pipe of which nobody reads, unless the test does. */
function openPipe(): number {
  const folder = mkdtempSync(join(tmpdir(), 'gateway-log-'))
  const path = join(folder, 'pipe')
  execFileSync('mkfifo', [path])
  const pipe = openSync(path, 'r+')
  onTestFinished(() => {
    closeSync(pipe)
    rmSync(folder, { recursive: true })
  })
  return pipe
}

/** A gateway that cannot say that it is ready, and so is asked. */
async function startWith(stdout: 'pipe' | number, logLevel = 'debug') {
  const wechat = await startSimulator(SIMULATED)
  onTestFinished(() => wechat.close())
  const [port, adminPort] = [await freePort(), await freePort()]
  const env = gatewayEnvironment(wechat, {
    PORT: String(port),
    ADMIN_PORT: String(adminPort),
    LOG_LEVEL: logLevel,
  })
  const gateway = launchGateway(env, stdout)
  const client = createClient(`http://127.0.0.1:${port}`)
  const admin = createClient(`http://127.0.0.1:${adminPort}`)
  onTestFinished(async () => void (await Promise.all([client.close(), admin.close()])))
  await until(
    'it to be ready',
    async () => {
      const reply = await client.get('/readyz').catch(() => undefined)
      return reply?.status === 200
    },
    20_000,
  )
  return {
    ...gateway,
    wechat,
    client,
    lost: async () => metricIn((await admin.get('/metrics')).text, 'log_lines_lost_total'),
    async expectWell() {
      expect((await client.login({ code: wechat.issueCode().code })).status).toBe(200)
    },
    async expectEnd() {
      const startedMs = performance.now()
      gateway.child.kill('SIGTERM')
      if (gateway.child.exitCode === null) await once(gateway.child, 'exit')
      expect(gateway.child.exitCode).toBe(0)
      expect(performance.now() - startedMs).toBeLessThan(END_MS_MAX)
    },
  }
}

test('a reader that hangs: lines are kept up to a bound, then lost and counted; and told of when it reads again', {
  timeout: 60_000,
}, async () => {
  const pipe = openPipe()
  const gateway = await startWith(pipe)
  for (let sent = 0; (await gateway.lost()) === 0; sent += AT_ONCE) {
    expect(sent).toBeLessThan(REQUESTS_MAX)
    await Promise.all(Array.from({ length: AT_ONCE }, () => gateway.client.get('/livez')))
  }
  await gateway.expectWell()

  // Our end of the pipe is the gateway's own, made non-blocking by it: an empty one says EAGAIN.
  let log = ''
  const bytes = Buffer.alloc(65_536)
  await until(
    'the log to tell of its loss',
    () => {
      try {
        log += bytes.toString('utf8', 0, readSync(pipe, bytes))
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error
      }
      return log.includes('log lines were lost') && log.endsWith('\n')
    },
    20_000,
  )
  for (const line of log.trimEnd().split('\n')) expect(() => JSON.parse(line) as unknown, line).not.toThrow()
  const told = log
    .trimEnd()
    .split('\n')
    .flatMap((line) => [...line.matchAll(/"lines":(\d+),"msg":"log lines were lost/g)])
  expect(told.reduce((sum, [, lines]) => sum + Number(lines), 0)).toBe(await gateway.lost())
  await gateway.expectEnd()
})

test('a reader that hangs does not keep it from ending', { timeout: 60_000 }, async () => {
  const pipe = openPipe()
  const gateway = await startWith(pipe)
  expect(await gateway.lost()).toBe(0) // what the pipe does not take is being kept
  for (let sent = 0; sent < 1_000; sent += AT_ONCE)
    await Promise.all(Array.from({ length: AT_ONCE }, () => gateway.client.get('/livez')))
  await gateway.expectWell()
  await gateway.expectEnd()
})

test('a reader that is gone', async () => {
  const gateway = await startWith('pipe')
  gateway.child.stdout?.destroy()
  const lost = await until('a line to be lost', () => gateway.lost().then((lines) => lines > 0 && lines))
  expect(lost).toBeGreaterThan(0)
  await gateway.expectWell()
  await gateway.expectEnd()
})

test.skipIf(process.platform !== 'linux')('a disk without space', async () => {
  const full = openSync('/dev/full', 'w')
  onTestFinished(() => closeSync(full))
  const gateway = await startWith(full)
  expect(await gateway.lost()).toBeGreaterThan(0)
  await gateway.expectWell()
  await gateway.expectEnd()
})

test('the last lines arrive, also of one that ends at once', async () => {
  const gateway = await startWith('pipe', 'info')
  await gateway.expectEnd()
  expect(gateway.output()).toContain('"msg":"gateway ready"')
  expect(gateway.output().trimEnd().split('\n').at(-1)).toContain('"msg":"closed"')
})
