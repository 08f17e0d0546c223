/**
 * The wiring, top to bottom: the one place that knows every part.
 */
import { createApps } from './apps.ts'
import { createBacklog } from './backlog.ts'
import { createBlocking } from './blocking.ts'
import { createRunning, within } from './closing.ts'
import { createCodes } from './codes.ts'
import type { GatewayConfig } from './config.ts'
import { startDeadline } from './deadline.ts'
import { createDeadJobs } from './dead-jobs.ts'
import { createErasure } from './erasure.ts'
import { createEvictionWatch } from './redis/eviction-policy.ts'
import { createHealth } from './health.ts'
import { createAdminApp } from './http/admin.ts'
import { QUEUES_PATH } from './http/queue-routes.ts'
import { createPublicApp } from './http/public.ts'
import { createJwts } from './jwt.ts'
import { createLimits } from './limits.ts'
import { createThrottle } from './log.ts'
import { createLocalLimits } from './local-limits.ts'
import type { Log } from './log.ts'
import { createLogin } from './login.ts'
import type { Grant, LoginPorts } from './login.ts'
import { measuredFind, measuredLogin, timeStages } from './metrics/measured.ts'
import { createGatewayMetrics } from './metrics/gateway.ts'
import { createProvisioning, createSelfHeal } from './provisioning.ts'
import { createStoreClock } from './redis/clock.ts'
import { connectFailFast, disconnect, listenTo, waitUntilReady } from './redis/connections.ts'
import { createKeys } from './redis/keys.ts'
import { reportConnection } from './redis/report.ts'
import { createRenewal } from './renewal.ts'
import { createPushes } from './pushes.ts'
import { createSeal } from './seal.ts'
import { createReplayGuard } from './replays.ts'
import { createSessionCache } from './session-cache.ts'
import { createSessionEvents } from './session-events.ts'
import { createSessionKeys } from './session-keys.ts'
import { createSessionKeyUses } from './session-key-uses.ts'
import { createSessions } from './sessions.ts'
import { createShedding } from './shedding.ts'
import type { Session } from './sessions.ts'
import { createTokens } from './tokens.ts'
import { traceLogin } from './tracing/login-spans.ts'
import { traceProvisioning } from './tracing/queue-spans.ts'
import { sampledTraceId } from './tracing/span.ts'
import { reportSpans } from './tracing/start.ts'
import type { Tracing } from './tracing/tracing.ts'
import { createUpstream } from './upstream.ts'
import { createAccessTokens } from './wechat/access-token.ts'
import { createUserApi } from './wechat/user-api.ts'

const REDIS_FIRST_CONTACT_MS = 2_000
const CLOSE_STEP_MS = 1_000

/**
 * Builds the gateway from its configuration. Opens connections, listens to nothing. `start()` resolves once
 * Redis has been reached; it may be called again when it fails.
 */
