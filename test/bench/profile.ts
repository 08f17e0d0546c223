/**
 * Where does the time of a request go? Takes a CPU profile of a contender under load, sums up the time in functions
 * themselves by file, package and module of Node, and draws a flame graph.
 *
 *   npm run bench:profile -- returning                    the gateway in a scene of the bench
 *   npm run bench:profile -- returning --allocations      what it allocates, in place of time
 *   npm run bench:profile -- auth --contender bare --top 40 --out FOLDER
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { startContender } from './contenders.ts'
import type { ContenderName } from './contenders.ts'
import { askProbe, cpuUs, redisBooks } from './cost.ts'
import type { RedisBooks } from './cost.ts'
import { flameGraph } from './flame-graph.ts'
import { pin } from './processes.ts'
import { SCENES } from './scenes.ts'
import type { Scene, SceneName } from './scenes.ts'
import { onStage } from './stage.ts'
import { CONNECTIONS, TIMEOUT_MS } from './users.ts'
import { readAllocations, readProfile, selfByOwner } from './v8-profile.ts'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    allocations: { type: 'boolean', default: false },
    contender: { type: 'string', default: 'gateway' },
    'warm-up': { type: 'string', default: '20000' },
    requests: { type: 'string', default: '12000' },
    top: { type: 'string', default: '30' },
    out: { type: 'string', default: '.data/profile' },
  },
})
const [name = 'returning'] = positionals
const scene: Scene | undefined = SCENES[name as SceneName]
if (scene === undefined) throw new Error(`there is no scene ${name}: ${Object.keys(SCENES).join(', ')}`)
const [warmUp, count] = [Number(values['warm-up']), Number(values.requests)]
const folder = resolve(values.out)
mkdirSync(folder, { recursive: true })
const kind = values.allocations ? 'allocations' : 'profile'
const file = join(folder, `${name}-${values.contender}${values.allocations ? '-allocations' : ''}`)

pin(process.pid, 'others')
await onStage(async (stage) => {
  const { load } = stage
  const contender = await startContender(values.contender as ContenderName, stage)
  if (contender.probe === undefined) throw new Error(`${contender.name} is no Node process`)
  const take = await scene.prepare(contender, { ...stage, total: warmUp + count })
  const run = { connections: CONNECTIONS, timeoutMs: TIMEOUT_MS }
  await load.run({ ...(await take(warmUp)), ...run })
  const requests = await take(count)
  await askProbe(contender.probe, `start-${kind}`)
  const { redisUrl } = contender
  const booksBefore = redisUrl === undefined ? undefined : await redisBooks(redisUrl)
  const before = cpuUs(contender.pids())
  await load.run({ ...requests, ...run })
  const spentUs = cpuUs(contender.pids()) - before
  await askProbe(contender.probe, `stop-${kind} ${file}.cpuprofile`)
  report(spentUs)
  if (redisUrl !== undefined && booksBefore !== undefined)
    reportRedis(booksBefore, await redisBooks(redisUrl))
})
process.exit(0)

function eachUs(us: number): string {
  return (us / count).toFixed(1)
}

/** What Redis does with its time: commands, and what is left for sockets and the protocol. */
function reportRedis(before: RedisBooks, after: RedisBooks): void {
  const spent = [...after.inCommandsUs]
    .map(([command, us]) => ({ command, us: us - (before.inCommandsUs.get(command) ?? 0) }))
    .filter(({ us }) => us / count >= 0.1)
    .toSorted((a, b) => b.us - a.us)
  console.log(
    `\nRedis: ${eachUs(after.cpuUs - before.cpuUs)} µs of CPU a request. In commands, those in scripts also by themselves:`,
  )
  for (const { command, us } of spent) console.log(`${eachUs(us).padStart(8)}  ${command}`)
}

function report(spentUs: number): void {
  const root = values.allocations ? readAllocations(`${file}.cpuprofile`) : readProfile(`${file}.cpuprofile`)
  // A profile of CPU counts by the clock, also while another process had the core.
  const scale = values.allocations ? 1 / count : spentUs / root.total / count
  const each = (amount: number) => (amount * scale).toFixed(values.allocations ? 0 : 1)
  const what = values.allocations ? 'bytes allocated' : 'µs of CPU'
  const title = `${name}, ${values.contender}: ${each(root.total)} ${what} a request, with what profiling takes`
  const rows = selfByOwner(root).slice(0, Number(values.top))
  const lines = rows.map(
    ([owner, amount]) =>
      `${each(amount).padStart(8)} ${((100 * amount) / root.total).toFixed(1).padStart(5)} %  ${owner}`,
  )
  console.log(title)
  console.log(lines.join('\n'))
  writeFileSync(`${file}.txt`, `${title}\n\n${lines.join('\n')}\n`)
  writeFileSync(`${file}.svg`, flameGraph(root, title))
  console.log(`${file}.svg, .txt, .cpuprofile`)
}
