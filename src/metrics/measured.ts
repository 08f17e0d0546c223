/** Measures logins and validations from outside: what does them knows nothing of it. */
import { GatewayError } from '../errors.ts'
import type { Login, LoginPorts } from '../login.ts'
import type { GatewayMetrics } from './gateway.ts'
import type { Sessions } from '../sessions.ts'

/** The login, counted and timed. */
export function measuredLogin(
  login: Login,
  metrics: GatewayMetrics,
  labelOf: (appid: string) => string,
): Login {
  return async (attempt) => {
    const startedMs = performance.now()
    try {
      const grant = await login(attempt)
      metrics.logins.inc({ outcome: 'ok' })
      metrics.appLogins.inc({ appid: labelOf(attempt.appid), result: 'ok' })
      return grant
    } catch (error) {
      metrics.logins.inc({ outcome: error instanceof GatewayError ? error.code : 'internal' })
      const refused = error instanceof GatewayError && error.status < 500
      metrics.appLogins.inc({ appid: labelOf(attempt.appid), result: refused ? 'refused' : 'failed' })
      throw error
    } finally {
      metrics.loginTook((performance.now() - startedMs) / 1_000)
    }
  }
}

/** Finding a session, timed. Where Redis does not say whether it is there, that is an outcome too. */
export function measuredFind(
  find: Sessions['find'],
  metrics: GatewayMetrics,
  source: 'miss' | 'off',
): Sessions['find'] {
  return (token, requiredAppid) => {
    const startedMs = performance.now()
    const end = () => metrics.validationSeconds.observe((performance.now() - startedMs) / 1_000)
    const finding = find(token, requiredAppid)
    finding.then(end, () => {
      end()
      metrics.sessionsFound.inc({ outcome: 'failed', cache: source })
    })
    return finding
  }
}

export type LoginStage = 'limit' | 'claim' | 'exchange' | 'session' | 'provisioning'

/** The same ports, and `onStage` told how long each of them took, whatever came of it. */
export function timeStages(
  ports: LoginPorts,
  onStage: (stage: LoginStage, seconds: number) => void,
): LoginPorts {
  const { limits, codes, wechat, sessions, provisioning } = ports
  const timed =
    <Arguments extends unknown[], Result>(stage: LoginStage, work: (...args: Arguments) => Promise<Result>) =>
    (...args: Arguments): Promise<Result> => {
      const startedMs = performance.now()
      const working = work(...args)
      const end = () => onStage(stage, (performance.now() - startedMs) / 1_000)
      working.then(end, end) // beside it: the login waits for no more than before
      return working
    }
  return {
    ...ports,
    limits: { ...limits, spendLogin: timed('limit', limits.spendLogin) },
    codes: { ...codes, claim: timed('claim', codes.claim) },
    wechat: { ...wechat, exchange: timed('exchange', wechat.exchange) },
    sessions: {
      ...sessions,
      open: timed('session', sessions.open),
      resume: timed('session', sessions.resume),
    },
    provisioning: { ...provisioning, enqueue: timed('provisioning', provisioning.enqueue) },
  }
}
