/** The scripts of a code's claim, each answer of each of them, on a real Redis. */
import { Redis } from 'ioredis'
import { afterAll, afterEach, beforeEach, describe, expect, inject, test } from 'vitest'
import { createKeys } from '../src/redis/keys.ts'
import { newPrefix } from './harness/environment.ts'
import { createScripts, demandEnds } from './harness/scripts.ts'
import { until } from './harness/until.ts'

const LEASE_MS = 1_500
const LIFE_MS = 30_000
const SETTLED_LIFE_MS = 60_000
const REFUSED_LIFE_MS = 300_000
const LEADS_MAX = 3

const prefix = newPrefix()
const keys = createKeys(prefix)
const redis = new Redis(inject('redisUrl'))
const scripts = createScripts(redis)

let testCount = 0
let key = ''
beforeEach(() => {
  testCount += 1
  key = keys.code(`of-test-${testCount}`)
})

afterEach(() => demandEnds(redis, prefix))
afterAll(() => redis.disconnect())

const claim = (owner: string, bind = 'phone', leaseMs = LEASE_MS) =>
  scripts.run('claim-code', [key], [owner, bind, leaseMs, LIFE_MS, LEADS_MAX])
const settle = (value: string, bind = 'phone') =>
  scripts.run('settle-code', [key], [value, SETTLED_LIFE_MS, bind])
const giveBack = (owner: string) => scripts.run('fail-code', [key], [owner, 'R', '', LIFE_MS])
const refuse = (owner: string) =>
  scripts.run('fail-code', [key], [owner, 'N', 'code_invalid 40029 ', REFUSED_LIFE_MS])

const leads = (generation: number, used = 0) => ['LEAD', generation, expect.any(Number), used]

/** As if the owner had been silent for the whole of its lease. */
const endLease = () => redis.hset(key, 'lease', 1)

/** As its owner does, `agoMs` before Redis reads it. */
const renew = async (owner: string, agoMs = 0) =>
  scripts.run('renew-claim', [key], [owner, (await redisNowMs()) - agoMs + LEASE_MS])

async function redisNowMs(): Promise<number> {
  const [seconds, microseconds] = await redis.time()
  return Number(seconds) * 1000 + Math.floor(Number(microseconds) / 1000)
}

