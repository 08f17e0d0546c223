/**
 * How many gateways, how much Redis? `npm run size -- --users 5000000 --peak-logins 2000`; docs/scaling.md explains.
 * With --document it prints that page's tables, and draws its picture.
 */
import { writeFileSync } from 'node:fs'
import { answer, USAGE } from './command.ts'
import { drawSizing } from './drawing.ts'
import { readMeasured } from './measured.ts'

const EXIT_USAGE = 2
const PICTURE = new URL('../../docs/scaling.svg', import.meta.url)

const measured = readMeasured()
try {
  console.log(answer(process.argv.slice(2), measured, () => writeFileSync(PICTURE, drawSizing(measured))))
} catch (error) {
  console.error(`${error instanceof Error ? error.message : String(error)}\n\n${USAGE}`)
  process.exitCode = EXIT_USAGE
}
