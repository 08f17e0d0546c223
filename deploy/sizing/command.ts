/** The flags of `npm run size`, and what it answers. */
import { parseArgs } from 'node:util'
import type { Measured } from './measured.ts'
import { reckon } from './reckon.ts'
import type { Demand } from './reckon.ts'
import { ASSUMED, coreTable, demandOf, describePlan, exampleTable } from './report.ts'

export const USAGE = `npm run size -- --users N --peak-logins N [flags]

  --users N              with a living session (SESSION_TTL_SECONDS, 7 days)
  --peak-logins N        a second
  --peak-validations N   a second; ${ASSUMED.validationsPerLogin} for each login unless said
  --sessions-per-user N  ${ASSUMED.sessionsPerUser}
  --recent-share N       part of the logins within an hour of the user's last, from 0 to 1; ${ASSUMED.recentShare}
  --wechat-ms N          how long WeChat takes for an exchange; ${ASSUMED.wechatMs}
  --apps N               Mini Programs that share the logins; ${ASSUMED.apps}
  --document             the tables of docs/scaling.md, and its picture
`

const FLAGS = {
  users: 'users',
  'peak-logins': 'peakLogins',
  'peak-validations': 'peakValidations',
  'sessions-per-user': 'sessionsPerUser',
  'recent-share': 'recentShare',
  'wechat-ms': 'wechatMs',
  apps: 'apps',
} as const satisfies Record<string, keyof Demand>

/** Of the flags that do not begin at 0 or are no count. */
const RANGES: Record<string, readonly [min: number, max: number]> = {
  users: [1, 1e12],
  apps: [1, 10_000],
  'sessions-per-user': [1, 50],
  'recent-share': [0, 1],
}

/**
 * @param onDocument told that the picture is wanted
 * @throws an Error that says which flag is wrong
 */
export function answer(args: readonly string[], measured: Measured, onDocument: () => void): string {
  const options = Object.fromEntries(Object.keys(FLAGS).map((flag) => [flag, { type: 'string' as const }]))
  const { values } = parseArgs({
    args: [...args],
    options: { ...options, document: { type: 'boolean', default: false } },
  })
  if (values.document) {
    onDocument()
    return `${coreTable(measured)}\n\n${exampleTable(measured)}`
  }
  const own: Partial<Record<keyof Demand, number>> = {}
  for (const [flag, name] of Object.entries(FLAGS)) {
    const text = (values as Record<string, unknown>)[flag]
    if (typeof text === 'string') own[name] = readNumber(flag, text)
  }
  const { users, peakLogins, ...others } = own
  if (users === undefined || peakLogins === undefined) throw new Error('--users and --peak-logins are needed')
  const demand = demandOf(users, peakLogins, others)
  return describePlan(demand, reckon(demand, measured), measured)
}

function readNumber(flag: string, text: string): number {
  const value = Number(text.replaceAll('_', ''))
  const [min, max] = RANGES[flag] ?? [0, 1e12]
  if (text.trim() === '' || !(value >= min && value <= max))
    throw new Error(`--${flag} must be a number from ${min} to ${max}`)
  return value
}