describe('claim-code', () => {
  test('gives an unknown code to whoever asks first, and tells when that was by the clock of Redis', async () => {
    const before = await redisNowMs()
    const [state, generation, startedAtMs] = (await claim('one')) as [string, number, number]
    expect({ state, generation }).toEqual({ state: 'LEAD', generation: 1 })
    expect(startedAtMs).toBeGreaterThanOrEqual(before)
    expect(startedAtMs).toBeLessThanOrEqual(await redisNowMs())
  })

  test('gives it to the same owner again, whose first answer was lost, without counting twice', async () => {
    await claim('one')
    expect(await claim('one')).toEqual(leads(1))
    expect(await claim('one')).toEqual(leads(1))
  })

  test('lets the same client wait for no longer than the lease', async () => {
    await claim('one')
    const [state, restMs] = (await claim('two')) as [string, number]
    expect(state).toBe('WAIT')
    expect(restMs).toBeGreaterThan(0)
    expect(restMs).toBeLessThanOrEqual(LEASE_MS)
  })

  test('leaves an owner that waits as it is: the leader goes on', async () => {
    await claim('one')
    await claim('two')
    expect(await claim('one')).toEqual(leads(1))
    expect(await renew('one')).toBe(1)
  })

  test('gives it to another owner of the same client when the leader has been silent', async () => {
    await claim('one')
    await endLease()
    expect(await claim('two')).toEqual(leads(2, 1))
    expect(await claim('one')).toEqual(['WAIT', expect.any(Number)])
  })

  test('notices the end of a lease by itself', async () => {
    await claim('one', 'phone', 30)
    const [, generation] = await until('the lease to end', async () => {
      const answer = (await claim('two')) as [string, number]
      return answer[0] === 'LEAD' && answer
    })
    expect(generation).toBe(2)
  })

  test('does not give it to another client, neither while it is led nor when the leader has gone silent', async () => {
    await claim('one')
    expect(await claim('two', 'stranger')).toEqual(['OTHER_CLIENT'])
    await endLease()
    expect(await claim('two', 'stranger')).toEqual(['OTHER_CLIENT'])
  })

  // A phone that was told to send its code again may have left the wifi meanwhile.
  test('gives a code that was given back to any client, and binds it to that one', async () => {
    await claim('one', 'on wifi')
    await giveBack('one')
    expect(await claim('two', 'on 4G')).toEqual(leads(2))
    expect(await claim('three', 'on wifi')).toEqual(['OTHER_CLIENT'])
    expect(await settle('from 4G', 'on 4G')).toBe('SET')
    expect(await claim('four', 'on 4G')).toEqual(['SETTLED', 'from 4G'])
  })

  test.each([
    { how: 'was given back', end: () => giveBack('one'), used: 0 },
    { how: 'had a leader that went silent', end: endLease, used: 1 },
  ])('tells who leads next whether a code that $how may be used up, and never forgets it', async (row) => {
    await claim('one')
    await row.end()
    expect(await claim('two')).toEqual(leads(2, row.used))
    expect(await claim('two')).toEqual(leads(2, row.used))
    await giveBack('two')
    expect(await claim('three')).toEqual(leads(3, row.used))
  })

  test('answers a settled code with its value to its client, and to no other', async () => {
    await claim('one')
    await settle('t1 subject')
    expect(await claim('two')).toEqual(['SETTLED', 't1 subject'])
    expect(await claim('one')).toEqual(['SETTLED', 't1 subject'])
    expect(await claim('two', 'stranger')).toEqual(['OTHER_CLIENT'])
  })

  test('answers a refused code with the refusal, to everybody', async () => {
    await claim('one')
    await refuse('one')
    for (const bind of ['phone', 'stranger']) {
      expect(await claim('two', bind)).toEqual(['REFUSED', 'code_invalid 40029 '])
    }
  })

  test('gives up a code that has lost its leader three times', async () => {
    for (let generation = 1; generation <= LEADS_MAX; generation += 1) {
      expect(await claim(`owner ${generation}`)).toEqual(leads(generation, generation - 1))
      await endLease()
    }
    expect(await claim('one too many')).toEqual(['EXHAUSTED'])
  })

  // It was not at WeChat, and its clients were told to send it again: as often as it takes.
  test('a code that is given back stays good, however often', async () => {
    for (let generation = 1; generation <= 4 * LEADS_MAX; generation += 1) {
      expect(await claim(`owner ${generation}`)).toEqual(leads(generation, 0))
      await giveBack(`owner ${generation}`)
    }
    expect(await claim('the last')).toEqual(leads(4 * LEADS_MAX + 1, 0))
    await endLease()
    expect(await claim('one that replaces it')).toEqual(leads(4 * LEADS_MAX + 2, 1))
  })

  test('keeps the record for its life, counted anew by each who leads', async () => {
    await claim('one')
    await redis.pexpire(key, 1_000)
    await claim('two') // waits, and so changes nothing
    expect(await redis.pttl(key)).toBeLessThanOrEqual(1_000)
    await endLease()
    await claim('two')
    expect(await redis.pttl(key)).toBeGreaterThan(LIFE_MS - 5_000)
    expect(await redis.pttl(key)).toBeLessThanOrEqual(LIFE_MS)
  })
})

