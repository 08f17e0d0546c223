/**
 * Fault rules: which requests are to meet which fault, and how often.
 *
 * A request meets at most one rule that delays it and one other: of each sort the first that fits, in
 * the order they were added. A rule with a probability draws from a stream of its own, so a run with the
 * same seed and the same requests has the same faults.
 *
 * `when` is the one idea to know. `before`: the fault happens on the request's way, WeChat never decides
 * and a code stays unused. `after`: WeChat has decided, a code is used up, and the fault happens on the
 * answer's way. Some faults also know `mid_body` (after half of the answer) and `accept` (when the
 * connection is opened, before there is any request).
 */
import type { Read } from './fields.ts'
import type { Random } from './random.ts'
import {
  flag,
  InputError,
  integer,
  isObject,
  must,
  number,
  oneOf,
  readFields,
  text,
  texts,
} from './fields.ts'
import { createRandom } from './random.ts'

const RULES_MAX = 1_000
/** Long enough for any client's patience, short enough that a forgotten rule does not leak a timer for days. */
const WAIT_MS_MAX = 3_600_000
const BYTES_MAX = 1_000_000_000_000

const MATCH_FIELDS = {
  path: text(256),
  appid: text(64),
  code: text(512),
  openid: text(128),
  /** The caller's address. */
  ip: text(64),
  /** How many requests the rule is for; without it, all. */
  times: integer(1, 1_000_000_000),
  /** The share of fitting requests that meet the fault, 0 to 1. */
  probability: number(0, 1),
}

const waitMs = number(0, WAIT_MS_MAX)
const bytes = integer(0, BYTES_MAX)
const httpStatus = integer(200, 599)
const when = oneOf('before', 'after')
const whenCut = oneOf('accept', 'before', 'after', 'mid_body')

/** Every kind of fault with its own fields. The README explains each in one line; keep the two together. */
const KINDS = {
  errcode: { errcode: must(integer(-1_000_000_000, 1_000_000_000)), errmsg: text(1_000, 0), when },
  hang_before: {},
  hang_after: {},
  hold: { when },
  delay: { ms: waitMs, minMs: waitMs, maxMs: waitMs, medianMs: waitMs, p99Ms: waitMs, when },
  reset: { when: whenCut },
  close: { when: whenCut },
  trickle: { ms: must(waitMs), endless: flag },
  garbage: { bytes: integer(0, 1_000_000), when },
  truncate: { bytes },
  empty: { when },
  bom: {},
  html: { status: httpStatus, when },
  status: { status: must(httpStatus), when },
  redirect: { location: must(text(2_000)), status: httpStatus, when },
  huge: { bytes, when },
  gzip_bomb: { bytes, when },
  content_type: { contentType: must(text(200)) },
  body: { body: must(text(8_000_000, 0)), contentType: text(200), status: httpStatus, headers: texts, when },
} as const

export type FaultKind = keyof typeof KINDS
type Action = { [K in FaultKind]: { kind: K } & Read<(typeof KINDS)[K]> }[FaultKind]

/** A rule as a test writes it. */
export type FaultRule = Action & Read<typeof MATCH_FIELDS>

/** Kinds that carry or change the true answer; the others replace it and spare the code unless told. */
const AFTER_BY_DEFAULT: ReadonlySet<FaultKind> = new Set<FaultKind>([
  'hang_after',
  'hold',
  'delay',
  'trickle',
  'truncate',
  'bom',
  'content_type',
])

/** What a request is to meet. */
export interface Fault {
  ruleId: number
  action: Action
  /** Whether WeChat decides, and a code is used up, before the fault. */
  decided: boolean
  random: Random
}

/** What a fault rule looks at. */
export interface Subject {
  path: string
  appid: string | null
  code: string | null
  openid: string | null
  ip: string
}

interface Rule extends Fault {
  rule: FaultRule
  timesLeft: number
  hits: number
}

export type Faults = ReturnType<typeof createFaults>

