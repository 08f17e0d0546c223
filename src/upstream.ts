/**
 * The wiring of all that speaks WeChat: gates, slots, breakers and hosts, and what metrics and log hear of them. The
 * order in which a login meets them:
 *
 *   gate of the app (refused, or out of quota) → slot → breaker of the host → connection
 */
import type { App } from './app-entry.ts'
import type { Apps } from './apps.ts'
import type { GatewayConfig } from './config.ts'
import type { Log } from './log.ts'
import type { GatewayMetrics } from './metrics/gateway.ts'
import { createApi } from './wechat/api.ts'
import { createAppGates } from './wechat/app-gate.ts'
import { createBreakers } from './wechat/breaker.ts'
import { createBulkhead } from './wechat/bulkhead.ts'
import { tellOfErrcode, traceCalls } from './wechat/call-spans.ts'
import { createCalls } from './wechat/calls.ts'
import { createCode2Session } from './wechat/code2session.ts'
import { createHosts } from './wechat/hosts.ts'
import { createPlatforms } from './wechat/platforms.ts'
import type { Platforms } from './wechat/platforms.ts'
import { createQuotaGates } from './wechat/quota-gate.ts'

export interface UpstreamDeps {
  config: GatewayConfig
  apps: Pick<Apps, 'find' | 'list' | 'labelOf'>
  metrics: GatewayMetrics
  log: Log
  isTraced: boolean
}

/** Opens no connection before the first call. */
export function createUpstream({ config, apps, metrics, log, isTraced }: UpstreamDeps) {
  const errcodesOf = (appid: string) => platforms[apps.find(appid)?.kind ?? 'wechat'].errcodes
  const gates = createAppGates((appid, errcode) => {
    if (errcode === undefined) return log.info({ appid }, 'WeChat takes the app again')
    const meaning = errcodesOf(appid).meaningOf(errcode)
    log.error({ appid, errcode, meaning }, 'WeChat refuses the app; it is gated')
  })
  const quotas = createQuotaGates((appid, shut) => {
    if (shut) log.error({ appid }, 'WeChat limits the calls of the app (45011); it is gated')
    else log.info({ appid }, 'WeChat takes calls of the app again')
  })
  metrics.gatedApps(() =>
    apps.list().flatMap(({ app }) => {
      const appid = apps.labelOf(app.appid)
      return [
        ...(gates.shutBy(app) === undefined ? [] : [{ appid, why: 'misconfigured' as const }]),
        ...(quotas.isShut(app.appid) ? [{ appid, why: 'rate_limited' as const }] : []),
      ]
    }),
  )

  const breakers = createBreakers({ callMsMax: config.loginDeadlineMs })
  // Connections of their own, so that logins and other calls cannot take each other's.
  const openCalls = () => (isTraced ? traceCalls(createCalls()) : createCalls())
  const [calls, apiCalls] = [openCalls(), openCalls()]
  const bulkhead = createBulkhead((why) => metrics.slotsRefused.inc({ calls: 'exchange', why }))
  const apiBulkhead = createBulkhead((why) => metrics.slotsRefused.inc({ calls: 'api', why }))
  metrics.slots(() => ({ exchange: bulkhead.counts(), api: apiBulkhead.counts() }))
  const hosts = createHosts(
    { calls, breakers },
    {
      onCall({ host, purpose, outcome, seconds, refused }) {
        if (purpose === 'exchange') metrics.exchanged({ host, outcome }, seconds)
        else metrics.apiCalls.observe(seconds, { call: 'wecom_token', outcome })
        if (purpose === 'exchange' && refused !== undefined)
          metrics.refusals.inc({ host, class: errcodesOf(refused.appid).answerTo(refused.errcode) })
      },
      onFailure: (host, outcome, reason) => log.warn({ host, outcome, reason }, 'WeChat failed'),
      onBreaker(host, state) {
        metrics.setBreaker(host, 'exchange', state)
        log.info({ host, state }, 'circuit breaker')
      },
    },
  )
  hosts.know(config.wechatApiUrls)
  const onErrcode = ({ appid, kind }: App, errcode: number, rid: string | undefined) => {
    const { errcodes } = platforms[kind]
    metrics.errcodes.inc({ kind, errcode: errcodes.labelOf(errcode) })
    const meaning = errcodes.meaningOf(errcode)
    log.debug({ appid, errcode, meaning, rid }, 'WeChat answered with an errcode')
    if (isTraced) tellOfErrcode(errcode, meaning, rid)
  }
  const platforms: Platforms = createPlatforms(hosts, config, {
    onErrcode,
    onComponentTokensFault: (reason) => log.error({ reason }, 'WECHAT_COMPONENT_TOKENS_FILE cannot be used'),
  })
  const code2Session = createCode2Session({
    hosts,
    bulkhead,
    platforms,
    gates,
    quotas,
    findApp: apps.find,
    onErrcode,
  })

  const api = createApi(
    { calls: apiCalls, breakers, bulkhead: apiBulkhead },
    { apiUrls: config.wechatApiUrls },
    {
      onCall: ({ name, outcome, seconds }) => metrics.apiCalls.observe(seconds, { call: name, outcome }),
      onErrcode: (name, appid, errcode, rid) =>
        log.info({ call: name, appid, errcode, rid }, 'WeChat answered a call with an errcode'),
      onFailure: (host, name, outcome) => log.warn({ host, call: name, outcome }, 'a call of WeChat failed'),
      onBreaker: (host, state) => metrics.setBreaker(host, 'api', state),
    },
  )

  return {
    code2Session,
    api,
    /** The errcode for which an app's gate is shut; undefined when it is open. */
    refusedWith: (app: App) => gates.shutBy(app),
    async close(): Promise<void> {
      breakers.close()
      await Promise.all([calls.close(), apiCalls.close()])
    },
  }
}