export function createGateway(
  config: GatewayConfig,
  log: Log,
  output?: { /** Lines of the log, since the start. */ lost(): number },
  tracing?: Tracing,
) {
  const metrics = createGatewayMetrics(tracing && { traceId: sampledTraceId })
  if (output) metrics.logLinesLost(output.lost)
  if (tracing) reportSpans(tracing, { spans: metrics.spans, log })
  const keys = createKeys(config.redis.keyPrefix)

  const redis = connectFailFast(config.redis, {
    onFailure: (reason) => metrics.redisFailures.inc({ reason }),
    onAnswer: metrics.redisAnswered,
  })
  const health = createHealth(config.readyRequiresRedis ? () => redis.ping() : undefined)
  const clock = createStoreClock(redis)
  reportConnection(redis, log, health.isDraining)
  metrics.redisUp(() => redis.status === 'ready')
  metrics.evictionPolicyOk.set(-1)
  const evictionWatch = createEvictionWatch(redis, ({ name, keepsKeys }) => {
    metrics.evictionPolicyOk.set(keepsKeys === undefined ? -1 : Number(keepsKeys))
    if (keepsKeys === false)
      log.error(
        { policy: name },
        'Redis drops sessions and jobs when its memory is full: set maxmemory-policy noeviction',
      )
    if (keepsKeys === undefined) log.info('Redis does not say its maxmemory-policy; it must be noeviction')
  })

  const queue = createProvisioning(redis, keys, (outcome) => metrics.provisioningEnqueued.inc({ outcome }))
  const provisioning = tracing ? traceProvisioning(queue) : queue
  metrics.provisioningQueue(provisioning, config.provisionBacklogMax)
  const backlog = createBacklog(
    {
      provisioning,
      onChange(isFull, jobs) {
        if (isFull) log.error({ jobs }, 'the provisioning queue is full: first logins are refused')
        else log.info({ jobs }, 'the provisioning queue has room again: first logins are accepted')
      },
      onSkip: () => metrics.provisioningEnqueued.inc({ outcome: 'skipped' }),
    },
    { max: config.provisionBacklogMax },
  )
  const selfHeal = createSelfHeal(provisioning, clock, () => metrics.provisioningSelfheal.inc())

  const seal = createSeal(config.sealKeys, {
    onSeal: (kid) => metrics.seals.inc({ kid }),
    onAlarm(kid) {
      metrics.sealAlarm.set({ kid }, 1)
      log.error({ kid }, 'half of what this key may seal has been sealed: rotate SEAL_KEYS now')
    },
  })
  const apps = createApps(
    {
      redis,
      keys,
      clock,
      seal,
      observer: {
        onReadable(readable, error) {
          if (readable) log.info('the registry of apps can be read again')
          else log.warn({ err: error }, 'the registry of apps cannot be read; what is known goes on')
        },
        onUnusable(appid, why) {
          metrics.appsUnusable.inc({ why })
          log.error({ appid, why }, 'an app that was added at run time cannot be used here')
        },
        onRemoved: (appid) => metrics.forgetApp(appid),
      },
    },
    config.apps,
  )
  const limits = createLimits(
    redis,
    keys,
    {
      ...config.limits,
      exchangePerAppOf: (appid) => apps.find(appid)?.limits.exchangePerMinute,
    },
    (limit, outcome) => metrics.limits.inc({ limit, outcome }),
  )
  const localLimits = createLocalLimits(config.localLimits, (limit, outcome) =>
    metrics.limits.inc({ limit, outcome }),
  )
  const throttle = createThrottle()
  const codes = createCodes(redis, keys, {
    onClaim: (outcome) => metrics.claims.inc({ outcome }),
    onClaimLost: (error) => throttle('claim', () => log.warn({ err: error }, 'a claim could not be closed')),
  })

  const upstream = createUpstream({ config, apps, metrics, log, isTraced: tracing !== undefined })

  const cache =
    config.sessionCacheSeconds > 0
      ? createSessionCache<Session>(config.sessionCacheSeconds * 1000)
      : undefined
  const endings =
    cache &&
    listenTo(config.redis, keys.endedChannel, {
      onMessage: cache.drop,
      onGap: cache.clear,
      onRefused: (reason) =>
        log.error(
          { reason, channel: keys.endedChannel },
          'cannot listen: ended sessions are cached to their bound',
        ),
    })
  const renew = createRenewal({ redis, keys }, config.sessionLife, (outcome) =>
    metrics.sessionsRenewed.inc({ outcome }),
  )
  const sessionEvents = config.sessionEvents
    ? createSessionEvents({ redis, keys, clock }, (outcome) => metrics.sessionEvents.inc({ outcome }))
    : undefined
  const tokens = createTokens(config.tokenKeys)
  const storedSessions = createSessions(
    {
      redis,
      keys,
      clock,
      seal,
      tokens,
      renew,
      cache,
      events: sessionEvents,
      observer: {
        onOpen: () => metrics.sessionsOpened.inc(),
        onFind: (outcome, cached) => metrics.sessionsFound.inc({ outcome, cache: cached }),
        onRevoke: (scope) => metrics.sessionsRevoked.inc({ scope }),
        onUnprovisioned: selfHeal,
      },
    },
    {
      life: config.sessionLife,
      perUserMax: config.sessionsPerUser,
      loginPerUser: config.limits.loginPerUser,
      provisionRefreshSeconds: config.provisionRefreshSeconds,
    },
  )
  const sessions = {
    ...storedSessions,
    find: measuredFind(storedSessions.find, metrics, cache ? 'miss' : 'off'),
  }

  const jwts = createJwts(
    {
      keys: config.tokenKeys,
      clock,
      observer: {
        onIssue: (audience) => metrics.jwtsIssued.inc({ audience }),
        onVerify: (outcome) => metrics.jwtsVerified.inc({ outcome }),
      },
    },
    config.jwt,
  )

  const blocking = createBlocking({
    redis,
    keys,
    clock,
    events: sessionEvents,
    onBlock(sub) {
      cache?.drop(sub)
      metrics.usersBlocked.inc()
    },
  })

  const erasure = createErasure({
    redis,
    keys,
    onErase(sub) {
      cache?.drop(sub)
      metrics.usersErased.inc()
    },
  })

  const pushes = createPushes(
    {
      redis,
      keys,
      clock,
      erasure,
      sessions,
      onPush: (type, outcome) => metrics.pushes.inc({ type, outcome }),
    },
    config.push,
  )

  const startClock = () => startDeadline(config.loginDeadlineMs)
  const accessTokens = createAccessTokens({
    redis,
    keys,
    clock,
    seal,
    api: upstream.api,
    findApp: apps.find,
    observer: {
      onFetch: (reason, outcome) => metrics.accessTokenFetches.inc({ reason, outcome }),
      onForce: (appid) => metrics.accessTokensForced.inc({ appid: apps.labelOf(appid) }),
      onUnreadable: () => metrics.sealedUnreadable.inc({ what: 'access_token' }),
    },
  })
  metrics.accessTokenAges(() =>
    accessTokens.ages().map(({ appid, ageSeconds }) => ({ appid: apps.labelOf(appid), ageSeconds })),
  )
  const keyUses = createSessionKeyUses(
    {
      sessionKeys: createSessionKeys({
        redis,
        keys,
        seal,
        tokens,
        onUnreadable: () => metrics.sealedUnreadable.inc({ what: 'session_key' }),
      }),
      replays: createReplayGuard(redis, keys, { windowSeconds: config.openData.replaySeconds }),
      userApi: createUserApi(upstream.api, accessTokens),
      nowMs: clock.nowMs,
      startDeadline: startClock,
      onUse: (use, outcome) => metrics.keyUses.inc({ use, outcome }),
    },
    config.openData,
  )

  const running = createRunning<Grant>()
  const ports: LoginPorts = {
    limits,
    codes,
    wechat: upstream.code2Session,
    sessions,
    provisioning: backlog,
    startDeadline: startClock,
  }
  const timed = timeStages(ports, metrics.stageTook)
  const login = measuredLogin(createLogin(tracing ? traceLogin(timed) : timed), metrics, apps.labelOf)

  const shedding = createShedding(config.shedding, {
    onShed: (rank, reason) => metrics.shed.inc({ rank, reason }),
    onEpisode: (rank, reason) => log.warn({ rank, reason }, 'overloaded: requests are being shed'),
  })
  metrics.inFlight(shedding.inFlight)
  const server = {
    log,
    health,
    metrics,
    shedding,
    trustProxy: config.trustProxy,
    loginDeadlineMs: config.loginDeadlineMs,
    tracing,
  }
  const app = createPublicApp({
    ...server,
    login: (attempt) => running.add(login(attempt)),
    apps,
    sessions,
    jwts,
    keyUses,
    pushes,
    localLimits,
    exposeOpenid: config.exposeOpenid,
  })
  const admin = createAdminApp({
    ...server,
    sessions,
    jwts,
    blocking,
    erasure,
    adminToken: config.adminToken,
    keyUses,
    findApp: apps.find,
    apps,
    deadJobs: createDeadJobs(provisioning.queue),
    async openQueueBoard() {
      const { createQueueBoard } = await import('./queue-board.ts')
      return createQueueBoard(QUEUES_PATH, [provisioning.queue, erasure.queue])
    },
    refusedWith: ({ app }) => upstream.refusedWith(app),
  })

  let isStarted = false
  return {
    app,
    admin,
    /** The gateway is ready from here on. @throws {GatewayError} store_unavailable */
    async start(): Promise<void> {
      await waitUntilReady(redis, REDIS_FIRST_CONTACT_MS)
      await evictionWatch.demand()
      await clock.sync()
      await apps.start()
      backlog.start()
      health.started()
      isStarted = true
    },
    /** Whether start() has succeeded: a load balancer may have sent clients here. */
    hasStarted: () => isStarted,
    /** Go on answering, but tell the load balancer and every client to go elsewhere. */
    drain(): void {
      health.drain()
      tracing?.flush()
    },
    /**
     * Lets requests finish, then closes everything. Bounded, whether or not Redis answers. Metrics and health are
     * answered until the end.
     */
    async close(): Promise<void> {
      health.drain()
      await app.close()
      await within(config.loginDeadlineMs + CLOSE_STEP_MS, running.settled())
      health.close()
      await within(config.loginDeadlineMs + CLOSE_STEP_MS, admin.idle())
      clock.stop()
      evictionWatch.stop()
      apps.stop()
      backlog.stop()
      shedding.stop()
      accessTokens.close()
      await within(CLOSE_STEP_MS, upstream.close())
      await within(
        CLOSE_STEP_MS,
        Promise.all([provisioning.close(), erasure.close(), sessionEvents?.close()]),
      )
      endings?.disconnect()
      await disconnect(redis, CLOSE_STEP_MS)
      if (tracing) await within(CLOSE_STEP_MS, tracing.close())
      health.stop()
      await within(CLOSE_STEP_MS, admin.close())
      admin.server.closeAllConnections()
    },
  }
}

export type Gateway = ReturnType<typeof createGateway>
