/**
 * Login: one WeChat code in, one session of ours out.
 *
 * The Mini Program calls wx.login(), gets a code (one use, five minutes) and posts it here. exchangeOnce()
 * below is the whole story:
 *
 *   limit(address) and claim the code → limit(app) → exchange → open the session and settle the code
 *                                                             → enqueue provisioning when due → answer
 *
 * Whatever fails on the way, these hold:
 *
 *   1. A code is at WeChat at most once at a time, however many clients, retries and replicas send it, and
 *      everyone entitled to it gets the same session. The code is claimed before anything irreversible.
 *   2. session_key goes from wechat.exchange() into sessions.open(), which seals it, and nowhere else.
 *   3. A login that was answered has a session and, if due, an acknowledged provisioning job. A half
 *      finished one is harmless: a retry of the code finds the session, enqueues what is missing and
 *      answers, or says `new_code`; and wx.login() again always recovers.
 *
 * Settling travels with the opening of the session, on one connection and so in one round trip. Were it to
 * wait for the job, a failure in between would only mean that a retry finds less than it could.
 *
 * Source: code2Session, https://developers.weixin.qq.com/miniprogram/dev/OpenApiDoc/user-login/code2Session.html
 */
import { GatewayError } from './errors.ts'

export interface LoginAttempt {
  appid: string
  /** From wx.login(). A credential: never logged, never stored. */
  code: string
  /** What ties a retry to the client that began: a hash of its nonce, or of its user agent and network. */
  bind: string
  /** The client's address, after proxy trust has been applied. */
  ip: string
  /** A word for the session list: ios, android, … */
  device: string
  /** The token that the client has held so far. If it is of the user who logs in, its session ends. */
  formerToken?: string | undefined
}

/** What WeChat knows about who logs in. */
export interface WechatIdentity {
  appid: string
  openid: string
  unionid: string | undefined
  sessionKey: Buffer
}

/** What the client receives, in our words; http/ spells it for the wire. */
export interface Grant {
  token: string
  sub: string
  appid: string
  openid: string
  unionid: string | undefined
  expiresInSeconds: number
  /** Whether the worker has provisioned this user. */
  provisioned: boolean
}

export interface OpenedSession {
  grant: Grant
  /** Whether a job has to be enqueued before the login may be answered. */
  provisioningDue: boolean
  /** When the login was seen, unix ms of Redis; not after its session was opened. */
  seenAtMs: number
}

/** The leader of a code: the one flight, over all replicas, that may send it to WeChat. */
export interface Claim {
  /** How often this code has been led. */
  generation: number
  /** Whether an earlier leader went silent, and may have used the code up. */
  mayBeUsed: boolean
  /** When the exchange began, unix ms of Redis: orders session_keys. */
  startedAtMs: number
  /** Remembers the success for retries. Never rejects: without it a retry gets `new_code`, no more. */
  settle(settlement: string): Promise<void>
  /**
   * Gives the code back or keeps its refusal, as the error's `retry` says. Never rejects.
   * @param codeUsed WeChat has taken it already: whatever went wrong, it is not given back
   */
  fail(error: unknown, outcome: { codeUsed: boolean }): Promise<void>
}

export type ClaimOutcome = { state: 'leading'; claim: Claim } | { state: 'settled'; settlement: string }

export interface ExchangeRequest {
  appid: string
  code: string
  /** The client's address. */
  ip: string
  /** How often the code was led: above 1 it is no news that WeChat has seen it. */
  generation: number
  mayBeUsed: boolean
  /** Told when it is given up without WeChat having been asked. */
  onUnsent(): void
}

