/**
 * Which limits exist, whom they count, and what they are for. All are per minute.
 *
 *   name               subject            protects
 *   login_per_ip       address group      the gateway from one loud address; generous, for carriers put
 *                                         thousands of phones behind one IPv4 address
 *   invalid_per_ip     address group      WeChat's patience: codes it refused. The real sign of abuse, for
 *                                         an honest client nearly never sends one
 *   exchange_per_app   appid              WeChat's quota of the app, over all gateways; an app may have a
 *                                         limit of its own
 *   login_per_user     sub                sessions and jobs from one user who logs in in a loop; counted
 *                                         inside open-session.lua, to save a round trip
 *
 * Counted in Redis by rate-limiter-flexible. Of an app's limit each process takes some exchanges ahead, so that most
 * logins need not ask; one that did not reach WeChat goes back to these. When Redis cannot count, the process counts for itself, up to its share of the limit: never
 * unlimited, and said by the metric's outcome `degraded`.
 */
import { RateLimiterRedis, RateLimiterRes } from 'rate-limiter-flexible'
import { addressGroup } from './addresses.ts'
import { GatewayError } from './errors.ts'
import type { RedisClient } from './redis/connections.ts'
import type { Keys } from './redis/keys.ts'

/** Those that are counted here; login_per_user is counted where the session is opened. */
const LIMIT_NAMES = ['login_per_ip', 'invalid_per_ip', 'exchange_per_app'] as const
export type LimitName = (typeof LIMIT_NAMES)[number]
export type LimitOutcome = 'allowed' | 'denied' | 'degraded'

const WINDOW_SECONDS = 60
/** An address is shut out when more than this share of its logins carried refused codes. */
const INVALID_SHARE_MAX = 0.5
/** Taken ahead by all GATEWAY_COUNT gateways together. */
const AHEAD_SHARE_MAX = 0.01
const AHEAD_MAX = 200
/** Apps of which a process holds some; the registry has no more than some thousands. */
const AHEAD_SUBJECTS_MAX = 10_000
/** Different limits of apps that are held ready at once. */
const EXCHANGE_LIMITS_MAX = 1_000
/** Subjects that a limit counts without Redis: some 100 bytes each. Beyond, the first that came are forgotten. */
const LOCAL_SUBJECTS_MAX = 50_000
/**
 * Kept when there are too many: a sixteenth goes at once. A Map steps over all that was deleted from its front, so one at
 * a time would cost tens of microseconds each.
 */
const LOCAL_KEPT_SHARE = 15 / 16

export interface LimitSettings {
  /** Gateways that share the limits; each counts up to its part of them while Redis cannot. */
  gateways: number
  loginPerIp: number
  invalidPerIp: number
  exchangePerApp: number
  /** The limit of an app that has one of its own; undefined: exchangePerApp. */
  exchangePerAppOf(appid: string): number | undefined
}

