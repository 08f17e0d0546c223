/**
 * The bench: what do logins and validations cost, beside the floor of what they could cost, and beside others?
 *
 *   npm run bench                     all scenes
 *   npm run bench -- returning auth   scenes by name
 *   npm run bench -- --quick          the three that matter most, with fewer contenders and rounds; below two minutes
 *   npm run bench -- --list
 *   npm run bench -- --record         keeps what was found in results/ too
 *   npm run bench -- --quick --guard  ends with 1 when a request has become dearer than what is recorded (guard.ts)
 *
 * CPU is that of the process under measurement alone, by the operating system's books, while a load as fast as it can
 * answer keeps it busy; contenders take turns, and each figure is the median of the rounds. README.md says more.
 */
import { writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { absenceOf, isOf, startContender } from './contenders.ts'
import type { ContenderName } from './contenders.ts'
import { findGrowth, GUARDED_SCENES } from './guard.ts'
import type { Growth } from './guard.ts'
import { plot } from './plot.ts'
import { PLAYS } from './plays.ts'
import type { Play, PlayName } from './plays.ts'
import { canPin, pin } from './processes.ts'
import { addResults, currentCommit, describeMachine, LATEST, readResults, RECORDED } from './results.ts'
import type { Results, SceneResult } from './results.ts'
import { SCENES } from './scenes.ts'
import type { Scene, SceneName } from './scenes.ts'
import { onStage } from './stage.ts'
import { sceneTable } from './table.ts'
import { resultsPage } from './results-page.ts'
import { targetTable } from './targets.ts'
import { requestsOf, takeTurns } from './turns.ts'
import type { Figures, Player, Turns } from './turns.ts'

const EXIT_SIGNAL = 130
const EXIT_USAGE = 2
// What was started ends with this process.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(EXIT_SIGNAL))

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    list: { type: 'boolean', default: false },
    quick: { type: 'boolean', default: false },
    record: { type: 'boolean', default: false },
    guard: { type: 'boolean', default: false },
    rounds: { type: 'string' },
  },
})

/** Node needs some thousand requests of a kind until its code is as fast as it gets. */
const FULL = { warmUp: 12_000, rounds: 5, window: 3_000 }
const QUICK = { warmUp: 6_000, rounds: 3, window: 2_000 }
const turns = { ...(values.quick ? QUICK : FULL), ...(values.rounds && { rounds: Number(values.rounds) }) }

const all: Record<string, Scene | Play> = { ...SCENES, ...PLAYS }
if (values.list) {
  for (const [name, { question }] of Object.entries(all)) console.log(`${name.padEnd(14)}${question}`)
  process.exit(0)
}
const unknown = positionals.filter((name) => all[name] === undefined)
if (unknown.length > 0) {
  console.error(`There is no scene ${unknown.join(', ')}; see --list`)
  process.exit(EXIT_USAGE)
}
const unnamed = values.quick ? GUARDED_SCENES : Object.keys(all)
const chosen = positionals.length > 0 ? positionals : unnamed
if (!canPin) console.log('Processes cannot be kept to cores here: figures are noisier than they need be.')
pin(process.pid, 'others')
console.log(describeMachine())

const fresh: Results = {}
for (const name of chosen) await runAndTell(name as SceneName | PlayName)
console.log(`\n${targetTable(readResults(LATEST))}`)
if (values.guard) process.exit(await guard())
process.exit(0)

/**
 * The exit code. What seems dearer is measured once more, and is dearer only if that says so too: on a machine that
 * others use, a ratio is far off now and then.
 */
async function guard(): Promise<0 | 1> {
  const recorded = readResults(RECORDED)
  let growth = findGrowth(fresh, recorded)
  if (growth.length > 0) {
    console.log(`\nDearer:\n  ${inWords(growth)}\n\nOnce more:`)
    for (const scene of new Set(growth.map(({ scene }) => scene))) await runAndTell(scene)
    const seen = new Set(growth.map(({ ratio }) => ratio))
    growth = findGrowth(fresh, recorded).filter(({ ratio }) => seen.has(ratio))
  }
  console.log(growth.length === 0 ? '\nNothing has become dearer.' : `\nDearer, again:\n  ${inWords(growth)}`)
  return growth.length === 0 ? 0 : 1
}

function inWords(growth: readonly Growth[]): string {
  return growth.map(({ what }) => what).join('\n  ')
}

async function runAndTell(name: SceneName | PlayName): Promise<void> {
  const scene: Scene | Play = { ...SCENES, ...PLAYS }[name]
  console.log(`\n${name}: ${scene.question}\n`)
  const subjects = 'run' in scene ? await scene.run(turns) : await runScene(scene, turns)
  const result: SceneResult = {
    question: scene.question,
    measuredAt: new Date().toISOString(),
    commit: currentCommit(),
    machine: describeMachine(),
    rounds: turns.rounds,
    subjects,
  }
  fresh[name] = result
  const before = readResults(LATEST)[name] ?? readResults(RECORDED)[name]
  console.log(sceneTable(result, before))
  for (const path of values.record ? [LATEST, RECORDED] : [LATEST]) {
    const results = addResults(path, { [name]: result })
    writeFileSync(path.replace(/json$/, 'svg'), plot(results))
    writeFileSync(path.replace(/json$/, 'md'), resultsPage(results))
  }
}

function runScene(scene: Scene, turns: Turns): Promise<Record<string, Figures>> {
  return onStage(async (stage) => {
    const paced = { ...turns, ratePerSecond: scene.rate }
    const players: Player[] = []
    const wanted: readonly ContenderName[] =
      values.quick && scene.quick.length > 0 ? scene.quick : scene.contenders
    for (const name of wanted) {
      const absence = absenceOf(name)
      if (absence !== undefined) {
        console.log(`${name} (${isOf(name)}) is left out: ${absence}\n`)
        continue
      }
      const contender = await startContender(name, stage)
      const take = await scene.prepare(contender, { ...stage, total: requestsOf(paced) })
      players.push({ label: name, contender, take })
    }
    return takeTurns(stage.load, players, paced)
  })
}
