/** Without a collector to send to, nothing of tracing is loaded: the modules of real processes are looked at. */
import { mkdtempSync, readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { startCollector } from './harness/collector.ts'
import { gatewayEnvironment, SIMULATED, workerEnvironment } from './harness/environment.ts'
import type { TestEnvironment } from './harness/environment.ts'
import { startGatewayProcess, startWorkerProcess } from './harness/processes.ts'
import { logLines, newDatabaseEnvironment } from './harness/tracing.ts'
import { startSimulator } from './simulator/server.ts'

/** Runs in the process before everything else, and writes down each module that is loaded, imported or required. */
const LISTING = `
  const { registerHooks } = process.getBuiltinModule('node:module')
  const { appendFileSync } = process.getBuiltinModule('node:fs')
  registerHooks({
    load(url, context, next) {
      appendFileSync(process.env.LOADED_MODULES, url + '\\n')
      return next(url, context)
    },
  })
`

/** What a gateway that has served a login, and a worker, have loaded of it. */
async function loadedWith(own: TestEnvironment) {
  const wechat = await startSimulator(SIMULATED)
  onTestFinished(() => wechat.close())
  const file = join(mkdtempSync(join(tmpdir(), 'gateway-modules-')), 'modules')
  const env = gatewayEnvironment(wechat, {
    ...own,
    LOADED_MODULES: file,
    NODE_OPTIONS: `--import data:text/javascript,${encodeURIComponent(LISTING)}`,
  })
  const gateway = await startGatewayProcess(env)
  expect((await gateway.login({ code: wechat.issueCode().code })).status).toBe(200)
  const { LOADED_MODULES = '', NODE_OPTIONS = '' } = env
  const database = await newDatabaseEnvironment()
  await startWorkerProcess(workerEnvironment(env, { ...own, ...database, LOADED_MODULES, NODE_OPTIONS }))
  const modules = readFileSync(file, 'utf8').split('\n')
  expect(modules.filter((url) => url.endsWith('/prom-client/index.js')).length).toBe(2) // the list is complete
  const packages = modules.flatMap((url) => /node_modules\/(@opentelemetry\/[^/]+)/.exec(url)?.[1] ?? [])
  const files = modules.flatMap((url) => /src\/tracing\/([^/]+)$/.exec(url)?.[1] ?? [])
  return { packages: new Set(packages), files: new Set(files), gateway }
}

test('off: no package of OpenTelemetry is loaded but the API, which prom-client loads for itself', async () => {
  const { packages, files, gateway } = await loadedWith({})
  expect([...packages]).toEqual(['@opentelemetry/api'])
  expect([...files]).not.toContain('opentelemetry.ts')
  expect(logLines(gateway.output()).filter((line) => 'trace_id' in line)).toEqual([])
})

test('on: they are', async () => {
  const collector = await startCollector()
  const { packages, files } = await loadedWith({ OTEL_EXPORTER_OTLP_ENDPOINT: collector.url })
  expect([...packages]).toContain('@opentelemetry/sdk-trace')
  expect([...files]).toContain('opentelemetry.ts')
})