/** Everything login may touch. gateway.ts supplies the real ones. */
export interface LoginPorts {
  limits: {
    /** Throws rate_limited for an address that is known to be over its limit. */
    admitLogin(ip: string): void
    /** Rejects with rate_limited. */
    spendLogin(ip: string): Promise<void>
    /** Rejects with rate_limited. What it resolves to gives it back. */
    spendExchange(appid: string): Promise<() => void>
    /** Counts a code that WeChat refused against the address it came from. */
    countInvalid(ip: string): Promise<void>
  }
  codes: {
    /** Runs `lead` once for all concurrent callers of this process; the others share its outcome. */
    share(attempt: LoginAttempt, lead: () => Promise<Grant>): Promise<Grant>
    /** Waits while another replica leads. Rejects with the refusal, if WeChat has refused the code. */
    claim(attempt: LoginAttempt, deadline: AbortSignal): Promise<ClaimOutcome>
  }
  wechat: {
    /** Throws wechat_circuit_open when so many logins come meanwhile that most have to be refused unseen. */
    admitUnseen(appid: string): void
    /** Throws what exchange() would reject with, if WeChat need not be asked for that: its circuit is open, … */
    admit(appid: string): void
    exchange(request: ExchangeRequest, deadline: AbortSignal): Promise<WechatIdentity>
  }
  sessions: {
    /** What a retry needs to find its session again; holds no secret. */
    settlement(identity: WechatIdentity): string
    open(attempt: LoginAttempt, identity: WechatIdentity, startedAtMs: number): Promise<OpenedSession>
    /** The session of a settled code; undefined when it has ended since. Rejects with user_blocked. */
    resume(attempt: LoginAttempt, settlement: string): Promise<OpenedSession | undefined>
  }
  provisioning: {
    /** Throws when too many users wait already for a new one to be taken on. */
    admit(): void
    /** `isKnown`: it would only be told again of a user whom it knows. */
    enqueue(
      user: { sub: string; appid: string; openid: string; unionid?: string; seenAtMs: number },
      standing: { isKnown: boolean },
    ): Promise<void>
  }
  /** Starts the clock of one login. */
  startDeadline(): AbortSignal
}

export type Login = (attempt: LoginAttempt) => Promise<Grant>

/**
 * Builds the login. It rejects with a GatewayError for every outcome the client can act on; anything else
 * is a fault of ours, which the edge shows as `internal`.
 */
export function createLogin({
  limits,
  codes,
  wechat,
  sessions,
  provisioning,
  startDeadline,
}: LoginPorts): Login {
  return async function login(attempt) {
    // Who comes with a token has been here before, and is most likely known.
    if (attempt.formerToken === undefined) provisioning.admit()
    limits.admitLogin(attempt.ip)
    wechat.admitUnseen(attempt.appid)
    // In one round trip with the claim, which whoever turns out to be over the limit gives back.
    const allowed = limits.spendLogin(attempt.ip)
    const granted = codes.share(attempt, () => exchangeOnce(attempt, allowed, startDeadline()))
    // Where both fail, the limit is what the client is told of.
    granted.catch(() => {})
    await allowed
    try {
      return await granted
    } catch (error) {
      // Of each who sent it: copies that were not counted would make bad codes a smaller share of an address's logins.
      if (error instanceof GatewayError && error.code === 'code_invalid')
        await limits.countInvalid(attempt.ip)
      throw error
    }
  }

  async function exchangeOnce(
    attempt: LoginAttempt,
    allowed: Promise<void>,
    deadline: AbortSignal,
  ): Promise<Grant> {
    const { appid, code, ip } = attempt
    const claimed = await codes.claim(attempt, deadline)

    if (claimed.state === 'settled') {
      await allowed
      const resumed = await sessions.resume(attempt, claimed.settlement)
      if (resumed === undefined) throw new GatewayError('code_already_used')
      return provisioned(resumed)
    }

    const { claim } = claimed
    const { generation, mayBeUsed } = claim
    let codeUsed = false
    let opened: OpenedSession
    try {
      await allowed
      wechat.admit(appid)
      const onUnsent = await limits.spendExchange(appid)
      const request = { appid, code, ip, generation, mayBeUsed, onUnsent }
      const identity = await wechat.exchange(request, deadline)
      codeUsed = true
      const opening = sessions.open(attempt, identity, claim.startedAtMs)
      const settling = claim.settle(sessions.settlement(identity))
      opened = await opening
      await settling
    } catch (error) {
      await claim.fail(error, { codeUsed })
      throw error
    }
    return provisioned(opened)
  }

  async function provisioned({ grant, provisioningDue, seenAtMs }: OpenedSession): Promise<Grant> {
    if (provisioningDue) {
      const { sub, appid, openid, unionid } = grant
      await provisioning.enqueue(
        { sub, appid, openid, seenAtMs, ...(unionid === undefined ? {} : { unionid }) },
        { isKnown: grant.provisioned },
      )
    }
    return grant
  }
}
