/**
 * The worker's job with the database and Redis replaced: what it hands on, what it keeps to itself, and when
 * it calls for help. The whole way, with real ones, is the stories' matter.
 */
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { GatewayError } from '../src/errors.ts'
import { createLog } from '../src/log.ts'
import type { Acknowledgement } from '../src/provisioning.ts'
import { subjectOf } from '../src/subject.ts'
import { ErasedSince } from '../workers/database-errors.ts'
import { JobFailed } from '../workers/job-failure.ts'
import { createProvisionUser } from '../workers/provision-user.ts'
import { createStuckWatch } from '../workers/stuck-watch.ts'
import type { Identity, ProvisionedUser, SeenIdentity } from '../workers/users.ts'

const alice = {
  v: 1,
  sub: subjectOf('wx-app', 'o-alice'),
  appid: 'wx-app',
  openid: 'o-alice',
  unionid: 'u-alice',
  seenAtMs: 1_000,
}
const newUser: ProvisionedUser = { userId: 'user-1', created: true, relinked: [] }

test('the gateway is told of the user once the database has it, and not before', async () => {
  const { provision, calls } = harness(async () => newUser)
  await provision({ data: alice })

  expect(calls).toEqual(['provision o-alice', 'acknowledge'])
})

test('the gateway is told of what a merge changed for the user’s other identities', async () => {
  const other = { appid: 'wx-other', openid: 'o-alice-2', unionid: 'u-alice' }
  const { provision, acknowledged } = harness(async () => ({ ...newUser, created: false, relinked: [other] }))
  await provision({ data: alice })

  expect(acknowledged).toEqual([
    { sub: subjectOf('wx-other', 'o-alice-2'), userId: 'user-1', unionid: 'u-alice' },
    { sub: alice.sub, userId: 'user-1', unionid: 'u-alice' },
  ])
})

const again = [{ attemptsMade: 1 }, { stalledCounter: 1 }]

test.each(again)(
  'a job that is run again (%j) tells all identities: the merge was its earlier run’s',
  async (run) => {
    const other = { appid: 'wx-other', openid: 'o-alice-2', unionid: 'u-alice' }
    const { provision, acknowledged } = harness(
      async () => ({ ...newUser, created: false }),
      async () => true,
      { identities: [other, { appid: 'wx-app', openid: 'o-alice', unionid: 'u-alice' }] },
    )
    await provision({ data: alice, ...run })
    expect(acknowledged).toEqual([
      { sub: subjectOf('wx-other', 'o-alice-2'), userId: 'user-1', unionid: 'u-alice' },
      { sub: alice.sub, userId: 'user-1', unionid: 'u-alice' },
    ])
    await provision({ data: alice })
    expect(acknowledged).toHaveLength(3)
  },
)

test.each([undefined, 'u-since'])(
  'a job of before an erasure brings no unionid back; that of the session: %s',
  async (unionid) => {
    const erasedAtMs = alice.seenAtMs + 1
    const written: SeenIdentity[] = []
    const { provision, acknowledged } = harness(
      async (seen) => {
        if (seen.seenAtMs <= erasedAtMs) throw new ErasedSince(erasedAtMs)
        written.push(seen)
        return newUser
      },
      async () => true,
      { loggedIn: true, ...(unionid !== undefined && { unionid }) },
    )
    await provision({ data: alice })
    expect(written.map((seen) => seen.unionid)).toEqual([unionid])
    expect(acknowledged).toEqual([{ sub: alice.sub, userId: 'user-1', unionid }])
  },
)

test.each([
  null,
  'text',
  {},
  { ...alice, v: 2 },
  { ...alice, v: 3 },
  { ...alice, openid: 7 },
  { ...alice, unionid: null },
])('a malformed job (%j) is never run again, and its error quotes nothing of it', async (data) => {
  const { provision, calls } = harness(async () => newUser)
  const error = await failureOf(provision({ data }))

  expect(error.kind).toBe('never')
  expect(error.message).not.toContain('alice')
  expect(calls).toEqual([])
})

test('a job of another version says so, for who has to find the release that knows it', async () => {
  const { provision } = harness(async () => newUser)
  const { message } = await failureOf(provision({ data: { ...alice, v: 3 } }))
  expect(message).toContain('version 3')
})

test('what BullMQ keeps of a database error quotes nothing of the user', async () => {
  const { provision } = harness(async () => {
    throw Object.assign(new Error('duplicate key: o-alice'), { code: '23505', severity: 'ERROR' })
  })
  const { kind, message, stack } = await failureOf(provision({ data: alice }))

  expect(kind).toBe('fault')
  expect(message).toBe('database: 23505')
  expect(stack).not.toContain('o-alice')
})

