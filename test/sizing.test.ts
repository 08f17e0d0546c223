/** The calculator of docs/scaling.md: by hand at known points, as a command, and the page itself. */
import { describe, expect, test } from 'vitest'
import { answer } from '../deploy/sizing/command.ts'
import { drawSizing } from '../deploy/sizing/drawing.ts'
import { readMeasured } from '../deploy/sizing/measured.ts'
import type { Measured } from '../deploy/sizing/measured.ts'
import { reckon } from '../deploy/sizing/reckon.ts'
import type { Demand } from '../deploy/sizing/reckon.ts'
import { coreTable, demandOf, exampleTable } from '../deploy/sizing/report.ts'
import { runCommand } from './harness/command.ts'
import { readSource } from './harness/sources.ts'

/** Figures to reckon with in one's head. */
const ROUND: Measured = {
  date: '2000-01-01',
  command: 'none',
  machine: 'none',
  node: 'none',
  redis: 'none',
  redisBytes: { userWithOneSession: 400, furtherSession: 100, loginForAMinute: 500, waitingJob: 1_000 },
  postgresBytes: { user: 1_000 },
  cpuUs: {
    login: { gateway: 500, redis: 50 },
    loginWithJob: { gateway: 1_000, redis: 100 },
    validation: { gateway: 100, redis: 10 },
    job: { worker: 500, redis: 100, postgres: 200 },
  },
  jobsPerSecondOfOneWorker: 1_000,
  rssBytes: { gateway: 1, worker: 1 },
}

const plan = (own: Partial<Demand>) =>
  reckon(
    {
      users: 1_000,
      peakLogins: 1,
      peakValidations: 0,
      sessionsPerUser: 1,
      recentShare: 0,
      wechatMs: 10,
      apps: 1,
      ...own,
    },
    ROUND,
  )

const size = (...args: string[]) => runCommand('deploy/sizing/main.ts', args)

describe('gateways', () => {
  test('are three at least', () => {
    expect(plan({})).toMatchObject({ gateways: 3, gatewaysFor: 'spare' })
  })

  test('have a core each, of which they use three fifths', () => {
    // 6,000 logins of 1 ms, or half of them of 0.5 ms, or 60,000 validations of 0.1 ms.
    expect(plan({ peakLogins: 6_000 })).toMatchObject({ gateways: 10, gatewaysFor: 'CPU', gatewayCores: 6 })
    expect(plan({ peakLogins: 6_000, recentShare: 0.5 }).gatewayCores).toBe(4.5)
    expect(plan({ peakLogins: 0, peakValidations: 60_000 })).toMatchObject({ gateways: 10, gatewayCores: 6 })
    expect(plan({ peakLogins: 6_001 }).gateways).toBe(11)
  })

  test('have 64 calls of WeChat each, of which they use three fifths, when WeChat is slow', () => {
    expect(plan({ peakLogins: 384, wechatMs: 1_000 })).toMatchObject({
      gateways: 10,
      gatewaysFor: 'calls of WeChat',
    })
  })
})

describe('Redis', () => {
  test('holds users, the logins of a minute, and a job for each user up to PROVISION_BACKLOG_MAX', () => {
    expect(plan({}).redisDataBytes).toBe(1_000 * 400 + 60 * 500 + 1_000 * 1_000)
    expect(plan({ sessionsPerUser: 3 }).redisDataBytes - plan({}).redisDataBytes).toBe(1_000 * 2 * 100)
    const [two, three] = [plan({ users: 2_000_000 }), plan({ users: 3_000_000 })]
    expect(three.redisDataBytes - two.redisDataBytes).toBe(1_000_000 * 400)
    expect(two.redisMemoryBytes).toBe(2 * two.redisDataBytes)
  })

  test('is one master until its thread is half busy, or its data are 16 GiB', () => {
    expect(plan({ peakLogins: 2_500 })).toMatchObject({ redisCores: 0.5, redisMasters: 1 })
    expect(plan({ peakLogins: 5_000 })).toMatchObject({ redisMasters: 2, redisFor: 'CPU' })
    expect(plan({ users: 100_000_000 })).toMatchObject({ redisMasters: 3, redisFor: 'memory' })
  })
})

test('workers are two at least, of eleven connections each', () => {
  expect(plan({})).toMatchObject({ workers: 2, postgresConnections: 22, postgresBytes: 1_000_000 })
  expect(plan({ peakLogins: 7_000 })).toMatchObject({ workers: 10, jobsPerSecond: 7_000 })
  expect(plan({ peakLogins: 7_000, recentShare: 1 })).toMatchObject({ workers: 2, jobsPerSecond: 0 })
})

test('the exchanges of a minute are held against the limit that an app has', () => {
  expect(plan({ peakLogins: 1_000 })).toMatchObject({
    exchangesPerMinuteAndApp: 60_000,
    exceedsExchangeLimit: false,
  })
  expect(plan({ peakLogins: 1_001 }).exceedsExchangeLimit).toBe(true)
  expect(plan({ peakLogins: 1_001, apps: 2 }).exceedsExchangeLimit).toBe(false)
})

describe('npm run size', () => {
  test('answers from users and peak, and says what it assumed', async () => {
    const { code, stdout } = await size('--users', '5_000_000', '--peak-logins', '2000')
    const { gateways, workers } = reckon(demandOf(5_000_000, 2_000), readMeasured())
    expect(code).toBe(0)
    expect(stdout).toContain(
      'For 5,000,000 users with a session, 2,000 logins and 20,000 validations a second',
    )
    expect(stdout).toMatch(new RegExp(`gateways +${gateways} of one core each`))
    expect(stdout).toMatch(new RegExp(`workers +${workers} for 2,000 jobs`))
    expect(stdout).toContain('Assumed: 1.2 sessions a user')
  })

  test('says which flag is wrong', async () => {
    const wrong: [string[], RegExp][] = [
      [[], /--users and --peak-logins are needed/],
      [['--users', '5', '--peak-logins', 'many'], /--peak-logins must be a number/],
      [
        ['--users', '5', '--peak-logins', '1', '--recent-share', '2'],
        /--recent-share must be a number from 0 to 1/,
      ],
      [['--user', '5'], /--user/],
    ]
    for (const [args, message] of wrong) expect(() => answer(args, ROUND, () => {})).toThrow(message)
    const { code, stderr } = await size('--user', '5')
    expect(code).toBe(2)
    expect(stderr).toContain('npm run size -- --users N')
  })
})

describe('docs/scaling.md', () => {
  const page = readSource('docs/scaling.md')
  const remedy = 'run `npm run size -- --document` and paste what it prints'

  test('has the tables that the calculator prints', () => {
    expect(page, remedy).toContain(coreTable(readMeasured()))
    expect(page, remedy).toContain(exampleTable(readMeasured()))
    expect(page).toContain(readMeasured().command)
  })

  test('has the picture that the calculator draws', () => {
    expect(readSource('docs/scaling.svg') === drawSizing(readMeasured()), remedy).toBe(true)
  })
})