describe('renew-claim', () => {
  test('starts the lease afresh, so that nobody takes over', async () => {
    await claim('one')
    await endLease()
    expect(await renew('one')).toBe(1)
    expect(await claim('two')).toEqual(['WAIT', expect.any(Number)])
  })

  test('that Redis reads late holds nobody up', async () => {
    await claim('one')
    await renew('one', 5_000)
    expect(await claim('two')).toEqual(leads(2, 1))
  })

  test('is for the present owner only', async () => {
    await claim('one')
    expect(await renew('two')).toBe(0)
    await endLease()
    await claim('two')
    expect(await renew('one')).toBe(0)
    expect(await renew('two')).toBe(1)
  })

  test.each(['settled', 'refused', 'given back'])('does nothing to a code that is %s', async (state) => {
    await claim('one')
    if (state === 'settled') await settle('value')
    else if (state === 'refused') await refuse('one')
    else await giveBack('one')
    expect(await renew('one')).toBe(0)
  })

  test('does not bring back a record that has expired', async () => {
    expect(await renew('one')).toBe(0)
    expect(await redis.exists(key)).toBe(0)
  })
})

describe('settle-code', () => {
  test('records the first success and keeps it', async () => {
    await claim('one')
    expect(await settle('first')).toBe('SET')
    expect(await settle('second')).toBe('LOST')
    expect(await claim('two')).toEqual(['SETTLED', 'first'])
    expect(await redis.pttl(key)).toBeGreaterThan(SETTLED_LIFE_MS - 5_000)
  })

  // Only WeChat can have given what a stalled owner holds; to drop it would waste the user's code.
  test('takes the success of an owner that has lost its lease, and the new owner learns that it is too late', async () => {
    await claim('stalled')
    await endLease()
    await claim('new')
    expect(await settle('of the stalled')).toBe('SET')
    expect(await settle('of the new')).toBe('LOST')
    expect(await refuse('new')).toBe('STALE')
    expect(await claim('three')).toEqual(['SETTLED', 'of the stalled'])
  })

  test.each(['refused', 'given back'])('turns a code that is %s into a settled one', async (state) => {
    await claim('one')
    if (state === 'refused') await refuse('one')
    else await giveBack('one')
    expect(await settle('value')).toBe('SET')
    expect(await claim('two')).toEqual(['SETTLED', 'value'])
  })

  test('leaves a code alone that another client has taken since', async () => {
    await claim('one', 'on wifi')
    await giveBack('one')
    await claim('two', 'on 4G')
    expect(await settle('late', 'on wifi')).toBe('OTHER_CLIENT')
    expect(await claim('two', 'on 4G')).toEqual(leads(2))
  })

  test('makes a record anew when it had expired, bound and with an end', async () => {
    expect(await settle('value')).toBe('SET')
    expect(await claim('two')).toEqual(['SETTLED', 'value'])
    expect(await claim('two', 'stranger')).toEqual(['OTHER_CLIENT'])
  })
})

describe('fail-code', () => {
  test('keeps a refusal as long as it is told', async () => {
    await claim('one')
    expect(await refuse('one')).toBe('SET')
    expect(await redis.pttl(key)).toBeGreaterThan(REFUSED_LIFE_MS - 5_000)
  })

  test('is fenced: an owner that has lost its claim cannot end that of another', async () => {
    await claim('stalled')
    await endLease()
    await claim('new')
    expect(await refuse('stalled')).toBe('STALE')
    expect(await giveBack('stalled')).toBe('STALE')
    expect(await renew('new')).toBe(1)
  })

  test('does not undo a success, nor a refusal', async () => {
    await claim('one')
    await settle('value')
    expect(await giveBack('one')).toBe('STALE')
    expect(await claim('two')).toEqual(['SETTLED', 'value'])

    key = `${key}-refused`
    await claim('one')
    await refuse('one')
    expect(await giveBack('one')).toBe('STALE')
    expect(await claim('two')).toEqual(['REFUSED', expect.any(String)])
  })

  test('does nothing to a code that nobody has claimed', async () => {
    expect(await giveBack('one')).toBe('STALE')
    expect(await redis.exists(key)).toBe(0)
  })
})

test('every answer that the headers of these scripts promise has been reached above', () => {
  for (const name of ['claim-code', 'renew-claim', 'settle-code', 'fail-code']) {
    expect({ name, unreached: scripts.unreached(name) }).toEqual({ name, unreached: [] })
  }
})