const failures: [code: string, what: string, kind: string][] = [
  ['57P01', 'shutting down', 'database_away'],
  ['40P01', 'deadlock', 'database_away'],
  ['42P01', 'no such table', 'later'],
  ['42501', 'no right to the table', 'later'],
  ['22021', 'text that cannot be stored', 'fault'],
  ['P0001', 'raised by a trigger', 'fault'],
]

test.each(failures)('%s (%s) is taken as: %s', async (code, what, kind) => {
  const { provision } = harness(async () => {
    throw Object.assign(new Error(what), { code, severity: 'ERROR' })
  })
  const failure = await failureOf(provision({ data: alice }))
  expect(failure).toMatchObject({ kind, message: `database: ${code}` })
})

test('that Redis does not take the acknowledgement is not held against the job', async () => {
  const { provision } = harness(async () => newUser, refuseAcknowledgement)
  expect((await failureOf(provision({ data: alice }))).kind).toBe('later')
})

async function refuseAcknowledgement(): Promise<never> {
  throw new GatewayError('store_unavailable')
}

async function failureOf(provisioning: Promise<unknown>): Promise<JobFailed> {
  const error = await provisioning.catch((thrown: unknown) => thrown)
  if (!(error instanceof JobFailed)) throw new Error(`no failure of a job: ${String(error)}`)
  return error
}

interface Session {
  loggedIn?: boolean
  unionid?: string
  identities?: Identity[]
}

function harness(
  provisionUser: (seen: SeenIdentity) => Promise<ProvisionedUser>,
  acknowledge: () => Promise<boolean> = async () => true,
  { loggedIn = false, unionid, identities = [] }: Session = {},
) {
  const calls: string[] = []
  const acknowledged: Acknowledgement[] = []
  const provision = createProvisionUser({
    users: {
      async provisionUser(seen) {
        const user = await provisionUser(seen)
        calls.push(`provision ${seen.openid}`)
        return user
      },
    },
    async acknowledge(done) {
      calls.push('acknowledge')
      acknowledged.push(done)
      return acknowledge()
    },
    isLoggedIn: async () => loggedIn,
    unionidOf: async () => unionid,
    identitiesOf: async () => identities,
    log: createLog('silent', 'test'),
  })
  return { provision, calls, acknowledged }
}

// The watch on a worker that has its connections and does nothing.
beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

const MINUTE_MS = 60_000

test('a worker that does nothing for a minute while jobs wait is called stuck', async () => {
  const { onStuck } = watch({ waiting: () => 3 })
  await vi.advanceTimersByTimeAsync(MINUTE_MS - 1)
  expect(onStuck).not.toHaveBeenCalled()
  await vi.advanceTimersByTimeAsync(1)
  expect(onStuck).toHaveBeenCalled()
})

const unanswered = (): number => {
  throw new Error('Redis is away')
}

const excuses: [reason: string, given: Watched][] = [
  ['no job waits', { waiting: () => 0 }],
  ['it waits for Redis or the database itself', { waiting: () => 3, isIdle: () => true }],
  ['the queue cannot be counted', { waiting: unanswered }],
]

test.each(excuses)('a worker is not stuck while %s', async (_reason, given) => {
  const { onStuck } = watch(given)
  await vi.advanceTimersByTimeAsync(3 * MINUTE_MS)
  expect(onStuck).not.toHaveBeenCalled()
})

test('a worker is not stuck while jobs end, however many wait', async () => {
  const { onStuck, stuckWatch } = watch({ waiting: () => 1_000_000 })
  for (let job = 0; job < 10; job += 1) {
    await vi.advanceTimersByTimeAsync(MINUTE_MS / 2)
    stuckWatch.progress()
  }
  expect(onStuck).not.toHaveBeenCalled()
})

test('a worker whose jobs hang is stuck, also when none waits any more', async () => {
  const { onStuck, stuckWatch } = watch({ waiting: () => 0 })
  stuckWatch.hung()
  await vi.advanceTimersByTimeAsync(MINUTE_MS)
  expect(onStuck).toHaveBeenCalled()
})

test('a job that hangs among others that end is no stuck worker', async () => {
  const { onStuck, stuckWatch } = watch({ waiting: () => 0 })
  for (let job = 0; job < 10; job += 1) {
    stuckWatch.hung()
    await vi.advanceTimersByTimeAsync(MINUTE_MS / 2)
    stuckWatch.progress()
  }
  expect(onStuck).not.toHaveBeenCalled()
})

interface Watched {
  waiting: () => number
  isIdle?: () => boolean
}

function watch({ waiting, isIdle = () => false }: Watched) {
  const onStuck = vi.fn<() => void>()
  const stuckWatch = createStuckWatch({ isIdle, countWaiting: async () => waiting(), onStuck })
  stuckWatch.start()
  return { onStuck, stuckWatch }
}
