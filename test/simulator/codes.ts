/**
 * Single-use codes: those of wx.login() and those of the phone number button.
 *
 * A code works once and for five minutes. A used one is remembered as used until its five minutes are
 * over; after that it is as unknown as one that never existed, which is how 40163 turns into 40029.
 * Taking a code is one synchronous step, so of any number of concurrent exchanges exactly one wins.
 */

/** A code that was issued less than its life ago. */
export interface IssuedCode<Subject> {
  subject: Subject
  issuedAt: number
  used: boolean
}

export type Codes<Subject> = ReturnType<typeof createCodes<Subject>>

/**
 * Keeps codes for `lifeMs`, at most `codesMax` of them: beyond that the oldest is forgotten, counted in
 * `forgotten()`, and answers as if it had never been issued. `mint` makes the text of a code.
 */
export function createCodes<Subject>(
  { mint, now }: { mint: () => string; now: () => number },
  { lifeMs, codesMax }: { lifeMs: number; codesMax: number },
) {
  const codes = new Map<string, IssuedCode<Subject>>()
  let issued = 0
  let forgotten = 0

  /** Codes are kept in the order of issue, so the expired ones are at the front. */
  function dropExpired(): void {
    for (const [code, { issuedAt }] of codes) {
      if (now() - issuedAt < lifeMs && codes.size < codesMax) return
      if (now() - issuedAt < lifeMs) forgotten += 1
      codes.delete(code)
    }
  }

  return {
    issue(subject: Subject): string {
      dropExpired()
      const code = mint()
      codes.set(code, { subject, issuedAt: now(), used: false })
      issued += 1
      return code
    },
    /** The code with its state, or undefined when it never existed or its life is over. */
    find(code: string): IssuedCode<Subject> | undefined {
      const found = codes.get(code)
      return found && now() - found.issuedAt < lifeMs ? found : undefined
    },
    counts: () => ({ remembered: codes.size, issued, forgotten }),
    clear: () => codes.clear(),
  }
}
