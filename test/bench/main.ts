/**
 * The bench: what do logins and validations cost, beside the floor of what they could cost?
 *
 *   npm run bench                     all scenes
 *   npm run bench -- returning auth   scenes by name
 *   npm run bench -- --quick          fewer rounds; below two minutes
 *   npm run bench -- --list
 *
 * CPU is that of the process under measurement alone, by the operating system's books, while a load as fast as it can
 * answer keeps it busy; contenders take turns, each figure is the median of the rounds. README.md says more.
 */
import { parseArgs } from 'node:util'
import { startWechat } from '../faults/wechat.ts'
import { createClosing } from './closing.ts'
import { absenceOf, isOf, startContender } from './contenders.ts'
import type { Contender } from './contenders.ts'
import { startLoad } from './load.ts'
import { measure } from './measure.ts'
import type { Sample } from './measure.ts'
import { median } from './median.ts'
import { canPin, pin } from './processes.ts'
import { SCENES } from './scenes.ts'
import type { Scene, SceneName } from './scenes.ts'
import { CONNECTIONS } from './users.ts'

const EXIT_SIGNAL = 130
const EXIT_USAGE = 2
// What was started ends with this process.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(EXIT_SIGNAL))

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    list: { type: 'boolean', default: false },
    quick: { type: 'boolean', default: false },
    rounds: { type: 'string' },
  },
})

const names = Object.keys(SCENES) as SceneName[]
if (values.list) {
  for (const name of names) console.log(`${name.padEnd(12)}${SCENES[name].question}`)
  process.exit(0)
}
const unknown = positionals.filter((name) => !names.includes(name as SceneName))
if (unknown.length > 0) {
  console.error(`There is no scene ${unknown.join(', ')}; see --list`)
  process.exit(EXIT_USAGE)
}
const rounds = Number(values.rounds ?? (values.quick ? 3 : 5))
/** Node needs some ten thousand requests until its code is as fast as it gets. */
const warmUp = values.quick ? 15_000 : 30_000
if (!canPin) console.log('Processes cannot be kept to cores here: figures are noisier than they need be.')
pin(process.pid, 'others')

for (const name of positionals.length > 0 ? (positionals as SceneName[]) : names)
  await runScene(name, SCENES[name])
process.exit(0)

async function runScene(name: SceneName, scene: Scene): Promise<void> {
  const startedMs = performance.now()
  console.log(`\n${name}: ${scene.question}`)
  const closing = createClosing()
  try {
    const wechat = await startWechat(closing, { keyRefreshSeconds: 60 })
    pin(wechat.program.pid, 'others')
    const load = startLoad()
    closing.defer(() => load.close())
    const total = warmUp + (rounds + 1) * scene.window
    const players: {
      contender: Contender
      take: Awaited<ReturnType<Scene['prepare']>>
      samples: Sample[]
    }[] = []
    for (const contenderName of scene.contenders) {
      const absence = absenceOf(contenderName)
      if (absence !== undefined) {
        console.log(`  ${contenderName} (${isOf(contenderName)}) is left out: ${absence}`)
        continue
      }
      const contender = await startContender(contenderName, { wechat, closing })
      const take = await scene.prepare(contender, { wechat, load, total })
      players.push({ contender, take, samples: [] })
      await load.run({ ...(await take(warmUp)), connections: CONNECTIONS, timeoutMs: 60_000 })
    }
    for (let round = 0; round < rounds; round += 1) {
      for (const { contender, take, samples } of players) {
        const requests = await take(scene.window)
        samples.push(
          await measure(load, contender, { ...requests, connections: CONNECTIONS, timeoutMs: 60_000 }),
        )
      }
    }
    for (const { contender, samples } of players) {
      const of = (figure: (sample: Sample) => number) => {
        const all = samples.map(figure)
        return `${median(all).toFixed(1)} (${Math.min(...all).toFixed(1)}–${Math.max(...all).toFixed(1)})`
      }
      console.log(
        `  ${contender.name.padEnd(14)} CPU ${of((s) => s.cpuUs)} µs, Redis ${of((s) => s.redisCpuUs)} µs, ` +
          `${of((s) => s.perSecond)}/s, gc ${of((s) => s.gcUs)} µs, ${of((s) => s.allocatedBytes)} B allocated, RSS ${of((s) => s.rssMb)} MB`,
      )
    }
  } finally {
    await closing.close()
  }
  console.log(`  ${((performance.now() - startedMs) / 1_000).toFixed(0)} s`)
}
