/**
 * What a code is worth at the moment, whichever platform's endpoint it came to: in WeChat's numbers, which the
 * endpoints of other platforms put into their own.
 */
import type { App } from './apps.ts'
import type { Codes } from './codes.ts'
import type { Account } from './users.ts'
import { spendOfMinute } from './quotas.ts'

/** Too many calls; never issued, expired or of another app; used; a blocked user. */
export type Worthless = 45011 | 40029 | 40163 | 40226

export type Redemption = ReturnType<typeof createRedemption>

/**
 * Takes codes, each in one synchronous step, so that exactly one of its exchanges gets it.
 *
 * `wrongAppidBurnsCode`: whether an exchange by the wrong app uses the code up. Nobody knows; WeChat answers
 * 40029 either way.
 */
export function createRedemption(
  { codes, now }: { codes: Codes<Account>; now: () => number },
  { wrongAppidBurnsCode }: { wrongAppidBurnsCode: boolean },
) {
  return {
    /** Whose the code was, which is used up now; or why it is worth nothing. */
    redeem(app: App, code: string): Account | Worthless {
      const found = codes.find(code)
      const account = found?.subject
      const { counts, quotas } = app
      if (!spendOfMinute(counts.exchangesPerAppPerMinute, quotas.exchangesPerAppPerMinute, now()))
        return 45011
      if (account && !spendOfMinute(account.exchanges, quotas.exchangesPerUserPerMinute, now())) return 45011
      if (!found || !account) return 40029
      if (account.appid !== app.appid) {
        if (wrongAppidBurnsCode) found.used = true
        return 40029
      }
      if (found.used) return 40163
      if (account.blocked) return 40226
      found.used = true
      return account
    },
    /** For the history. */
    openidOf: (code: string | undefined): string | null =>
      (code !== undefined && codes.find(code)?.subject.openid) || null,
  }
}
