/** All results as a page: the targets first, then scene by scene. */
import { isOf } from './contenders.ts'
import type { Results, SceneResult } from './results.ts'
import { sceneTable } from './table.ts'
import { targetTable } from './targets.ts'

export function resultsPage(results: Results): string {
  const scenes = Object.entries(results).map(sceneSection)
  return `# What was measured\n\nWritten by \`npm run bench -- --record\`; [README.md](../README.md) says how it measures.\n
## Targets\n\n${targetTable(results)}\n\n${scenes.join('\n')}`
}

function sceneSection([name, result]: [string, SceneResult]): string {
  const { question, measuredAt, commit, machine, rounds, subjects } = result
  const known = Object.keys(subjects).flatMap((subject) => {
    const is = isOf(subject)
    return is === undefined ? [] : [`${subject}: ${is}`]
  })
  const day = measuredAt.slice(0, 16).replace('T', ' ')
  return [
    `## ${name}\n`,
    `${question}\n`,
    `${day} UTC, commit ${commit}, ${rounds} rounds, ${machine}.${known.length === 0 ? '' : ` ${known.join('; ')}.`}\n`,
    `${sceneTable(result, undefined)}\n`,
  ].join('\n')
}
