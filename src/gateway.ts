/**
 * The wiring, top to bottom: the one place that knows every part.
 */
import { createCodes } from './codes.ts'
import type { GatewayConfig } from './config.ts'
import { GatewayError } from './errors.ts'
import { createHealth } from './health.ts'
import { createAdminApp } from './http/admin.ts'
import { createPublicApp } from './http/public.ts'
import { createLimits } from './limits.ts'
import type { Log } from './log.ts'
import { createLogin } from './login.ts'
import type { Login } from './login.ts'
import { createGatewayMetrics } from './metrics.ts'
import type { GatewayMetrics } from './metrics.ts'
import { createProvisioning, createSelfHeal } from './provisioning.ts'
import { connectFailFast, createKeys, createStoreClock, disconnect, waitUntilReady } from './redis.ts'
import { createSeal } from './seal.ts'
import { createSessions } from './sessions.ts'
import { createTokens } from './tokens.ts'
import { createCalls } from './wechat/calls.ts'
import { createCode2Session } from './wechat/code2session.ts'
import { meaningOf, errcodeLabel } from './wechat/errcodes.ts'

const REDIS_FIRST_CONTACT_MS = 2_000
const CLOSE_STEP_MS = 1_000

/**
 * Builds the gateway from its configuration. Opens connections, listens to nothing. `start()` resolves once
 * Redis has been reached; it may be called again when it fails.
 */
export function createGateway(config: GatewayConfig, log: Log) {
  const metrics = createGatewayMetrics()
  const health = createHealth()
  const keys = createKeys(config.redis.keyPrefix)

  const redis = connectFailFast(config.redis)
  const clock = createStoreClock(redis)
  redis.on('error', (error: Error) => log.warn({ err: error }, 'Redis connection failed'))
  redis.on('ready', () => {
    metrics.redisUp.set(1)
    log.info('Redis connection ready')
  })
  redis.on('close', () => metrics.redisUp.set(0))

  const provisioning = createProvisioning(redis, keys, (outcome) =>
    metrics.provisioningEnqueued.inc({ outcome }),
  )
  metrics.queueJobs(() => provisioning.counts())
  const selfHeal = createSelfHeal(provisioning, clock, () => metrics.provisioningSelfheal.inc())

  const limits = createLimits(redis, keys, config.limits, (limit, outcome) =>
    metrics.limits.inc({ limit, outcome }),
  )
  const codes = createCodes(redis, keys, {
    onClaim: (outcome) => metrics.claims.inc({ outcome }),
    onClaimLost: (error) => log.warn({ err: error }, 'a claim could not be closed'),
  })

  const calls = createCalls()
  const wechat = createCode2Session(
    calls,
    { apps: config.apps, apiUrls: config.wechatApiUrls, loginDeadlineMs: config.loginDeadlineMs },
    {
      onCall: ({ host, outcome, seconds }) => metrics.exchanges.observe({ host, outcome }, seconds),
      onErrcode(appid, errcode, rid) {
        metrics.errcodes.inc({ errcode: errcodeLabel(errcode) })
        log.debug({ appid, errcode, meaning: meaningOf(errcode), rid }, 'WeChat answered with an errcode')
      },
      onFailure: (host, outcome, reason) => log.warn({ host, outcome, reason }, 'WeChat failed'),
      onBreaker(host, state) {
        metrics.setBreaker(host, state)
        log.info({ host, state }, 'circuit breaker')
      },
    },
  )

  const sessions = createSessions(
    {
      redis,
      keys,
      clock,
      seal: createSeal(config.sealKeys),
      tokens: createTokens(config.tokenKeys),
      observer: {
        onOpen: () => metrics.sessionsOpened.inc(),
        onFind: (outcome) => metrics.sessionsFound.inc({ outcome }),
        onRevoke: (scope) => metrics.sessionsRevoked.inc({ scope }),
        onUnprovisioned: selfHeal,
      },
    },
    {
      ttlSeconds: config.sessionTtlSeconds,
      perUserMax: config.sessionsPerUser,
      loginPerUser: config.limits.loginPerUser,
      provisionRefreshSeconds: config.provisionRefreshSeconds,
    },
  )

  const startDeadline = () => AbortSignal.timeout(config.loginDeadlineMs)
  const login = measured(
    createLogin({ limits, codes, wechat, sessions, provisioning, startDeadline }),
    metrics,
  )

  const server = {
    log,
    health,
    metrics,
    trustProxy: config.trustProxy,
    loginDeadlineMs: config.loginDeadlineMs,
  }
  const appids = new Set(config.apps.map((app) => app.appid))
  const app = createPublicApp({ ...server, login, appids, sessions, exposeOpenid: config.exposeOpenid })
  const admin = createAdminApp({ ...server, adminToken: config.adminToken })

  return {
    app,
    admin,
    /** The gateway is ready from here on. @throws {GatewayError} store_unavailable */
    async start(): Promise<void> {
      await waitUntilReady(redis, REDIS_FIRST_CONTACT_MS)
      await clock.sync()
      health.started()
    },
    /** Go on answering, but tell the load balancer and every client to go elsewhere. */
    drain: () => health.drain(),
    /** Lets requests finish, then closes everything. Bounded, whether or not Redis answers. */
    async close(): Promise<void> {
      health.drain()
      await app.close()
      clock.stop()
      health.stop()
      wechat.close()
      await calls.close()
      await within(CLOSE_STEP_MS, provisioning.close())
      await disconnect(redis, CLOSE_STEP_MS)
      await admin.close()
    },
  }
}

export type Gateway = ReturnType<typeof createGateway>

function measured(login: Login, metrics: GatewayMetrics): Login {
  return async (attempt) => {
    const stop = metrics.loginSeconds.startTimer()
    try {
      const grant = await login(attempt)
      metrics.logins.inc({ outcome: 'ok' })
      return grant
    } catch (error) {
      metrics.logins.inc({ outcome: error instanceof GatewayError ? error.code : 'internal' })
      throw error
    } finally {
      stop()
    }
  }
}

/** Waits for a step of closing, but not for ever: BullMQ's close() never ends while Redis is away. */
async function within(timeoutMs: number, step: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const timeout = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, timeoutMs)
  })
  await Promise.race([step.catch(() => {}), timeout])
  clearTimeout(timer)
}
