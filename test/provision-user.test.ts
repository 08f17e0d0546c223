/**
 * The worker's job with the database and Redis replaced: what it hands on, what it keeps to itself, and when
 * it calls for help. The whole way, with real ones, is the stories' matter.
 */
import { UnrecoverableError } from 'bullmq'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { createLog } from '../src/log.ts'
import { createWorkerMetrics } from '../src/metrics.ts'
import type { Acknowledgement } from '../src/provisioning.ts'
import { subjectOf } from '../src/subject.ts'
import { createProvisionUser } from '../workers/provision-user.ts'
import { createStuckWatch } from '../workers/stuck-watch.ts'
import type { ProvisionedUser, SeenIdentity } from '../workers/users.ts'

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

test.each([null, 'text', {}, { ...alice, v: 2 }, { ...alice, openid: 7 }, { ...alice, unionid: null }])(
  'a malformed job (%j) is never run again, and its error quotes nothing of it',
  async (data) => {
    const { provision, calls } = harness(async () => newUser)
    const error = await provision({ data }).catch((thrown: unknown) => thrown)

    expect(error).toBeInstanceOf(UnrecoverableError)
    expect(String(error)).not.toContain('alice')
    expect(calls).toEqual([])
  },
)

test('what BullMQ keeps of a database error quotes nothing of the user', async () => {
  const { provision } = harness(async () => {
    throw Object.assign(new Error('duplicate key: o-alice'), { code: '23505', severity: 'ERROR' })
  })
  const error = await provision({ data: alice }).catch((thrown: unknown) => thrown)

  expect(error).toBeInstanceOf(Error)
  expect(error).not.toBeInstanceOf(UnrecoverableError)
  const { message, stack } = error as Error
  expect(message).toBe('database: 23505')
  expect(stack).not.toContain('o-alice')
})

test('only an error that passes by itself raises the suspicion that the database is away', async () => {
  const outage = harness(async () => {
    throw Object.assign(new Error('shutting down'), { code: '57P01', severity: 'FATAL' })
  })
  const fault = harness(async () => {
    throw Object.assign(new Error('no such table'), { code: '42P01', severity: 'ERROR' })
  })
  await expect(outage.provision({ data: alice })).rejects.toThrow('database: 57P01')
  await expect(fault.provision({ data: alice })).rejects.toThrow('database: 42P01')

  expect(outage.calls).toContain('suspect')
  expect(fault.calls).not.toContain('suspect')
})

function harness(provisionUser: (seen: SeenIdentity) => Promise<ProvisionedUser>, { loggedIn = false } = {}) {
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
      return true
    },
    isLoggedIn: async () => loggedIn,
    suspectDatabase: () => void calls.push('suspect'),
    metrics: createWorkerMetrics(),
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
