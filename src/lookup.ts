/**
 * Names of hosts to addresses, by the system (getaddrinfo: hosts file, search domains and all), with a memory.
 *
 * Needed because a DNS server that does not answer holds one of libuv's four threads for each question, for ten
 * seconds and more: a few logins would stop whatever else the process does there. So there is one question a name at
 * a time, and two in all, and while they are open, or are answered with an error, the addresses known last serve for
 * five minutes. A fresh answer is used for 15 s; together with the life of a connection (wechat/calls.ts) a new address
 * is in use within a minute, and at once when the old one does not take connections any more.
 *
 * Whoever asks waits for as long as the system does where nothing is known yet: they have a deadline of their own.
 */
import { lookup as askSystem } from 'node:dns/promises'
import type { LookupAddress } from 'node:dns'
import type { LookupFunction } from 'node:net'
import { setTimeout as pause } from 'node:timers/promises'
import { callbackify } from 'node:util'

const FRESH_MS = 15_000
/** Since the last answer. */
const STALE_MS_MAX = 300_000
/** After a failure, or an address that failed, the system is not asked again for so long. */
const RETRY_MS = 1_000
/** How long a question may take before the addresses known last are used. */
const PATIENCE_MS = 300
/** Half of libuv's threads. */
const QUESTIONS_MAX = 2

export interface Lookup {
  /** As net.connect() takes it. */
  readonly find: LookupFunction
  /** No connection came about: the addresses may have changed. */
  doubt(hostname: string): void
}

interface Entry {
  addresses: readonly LookupAddress[] | undefined
  learntAtMs: number
  freshUntilMs: number
  error: Error | undefined
  /** When the system may be asked again. */
  askAtMs: number
  /** The question that is open. It never rejects. */
  question: Promise<void> | undefined
  askedAtMs: number
}

interface LookupDeps {
  askDns?: (hostname: string) => Promise<LookupAddress[]>
  nowMs?: () => number
}

/** Remembers for ever, but only the names it is asked for: those of the configured hosts. */
export function createLookup({
  askDns = (hostname) => askSystem(hostname, { all: true }),
  nowMs = () => performance.now(),
}: LookupDeps = {}): Lookup {
  const entries = new Map<string, Entry>()
  const inTurn = createTurns(QUESTIONS_MAX)
  const ask = callbackify(addressesOf)

  return {
    find(hostname, options, callback) {
      ask(hostname, (error, addresses) => {
        if (error !== null) return callback(error, [])
        const [first] = addresses
        if (first === undefined) callback(noAddress(hostname), [])
        else if (options.all) callback(null, [...addresses])
        else callback(null, first.address, first.family)
      })
    },
    doubt(hostname) {
      const entry = entries.get(hostname)
      if (entry !== undefined) entry.freshUntilMs = 0
    },
  }

  async function addressesOf(hostname: string): Promise<readonly LookupAddress[]> {
    const entry = entryOf(hostname)
    if (entry.addresses !== undefined && nowMs() < entry.freshUntilMs) return entry.addresses
    if (entry.question === undefined && nowMs() >= entry.askAtMs) {
      entry.askedAtMs = nowMs()
      entry.question = inTurn(() => answer(hostname, entry))
    }
    const staleMs = nowMs() - entry.learntAtMs
    const isUsable = entry.addresses !== undefined && staleMs < STALE_MS_MAX
    if (entry.question !== undefined) {
      const patienceMs = entry.askedAtMs + PATIENCE_MS - nowMs()
      if (!isUsable) await entry.question
      else if (patienceMs > 0)
        await Promise.race([entry.question, pause(patienceMs, undefined, { ref: false })])
    }
    // A question that was answered with an error leaves what was known before, for as long as that is usable.
    if (entry.addresses !== undefined && nowMs() - entry.learntAtMs < STALE_MS_MAX) return entry.addresses
    throw entry.error ?? noAddress(hostname)
  }

  function entryOf(hostname: string): Entry {
    const known = entries.get(hostname)
    if (known !== undefined) return known
    const entry: Entry = {
      addresses: undefined,
      learntAtMs: -Infinity,
      freshUntilMs: 0,
      error: undefined,
      askAtMs: 0,
      question: undefined,
      askedAtMs: 0,
    }
    entries.set(hostname, entry)
    return entry
  }

  async function answer(hostname: string, entry: Entry): Promise<void> {
    try {
      const addresses = await askDns(hostname)
      if (addresses.length === 0) throw noAddress(hostname)
      entry.addresses = addresses
      entry.learntAtMs = nowMs()
      entry.freshUntilMs = nowMs() + FRESH_MS
    } catch (error) {
      entry.error = error as Error
    } finally {
      entry.askAtMs = nowMs() + RETRY_MS
      entry.question = undefined
    }
  }
}

/** Runs so many at once; the others wait for their turn. */
function createTurns(most: number): (work: () => Promise<void>) => Promise<void> {
  const waiting: (() => void)[] = []
  let running = 0
  return async (work) => {
    if (running >= most) await new Promise<void>((resolve) => waiting.push(resolve))
    else running += 1
    try {
      await work()
    } finally {
      const next = waiting.shift()
      if (next === undefined) running -= 1
      else next()
    }
  }
}

function noAddress(hostname: string): NodeJS.ErrnoException {
  return Object.assign(new Error('no address'), { code: 'ENOTFOUND', hostname })
}