/** @param onSpend told of every count, for the metrics */
export function createLimits(
  redis: RedisClient,
  keys: Keys,
  settings: LimitSettings,
  onSpend: (limit: LimitName, outcome: LimitOutcome) => void,
) {
  const loginPerIp = createLimit('login_per_ip', settings.loginPerIp)
  const invalidPerIp = createLimit('invalid_per_ip', settings.invalidPerIp)
  /** By their numbers: apps with the same limit share a counter's settings, each has a count of its own. */
  const exchangesPerApp = new Map<number, ReturnType<typeof createLimit>>()

  return {
    /** @throws {GatewayError} rate_limited, for an address that is known to be over its limit: without asking Redis */
    admitLogin(ip: string): void {
      refuseAddress(loginPerIp.known(addressGroup(ip)))
    },

    /** Rejects with rate_limited. */
    async spendLogin(ip: string): Promise<void> {
      refuseAddress((await loginPerIp.spend(addressGroup(ip))).denied)
    },

    /**
     * Rejects with rate_limited.
     * @returns gives it back, for the next login of this process; to be called once at most
     */
    async spendExchange(appid: string): Promise<() => void> {
      const points = settings.exchangePerAppOf(appid) ?? settings.exchangePerApp
      const exchanges = exchangesOf(points)
      const { denied, untilMs } = await exchanges.spend(appid)
      if (denied) throw limited(denied, 'Too many logins of this app.')
      return () => exchanges.giveBack(appid, untilMs)
    },

    /** Counts a code that WeChat refused; shuts the address out for the minute when most of its codes are such. */
    async countInvalid(ip: string): Promise<void> {
      const subject = addressGroup(ip)
      const { denied } = await invalidPerIp.spend(subject)
      if (denied) await loginPerIp.shutOut(subject, denied)
    },
  }

  function exchangesOf(points: number) {
    const known = exchangesPerApp.get(points)
    if (known !== undefined) return known
    if (exchangesPerApp.size >= EXCHANGE_LIMITS_MAX) exchangesPerApp.clear() // the counts are in Redis
    const ahead = Math.floor((points * AHEAD_SHARE_MAX) / settings.gateways)
    const created = createLimit('exchange_per_app', points, Math.min(Math.max(ahead, 1), AHEAD_MAX))
    exchangesPerApp.set(points, created)
    return created
  }

  /** @param ahead taken at a time, and spent without asking Redis until the window ends */
  function createLimit(name: LimitName, points: number, ahead = 1) {
    const options = { points, duration: WINDOW_SECONDS, keyPrefix: keys.limit(name) }
    const shared = new RateLimiterRedis({
      ...options,
      storeClient: redis,
      // An address that is over its limit costs Redis nothing until its window ends.
      inMemoryBlockOnConsumed: points + 1,
      rejectIfRedisNotReady: true,
    }) as RateLimiterRedis & InMemoryBlocks
    const local = createLocalLimit(Math.ceil(points / settings.gateways))
    const taken = createTakenAhead()
    /** By subject: what was asked of Redis last, for how many more than the one who asked. */
    const asked = new Map<string, Asked>()
    let isRedisAway = false

    /** Rejects when Redis cannot count. */
    async function spendShared(subject: string): Promise<Spend> {
      const held = taken.spend(subject)
      if (held !== undefined) return { untilMs: held }
      const answer = await answerFor(subject)
      if (!answer.denied) return answer
      const left = taken.spend(subject)
      return left === undefined ? answer : { untilMs: left }
    }

    /** One in so many asks; those who come meanwhile have their share of the answer. */
    function answerFor(subject: string): Promise<Spend> {
      const running = asked.get(subject)
      if (running !== undefined && running.left > 0) {
        running.left -= 1
        return running.answer
      }
      const next: Asked = { left: ahead - 1, answer: Promise.resolve({}) }
      next.answer = ask(subject, next)
      if (ahead > 1) asked.set(subject, next)
      return next.answer
    }

    async function ask(subject: string, request: Asked): Promise<Spend> {
      try {
        const { msBeforeNext } = await shared.consume(subject, ahead)
        const untilMs = performance.now() + msBeforeNext
        taken.put(subject, request.left, untilMs)
        return { untilMs }
      } catch (error) {
        if (!(error instanceof RateLimiterRes)) throw error
        // The last that there were, of fewer than were asked for. 0: it was not asked, for it is known to be over.
        const rest = error.consumedPoints === 0 ? 0 : points - (error.consumedPoints - ahead)
        taken.put(subject, rest, performance.now() + error.msBeforeNext)
        return { denied: error }
      } finally {
        if (asked.get(subject) === request) asked.delete(subject)
      }
    }

    return {
      /** The denial of a subject that is known to be over its limit. */
      known(subject: string): Denial | undefined {
        const msBeforeNext = shared.getInMemoryBlockMsBeforeExpire(shared.getKey(subject))
        const denied =
          msBeforeNext > 0
            ? { consumedPoints: points + 1, msBeforeNext }
            : isRedisAway && local.known(subject)
        if (!denied) return undefined
        onSpend(name, 'denied')
        return denied
      },

      async spend(subject: string): Promise<Spend> {
        try {
          const spend = await spendShared(subject)
          isRedisAway = false
          onSpend(name, spend.denied ? 'denied' : 'allowed')
          return spend
        } catch {
          // Redis cannot count just now. Whether the login can go on is for the next step to say.
          isRedisAway = true
          onSpend(name, 'degraded')
          return { denied: local.spend(subject) }
        }
      },

      /** @param untilMs of its spend; what was counted without Redis stays spent */
      giveBack(subject: string, untilMs: number | undefined): void {
        if (untilMs !== undefined && performance.now() < untilMs) taken.put(subject, 1, untilMs)
      },

      async shutOut(subject: string, invalid: Denial): Promise<void> {
        try {
          const logins = await shared.get(subject)
          if (logins === null || invalid.consumedPoints <= logins.consumedPoints * INVALID_SHARE_MAX) return
          await shared.block(subject, Math.ceil(invalid.msBeforeNext / 1000))
        } catch {
          // Without Redis there is nobody to tell; the local limits hold meanwhile.
        }
      },
    }
  }
}

