/** The secrets of an app as credentials: first the one that worked last, then the other. */
import type { App } from '../app-entry.ts'
import { GatewayError } from '../errors.ts'
import type { Credential } from './platform.ts'

/** A credential that needs no waiting. */
export interface AppSecret extends Credential {
  next(): AppSecret | undefined
}

export interface AppSecrets {
  /** @throws {GatewayError} app_misconfigured, when the app has none that can be opened */
  credential(app: App): AppSecret
}

/** Of this process alone. */
export function createAppSecrets(): AppSecrets {
  /** Which of its two secrets the platform took last: it is tried first from then on. */
  const working = new WeakMap<App, number>()

  return {
    credential(app) {
      const first = secretAt(app, working.get(app) ?? 0, app.secrets.length - 1)
      if (first === undefined) throw new GatewayError('app_misconfigured')
      return first
    },
  }

  function secretAt(app: App, index: number, others: number): AppSecret | undefined {
    const text = app.secrets[index]
    if (text === undefined) return undefined
    return {
      text,
      next: () => (others > 0 ? secretAt(app, (index + 1) % app.secrets.length, others - 1) : undefined),
      worked() {
        if (app.secrets.length > 1) working.set(app, index)
      },
    }
  }
}
