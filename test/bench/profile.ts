/**
 * Where does the time of a request go? Takes a CPU profile of a contender under load, sums up the time in functions
 * themselves by file, package and module of Node, and draws a flame graph.
 *
 *   npm run bench:profile -- returning                    the gateway in a scene of the bench
 *   npm run bench:profile -- auth --contender bare --top 40 --out FOLDER
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { startWechat } from '../faults/wechat.ts'
import { createClosing } from './closing.ts'
import { startContender } from './contenders.ts'
import type { ContenderName } from './contenders.ts'
import { askProbe, cpuUs } from './cost.ts'
import { readProfile, selfUsByOwner } from './cpu-profile.ts'
import { flameGraph } from './flame-graph.ts'
import { startLoad } from './load.ts'
import { pin } from './processes.ts'
import { SCENES } from './scenes.ts'
import type { Scene, SceneName } from './scenes.ts'
import { CONNECTIONS, TIMEOUT_MS } from './users.ts'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
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
const file = join(folder, `${name}-${values.contender}`)

const closing = createClosing()
try {
  pin(process.pid, 'others')
  const wechat = await startWechat(closing, { keyRefreshSeconds: 60 })
  pin(wechat.program.pid, 'others')
  const load = startLoad()
  closing.defer(() => load.close())
  const contender = await startContender(values.contender as ContenderName, { wechat, closing })
  if (contender.probe === undefined) throw new Error(`${contender.name} is no Node process`)
  const take = await scene.prepare(contender, { wechat, load, total: warmUp + count })
  const run = { connections: CONNECTIONS, timeoutMs: TIMEOUT_MS }
  await load.run({ ...(await take(warmUp)), ...run })
  const requests = await take(count)
  await askProbe(contender.probe, 'start-profile')
  const before = cpuUs(contender.pids())
  await load.run({ ...requests, ...run })
  const spentUs = cpuUs(contender.pids()) - before
  await askProbe(contender.probe, `stop-profile ${file}.cpuprofile`)
  report(spentUs)
} finally {
  await closing.close()
}
process.exit(0)

function report(spentUs: number): void {
  const root = readProfile(`${file}.cpuprofile`)
  const each = (us: number) => (us / count).toFixed(1)
  const title = `${name}, ${values.contender}: ${each(root.totalUs)} µs a request while profiled`
  const rows = selfUsByOwner(root).slice(0, Number(values.top))
  const lines = rows.map(
    ([owner, us]) =>
      `${each(us).padStart(8)} ${((100 * us) / root.totalUs).toFixed(1).padStart(5)} %  ${owner}`,
  )
  console.log(`${title} (${each(spentUs)} µs by the operating system, with the profiler's own)`)
  console.log(lines.join('\n'))
  writeFileSync(`${file}.txt`, `${title}\n\n${lines.join('\n')}\n`)
  writeFileSync(`${file}.svg`, flameGraph(root, title))
  console.log(`${file}.svg, .txt, .cpuprofile`)
}
