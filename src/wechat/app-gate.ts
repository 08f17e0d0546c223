/**
 * Gates, one an app: an app that WeChat refuses for its configuration (wrong AppSecret, address not listed)
 * is answered for by ourselves, at once, until a probe finds it put right. The other apps notice nothing.
 *
 * Only what a client cannot bring about may shut a gate, or one user could close an app. It shuts at the third
 * such refusal in a row: a single odd answer of WeChat's shall not cost an app its logins.
 */
import { APP_KINDS } from '../app-entry.ts'
import type { App } from '../app-entry.ts'
import { GatewayError } from '../errors.ts'

/** Refusals in a row that shut a gate. */
export const GATE_REFUSALS = 3
/** While a gate is shut, one login in this time is let through, to see whether the app has been put right. */
const PROBE_INTERVAL_MS = 10_000

export interface AppGates {
  /** @throws {GatewayError} app_misconfigured, when the gate is shut and no probe is due, or no secret is known */
  admit(app: App): void
  /** Who was admitted has not asked after all: if that was the probe, the next login is one. */
  unasked(app: App): void
  /** WeChat refused the app itself, with this errcode. */
  refused(app: App, errcode: number): void
  /** WeChat took the app for what it is, whatever it said of the code. */
  accepted(app: App): void
  /** The errcode for which the app's gate is shut; undefined when it is open. */
  shutBy(app: App): number | undefined
}

interface Refusals {
  /** Counted for this very object: a changed app, with a new secret for instance, begins with an open gate. */
  app: App
  inARow: number
  errcode: number
  probeAtMs: number
  /** A probe was let through since the last refusal. */
  isProbed: boolean
}

/**
 * Of this process alone. Holds something only for apps that were refused last.
 * @param onGate told when a gate shuts (with the errcode) and when it opens again
 */
export function createAppGates(
  onGate: (appid: string, errcode: number | undefined) => void,
  nowMs: () => number = () => performance.now(),
): AppGates {
  const refusals = new Map<string, Refusals>()

  const find = (app: App): Refusals | undefined => {
    const found = refusals.get(app.appid)
    return found?.app === app ? found : undefined
  }
  const isShut = (found: Refusals | undefined): found is Refusals =>
    found !== undefined && found.inARow >= GATE_REFUSALS

  return {
    admit(app) {
      // Registered under a seal key that this gateway does not have: asking WeChat would be in vain.
      if (APP_KINDS[app.kind].secret && app.secrets.length === 0) throw new GatewayError('app_misconfigured')
      const found = find(app)
      if (!isShut(found)) return
      const waitMs = found.probeAtMs - nowMs()
      if (waitMs > 0) {
        throw new GatewayError('app_misconfigured', {
          errcode: found.errcode,
          retryAfterSeconds: Math.ceil(waitMs / 1000),
        })
      }
      Object.assign(found, { probeAtMs: nowMs() + PROBE_INTERVAL_MS, isProbed: true })
    },

    unasked(app) {
      const found = find(app)
      if (!isShut(found) || !found.isProbed) return
      Object.assign(found, { probeAtMs: nowMs(), isProbed: false })
    },

    refused(app, errcode) {
      const before = find(app)
      const inARow = (before?.inARow ?? 0) + 1
      const probeAtMs = nowMs() + PROBE_INTERVAL_MS
      refusals.set(app.appid, { app, inARow, errcode, probeAtMs, isProbed: false })
      if (inARow === GATE_REFUSALS) onGate(app.appid, errcode)
    },

    accepted(app) {
      const found = refusals.get(app.appid)
      if (found === undefined) return
      refusals.delete(app.appid)
      if (isShut(found)) onGate(app.appid, undefined)
    },

    shutBy(app) {
      const found = find(app)
      return isShut(found) ? found.errcode : undefined
    },
  }
}
