/**
 * Sessions that were found valid a moment ago, so that a validation need not ask Redis each time.
 *
 * The bound is time: an entry answers for `ttlMs` from the moment before Redis was asked, and so no session
 * is taken for valid longer than that after it was ended, whatever becomes of messages. Messages (a user
 * whose sessions were ended) make it milliseconds in practice. Only valid sessions are kept, and no token:
 * entries go by the keyed hash that Redis has too. Whether a kept one has expired meanwhile, sessions.ts sees.
 */
/** A session takes about half a kilobyte here. */
const ENTRIES_MAX = 50_000
/**
 * Kept when there are too many: a sixteenth goes at once. A Map steps over all that was deleted from its front, so one at
 * a time would cost tens of microseconds each.
 */
const KEPT_SHARE = 15 / 16

/** @param entriesMax above it those that were found first go first */
export function createSessionCache<Session extends { sub: string }>(ttlMs: number, entriesMax = ENTRIES_MAX) {
  type Entries = Map<string, { session: Session; untilMs: number }>
  /** By user, for that is what is ended; the user whose session was found last stands last. */
  const users = new Map<string, Entries>()
  let size = 0
  /** Questions that are on their way, by user. What is ended meanwhile must not be kept from their answers. */
  const asked = new Map<string, Set<object>>()

  return {
    /** The session found a moment ago, if nothing has been heard of its end. */
    get(sub: string, field: string): Session | undefined {
      const entry = users.get(sub)?.get(field)
      return entry !== undefined && performance.now() < entry.untilMs ? entry.session : undefined
    },

    /** Asks Redis, and keeps what it finds. Rejects as `ask` does. */
    async find<Found extends { session: Session }>(
      { sub, field }: { sub: string; field: string },
      ask: () => Promise<Found | undefined>,
    ): Promise<Found | undefined> {
      const untilMs = performance.now() + ttlMs
      const question = {}
      const questions = asked.get(sub) ?? new Set()
      asked.set(sub, questions.add(question))
      try {
        const found = await ask()
        if (found !== undefined && questions.has(question)) keep(field, found.session, untilMs)
        return found
      } finally {
        questions.delete(question)
        if (questions.size === 0 && asked.get(sub) === questions) asked.delete(sub)
      }
    },

    /** Forgets a user whose sessions, or some of them, were ended. */
    drop(sub: string): void {
      asked.get(sub)?.clear()
      size -= users.get(sub)?.size ?? 0
      users.delete(sub)
    },

    /** Forgets all: messages may have been missed. */
    clear(): void {
      for (const questions of asked.values()) questions.clear()
      users.clear()
      size = 0
    },

    /** Entries held. */
    size: () => size,
  }

  function keep(field: string, session: Session, untilMs: number): void {
    const entries: Entries = users.get(session.sub) ?? new Map()
    if (!entries.has(field)) size += 1
    entries.set(field, { session, untilMs })
    users.delete(session.sub)
    users.set(session.sub, entries)
    if (size <= entriesMax) return
    for (const [sub, { size: count }] of users) {
      if (size <= Math.ceil(entriesMax * KEPT_SHARE)) break
      users.delete(sub)
      size -= count
    }
  }
}

export type SessionCache<Session extends { sub: string }> = ReturnType<typeof createSessionCache<Session>>
