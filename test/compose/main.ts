/**
 * Does docker-compose.yml do what docs/docker.md says? Builds the images, runs the stack with the simulator, logs in,
 * kills gateways under load, measures, takes all of it down, and prints a table.
 *
 *   npm run compose:check                     the images of others are pulled
 *   npm run compose:check -- --stand-ins      they are made of Debian's packages, where nothing can be pulled
 *   npm run compose:check -- --twice          builds a second time without a cache, and compares the layers
 *
 * It wants a Docker engine and Compose, and leaves nothing behind but images.
 */
import { parseArgs } from 'node:util'
import { runCommand } from '../../deploy/local/run-command.ts'
import { until } from '../harness/until.ts'
import {
  checkConfinement,
  checkGatewayStart,
  checkIdleMemory,
  checkImages,
  checkKill,
  checkLogin,
  checkMetrics,
  checkScaling,
} from './checks.ts'
import { createReport } from './report.ts'
import { docker, hasImage, openStack } from './stack.ts'
import type { Stack } from './stack.ts'

const HEALTHY_SECONDS_MAX = 60
const STAND_INS_TIMEOUT_MS = 600_000
/** Watched, not needed: the rest is checked without them where their image cannot be had. */
const DISPENSABLE = ['grafana', 'prometheus']
/** Without --profile demo it says what it wants within this. */
const REFUSAL_SECONDS_MAX = 30

const { values: flags } = parseArgs({
  options: { 'stand-ins': { type: 'boolean' }, twice: { type: 'boolean' } },
})
const report = createReport()
const stack = await openStack()
console.log(
  `Docker ${(await docker(['version', '-f', '{{.Server.Version}}'])).trim()}, project ${stack.project}`,
)
if (flags['stand-ins'])
  console.log(await runCommand('test/compose/stand-in-images.sh', [], { timeoutMs: STAND_INS_TIMEOUT_MS }))

try {
  await checkBuild()
  const services = await servicesToRun()
  await checkRefusal()
  await checkUp(services)
  await checkLogin(report, stack)
  await checkIdleMemory(report, stack)
  await checkConfinement(report, stack)
  if (services.includes('prometheus')) await checkMetrics(report, stack)
  await checkKill(report, stack)
  if (services.includes('prometheus')) await checkScaling(report, stack)
  await checkGatewayStart(report, stack)
} catch (error) {
  report.holds('the check came to its end', [error instanceof Error ? error.message : String(error)])
  console.log(await stack.compose(['logs', '--tail', '20']).catch(() => 'no logs'))
} finally {
  await stack.down()
  report.holds('down leaves no container, network or volume', await stack.remains())
}
report.print()
process.exitCode = report.failed() === 0 ? 0 : 1

async function checkBuild(): Promise<void> {
  const beganMs = performance.now()
  await stack.build()
  report.tell('build of all images', `${Math.round((performance.now() - beganMs) / 1000)} s`)
  await checkImages(report)
  if (!flags.twice) return
  const before = await layers()
  await stack.build(['--no-cache'])
  const after = await layers()
  report.holds(
    'a second build from nothing gives the same layers',
    Object.keys(before).filter((name) => before[name] !== after[name]),
  )
}

async function layers(): Promise<Record<string, string>> {
  const names = ['gateway', 'worker', 'simulator'].map((name) => `wechat-login-${name}`)
  const found = names.map(async (name) => [
    name,
    await docker(['image', 'inspect', '-f', '{{.RootFS.Layers}}', name]),
  ])
  return Object.fromEntries(await Promise.all(found)) as Record<string, string>
}

/** All but those whose images cannot be had and that can be done without. */
async function servicesToRun(): Promise<string[]> {
  const services = [...(await stack.services())]
  const missing: string[] = []
  for (const [name, { image, build }] of services)
    if (build === undefined && !(await hasImage(image))) missing.push(name)
  const needed = missing.filter((name) => !DISPENSABLE.includes(name))
  if (needed.length > 0) throw new Error(`no image to be had for ${needed.join(', ')}: try --stand-ins`)
  if (missing.length > 0) report.tell('not run, for there is no image', missing.join(', '))
  return services.map(([name]) => name).filter((name) => !missing.includes(name))
}

/** Neither a Mini Program nor the demo: nothing starts, and the reason is given. */
async function checkRefusal(): Promise<void> {
  const beganMs = performance.now()
  await stack.up(['setup'])
  const setup = async () => (await stack.containers()).find(({ service }) => service === 'setup')
  await until('setup to end', async () => (await setup())?.state === 'exited', REFUSAL_SECONDS_MAX * 1000)
  const log = await stack.compose(['logs', 'setup'])
  const ended = await setup()
  report.holds(
    'without a Mini Program it says what is missing',
    ended?.exitCode === 1 && log.includes('secrets/wechat-appid') ? [] : [`${ended?.exitCode}: ${log}`],
  )
  report.tell('which takes', `${Math.round((performance.now() - beganMs) / 1000)} s`)
}

async function checkUp(services: readonly string[]): Promise<void> {
  const beganMs = performance.now()
  await stack.up(services)
  await until('all to be well', () => isUp(stack), 2 * HEALTHY_SECONDS_MAX * 1000)
  report.atMost('from "up" to all healthy', (performance.now() - beganMs) / 1000, HEALTHY_SECONDS_MAX, 's')
  const demo = await stack.compose(['logs', 'demo'])
  report.holds('the demo prints a line to log in with', demo.includes('curl -s') ? [] : [demo])
}

async function isUp({ containers }: Stack): Promise<boolean> {
  const all = await containers()
  return all.every(({ service, state, health, exitCode }) =>
    ['setup', 'demo'].includes(service)
      ? state === 'exited' && exitCode === 0
      : state === 'running' && (health === '' || health === 'healthy'),
  )
}