/** Keeps the rules and the requests they hold. */
export function createFaults({ seed }: { seed: string }) {
  const rules = new Map<number, Rule>()
  const held = new Map<number, Set<() => void>>()
  let lastId = 0

  function find(fits: (rule: Rule) => boolean): Fault | undefined {
    for (const rule of rules.values()) {
      const { probability } = rule.rule
      if (rule.timesLeft === 0 || !fits(rule)) continue
      if (probability !== undefined && rule.random.fraction() >= probability) continue
      rule.timesLeft -= 1
      rule.hits += 1
      return rule
    }
    return undefined
  }

  return {
    /** Adds a rule; throws an InputError that says what is wrong with it. Returns its id. */
    add(input: unknown): number {
      const rule = readRule(input)
      if (rules.size >= RULES_MAX) throw new InputError(`no more than ${RULES_MAX} fault rules`)
      lastId += 1
      rules.set(lastId, {
        ruleId: lastId,
        rule,
        action: rule,
        decided: isDecided(rule),
        random: createRandom(seed, `fault rule ${lastId}`),
        timesLeft: rule.times ?? Infinity,
        hits: 0,
      })
      return lastId
    },
    /** Ends a rule. Requests it holds stay held until they are released. */
    remove: (id: number): boolean => rules.delete(id),
    clear: () => rules.clear(),
    list: () => [...rules.values()].map(({ ruleId, rule, hits }) => ({ id: ruleId, ...rule, hits })),
    count: () => rules.size,

    /** The faults of a request: the first delay that fits and the first other. */
    match(subject: Subject): { delay: Fault | undefined; fault: Fault | undefined } | undefined {
      if (rules.size === 0) return undefined
      const fits = ({ rule }: Rule): boolean => !isOnAccept(rule) && fitsSubject(rule, subject)
      const delay = find((rule) => rule.rule.kind === 'delay' && fits(rule))
      const fault = find((rule) => rule.rule.kind !== 'delay' && fits(rule))
      return delay || fault ? { delay, fault } : undefined
    },
    /** The fault of a new connection from this address. */
    matchConnection(ip: string): Fault | undefined {
      if (rules.size === 0) return undefined
      return find(({ rule }) => isOnAccept(rule) && (rule.ip === undefined || rule.ip === ip))
    },

    /** Resolves when the rule's held requests are released, or when `gone` says the client has left. */
    hold(ruleId: number, gone: (leave: () => void) => void): Promise<void> {
      const waiting = held.get(ruleId) ?? new Set()
      held.set(ruleId, waiting)
      return new Promise((resolve) => {
        const leave = (): void => {
          waiting.delete(leave)
          resolve()
        }
        waiting.add(leave)
        gone(leave)
      })
    },
    /** Lets held requests go on: those of one rule, or all. Returns how many. */
    release(ruleId?: number): number {
      const sets = ruleId === undefined ? [...held.values()] : [held.get(ruleId) ?? new Set<() => void>()]
      const leaving = sets.flatMap((waiting) => [...waiting])
      for (const leave of leaving) leave()
      return leaving.length
    },
    heldCount: () => [...held.values()].reduce((sum, waiting) => sum + waiting.size, 0),
  }
}

/** Milliseconds to wait by a delay rule: fixed, uniform between two, or lognormal by median and p99. */
export function drawDelayMs(delay: Read<(typeof KINDS)['delay']>, random: Random): number {
  const { ms, minMs, maxMs, medianMs, p99Ms } = delay
  if (ms !== undefined) return ms
  if (minMs !== undefined && maxMs !== undefined) return minMs + random.fraction() * (maxMs - minMs)
  if (medianMs === undefined || p99Ms === undefined) return 0
  // 2.3263 standard deviations lie below the 99th percentile of a normal distribution. Box and Muller
  // give the normal deviate; 1 - fraction() keeps the logarithm away from zero.
  const deviation = Math.log(p99Ms / medianMs) / 2.3263
  const deviate = Math.sqrt(-2 * Math.log(1 - random.fraction())) * Math.cos(2 * Math.PI * random.fraction())
  return Math.min(medianMs * Math.exp(deviation * deviate), WAIT_MS_MAX)
}

function readRule(input: unknown): FaultRule {
  const kind = isObject(input) ? input['kind'] : undefined
  if (!isKind(kind)) {
    throw new InputError(`a fault rule: kind must be one of ${Object.keys(KINDS).join(', ')}`)
  }
  const fields = { kind: oneOf(kind), ...MATCH_FIELDS, ...KINDS[kind] }
  // The fields are those of this kind; TypeScript cannot follow the union through the table.
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion
  const rule = readFields(input, `a fault rule of kind ${kind}`, fields) as FaultRule
  if (rule.kind === 'delay') checkDelay(rule)
  if (rule.path !== undefined && !rule.path.startsWith('/')) {
    throw new InputError('a fault rule: path must begin with "/" and have no host')
  }
  if (isOnAccept(rule) && (rule.path ?? rule.appid ?? rule.code ?? rule.openid) !== undefined) {
    throw new InputError('a fault rule: on accept there is no request yet, only ip can match')
  }
  return rule
}

function checkDelay({ ms, minMs, maxMs, medianMs, p99Ms }: Read<(typeof KINDS)['delay']>): void {
  const given = [ms, minMs, maxMs, medianMs, p99Ms].filter((value) => value !== undefined).length
  const fixed = ms !== undefined && given === 1
  const uniform = minMs !== undefined && maxMs !== undefined && minMs <= maxMs && given === 2
  const lognormal = medianMs !== undefined && p99Ms !== undefined && medianMs <= p99Ms && given === 2
  if (fixed || uniform || (lognormal && medianMs > 0)) return
  throw new InputError(
    'a fault rule of kind delay takes ms, or minMs and maxMs, or medianMs and p99Ms, the smaller first',
  )
}

function isKind(kind: unknown): kind is FaultKind {
  return typeof kind === 'string' && Object.hasOwn(KINDS, kind)
}

function isOnAccept(rule: FaultRule): boolean {
  return 'when' in rule && rule.when === 'accept'
}

function isDecided(rule: FaultRule): boolean {
  if ('when' in rule && rule.when !== undefined) return rule.when === 'after' || rule.when === 'mid_body'
  return AFTER_BY_DEFAULT.has(rule.kind)
}

function fitsSubject(rule: FaultRule, subject: Subject): boolean {
  return (
    (rule.path === undefined || rule.path === subject.path) &&
    (rule.appid === undefined || rule.appid === subject.appid) &&
    (rule.code === undefined || rule.code === subject.code) &&
    (rule.openid === undefined || rule.openid === subject.openid) &&
    (rule.ip === undefined || rule.ip === subject.ip)
  )
}