/**
 * Counts in this process, in windows that begin for all subjects at once, so that an old one is forgotten whole.
 * @param subjectsMax held at most, whoever comes
 */
export function createLocalLimit(points: number, subjectsMax = LOCAL_SUBJECTS_MAX) {
  const counts = new Map<string, number>()
  let endsAtMs = 0

  return {
    /** The denial, or undefined when allowed. */
    spend(subject: string): Denial | undefined {
      const nowMs = performance.now()
      if (nowMs >= endsAtMs) {
        counts.clear()
        endsAtMs = nowMs + WINDOW_SECONDS * 1000
      }
      const count = (counts.get(subject) ?? 0) + 1
      counts.set(subject, count)
      if (counts.size > subjectsMax) forgetOldest()
      return count > points ? { consumedPoints: count, msBeforeNext: endsAtMs - nowMs } : undefined
    },

    /** The denial of a subject that has been denied in this window. Counts nothing. */
    known(subject: string): Denial | undefined {
      const msBeforeNext = endsAtMs - performance.now()
      const count = counts.get(subject) ?? 0
      return count > points && msBeforeNext > 0 ? { consumedPoints: count, msBeforeNext } : undefined
    },
  }

  function forgetOldest(): void {
    for (const subject of counts.keys()) {
      counts.delete(subject)
      if (counts.size <= Math.ceil(subjectsMax * LOCAL_KEPT_SHARE)) break
    }
  }
}

/** What this process may still spend of limits that Redis has counted already. */
function createTakenAhead() {
  const held = new Map<string, { points: number; untilMs: number }>()

  return {
    /** Until when that was good; undefined when there was none. */
    spend(subject: string): number | undefined {
      const own = held.get(subject)
      if (own === undefined) return undefined
      own.points -= 1
      const isGood = performance.now() < own.untilMs
      if (!isGood || own.points === 0) held.delete(subject)
      return isGood ? own.untilMs : undefined
    },

    put(subject: string, points: number, untilMs: number): void {
      if (points <= 0) return
      const own = held.get(subject)
      // Of one window; what was held of the one before ends with it.
      if (own !== undefined && own.untilMs > performance.now()) {
        own.points += points
        own.untilMs = Math.min(own.untilMs, untilMs)
        return
      }
      held.set(subject, { points, untilMs })
      const [oldest] = held.keys()
      if (held.size > AHEAD_SUBJECTS_MAX && oldest !== undefined) held.delete(oldest)
    },
  }
}

interface Asked {
  left: number
  answer: Promise<Spend>
}

interface Spend {
  denied?: Denial | undefined
  /** The end of its window, by performance.now(); undefined also where Redis did not count. */
  untilMs?: number
}

/** Of rate-limiter-flexible; its types leave it out. */
interface InMemoryBlocks {
  getInMemoryBlockMsBeforeExpire(key: string): number
}

type Denial = Pick<RateLimiterRes, 'consumedPoints' | 'msBeforeNext'>

function refuseAddress(denied: Denial | undefined): void {
  if (denied) throw limited(denied, 'Too many logins from this address.')
}

function limited(denial: Denial, detail: string): GatewayError {
  return new GatewayError('rate_limited', {
    detail,
    retryAfterSeconds: Math.ceil(denial.msBeforeNext / 1000),
  })
}
