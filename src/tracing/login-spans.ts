/** The steps of a login as spans: login.ts with other ports, and itself as it is. */
import { GatewayError } from '../errors.ts'
import type { LoginPorts } from '../login.ts'
import { activeSpan, inSpan } from './span.ts'

/** Ports that do as these and tell of it. Only with tracing on. */
export function traceLogin(ports: LoginPorts): LoginPorts {
  const { codes, wechat, sessions, provisioning, limits } = ports
  return {
    ...ports,
    limits: {
      ...limits,
      spendLogin: (ip) => inSpan('limit login_per_ip', {}, () => limits.spendLogin(ip)),
      spendExchange: (appid) => inSpan('limit exchange_per_app', {}, () => limits.spendExchange(appid)),
    },
    codes: {
      share(attempt, lead) {
        let leads = false
        const grant = codes.share(attempt, () => {
          leads = true
          return lead()
        })
        activeSpan()?.set({ 'wechat.appid': attempt.appid, ...(!leads && { 'gateway.claim': 'shared' }) })
        return grant
      },
      async claim(attempt, deadline) {
        const claimed = await inSpan('claim code', {}, () => codes.claim(attempt, deadline))
        activeSpan()?.set({ 'gateway.claim': claimed.state })
        return claimed
      },
    },
    wechat: {
      ...wechat,
      exchange: (request, deadline) =>
        inSpan('exchange', { attributes: { 'wechat.appid': request.appid } }, async (span) => {
          try {
            return await wechat.exchange(request, deadline)
          } catch (error) {
            if (error instanceof GatewayError && error.errcode !== undefined)
              span?.set({ 'wechat.errcode': error.errcode })
            throw error
          }
        }),
    },
    sessions: {
      ...sessions,
      open: (attempt, identity, startedAtMs) =>
        inSpan('open session', {}, () => sessions.open(attempt, identity, startedAtMs)),
      resume: (attempt, settlement) =>
        inSpan('resume session', {}, () => sessions.resume(attempt, settlement)),
    },
    provisioning,
  }
}
