/**
 * What other backends need session_key for, done here so that none of them ever holds one.
 *
 * A bearer may have data of their own decrypted and checked, and their phone number looked up. An
 * administrator may, for any logged-in user, sign a payment, ask WeChat whether the key is still good, and
 * have it replaced. What WeChat has encrypted or signed under a key that is no longer here gets
 * `session_key_stale`: the client logs in first, then asks the user again.
 */
import { GatewayError } from './errors.ts'
import type { ErrorCode } from './errors.ts'
import type { ReplayGuard } from './replays.ts'
import type { SessionKeys, SessionKeyStore } from './session-keys.ts'
import { decodeEncrypted, isSignedWith, openData } from './wechat/open-data.ts'
import { signFor, signingFault } from './wechat/signatures.ts'
import type { SignRequest } from './wechat/signatures.ts'
import type { AppUser, PhoneNumber, UserApi } from './wechat/user-api.ts'

/** What session_key or access_token is used for: the labels of the metric. */
export type KeyUse = 'decrypt' | 'verify' | 'phone' | 'sign' | 'check' | 'reset'
/** `ok_previous`: with the key before the current one. */
export type KeyUseOutcome = 'ok' | 'ok_previous' | ErrorCode

export interface SessionKeyUsesDeps {
  sessionKeys: SessionKeyStore
  replays: ReplayGuard
  userApi: UserApi
  /** Redis' time in unix ms. */
  nowMs(): number
  startDeadline(): AbortSignal
  onUse(use: KeyUse, outcome: KeyUseOutcome): void
}

/** @param maxAgeSeconds how old the watermark of open data may be */
export function createSessionKeyUses(deps: SessionKeyUsesDeps, { maxAgeSeconds }: { maxAgeSeconds: number }) {
  const { sessionKeys, replays, userApi, nowMs, startDeadline, onUse } = deps

  return {
    /**
     * The content of open data of this user, in WeChat's own names.
     * @throws {GatewayError} request_invalid, session_key_stale, open_data_foreign, open_data_expired, replayed,
     *   session_invalid (logged out meanwhile), store_unavailable
     */
    decrypt: (user: AppUser, encryptedData: string, iv: string): Promise<Record<string, unknown>> =>
      counted('decrypt', async () => {
        const encrypted = decodeEncrypted(encryptedData, iv)
        if (encrypted === undefined) throw new GatewayError('request_invalid', { detail: NOT_ENCRYPTED })
        const keys = await keysOfBearer(user)
        const nowSeconds = nowMs() / 1000
        const opened = openData(encrypted, usable(keys), { ...user, nowSeconds, maxAgeSeconds })
        switch (opened.outcome) {
          case 'stale':
            throw new GatewayError('session_key_stale', { detail: LOG_IN_FIRST })
          case 'foreign':
            throw new GatewayError('open_data_foreign')
          case 'expired':
            throw new GatewayError('open_data_expired')
          case 'ok': {
            await replays.admit(keys.sub, encrypted)
            const outcome = opened.keyIndex > 0 || keys.current === undefined ? 'ok_previous' : 'ok'
            return { result: opened.data, outcome }
          }
        }
      }),

    /** Whether WeChat has signed rawData for this user. A stale key makes true data look false. */
    verify: (user: AppUser, signed: { rawData: string; signature: string }): Promise<boolean> =>
      counted('verify', async () => {
        const candidates = usable(await keysOfBearer(user))
        if (candidates.length === 0) throw new GatewayError('session_key_stale', { detail: LOG_IN_FIRST })
        return { result: isSignedWith(signed, candidates), outcome: 'ok' }
      }),

    /** The phone number behind the code of a phone button; rejects as UserApi.phoneNumber() does. */
    phone: (user: AppUser, code: string): Promise<PhoneNumber> =>
      counted('phone', async () => ({
        result: await userApi.phoneNumber(user, code, startDeadline()),
        outcome: 'ok',
      })),

    /** @throws {GatewayError} request_invalid, user_unknown, session_key_stale, store_unavailable */
    sign: (user: AppUser, request: SignRequest): Promise<string> =>
      counted('sign', async () => {
        const fault = signingFault(request, user.openid)
        if (fault !== undefined) throw new GatewayError('request_invalid', { detail: fault })
        return { result: signFor(request, await currentKeyOf(user)), outcome: 'ok' }
      }),

    /** Whether the key held here is the one that WeChat has; rejects as UserApi does, and with user_unknown. */
    check: (user: AppUser): Promise<boolean> =>
      counted('check', async () => {
        const key = await currentKeyOf(user)
        return { result: await userApi.isSessionKeyValid(user, key, startDeadline()), outcome: 'ok' }
      }),

    /** Replaces the key at WeChat and here; rejects as UserApi does, and with user_unknown. */
    reset: (user: AppUser): Promise<void> =>
      counted('reset', async () => {
        const startedAtMs = await sessionKeys.startedAtMs()
        const renewed = await userApi.resetSessionKey(user, await currentKeyOf(user), startDeadline())
        // Overtaken by a login that began later: its key is the newer one, and the order is carried out.
        const outcome = await sessionKeys.replace(user, renewed, startedAtMs)
        if (outcome === 'gone') throw new GatewayError('user_unknown')
        return { result: undefined, outcome: 'ok' }
      }),
  }

  async function keysOfBearer(user: AppUser): Promise<SessionKeys> {
    const keys = await sessionKeys.of(user)
    if (keys === undefined) throw new GatewayError('session_invalid') // logged out since it was found
    return keys
  }

  async function currentKeyOf(user: AppUser): Promise<Buffer> {
    const keys = await sessionKeys.of(user)
    if (keys === undefined) throw new GatewayError('user_unknown')
    if (keys.current === undefined) throw new GatewayError('session_key_stale', { detail: LOG_IN_FIRST })
    return keys.current
  }

  async function counted<T>(
    use: KeyUse,
    run: () => Promise<{ result: T; outcome: KeyUseOutcome }>,
  ): Promise<T> {
    try {
      const { result, outcome } = await run()
      onUse(use, outcome)
      return result
    } catch (error) {
      onUse(use, error instanceof GatewayError ? error.code : 'internal')
      throw error
    }
  }
}

export type SessionKeyUses = ReturnType<typeof createSessionKeyUses>

const LOG_IN_FIRST = 'Log in first (wx.login), then ask the user for the data again.'
const NOT_ENCRYPTED =
  'encrypted_data and iv must be base64 as WeChat gave them; a + that became a blank on the way is the common mistake.'

/** The keys that are there, in the order in which they are tried. */
function usable({ current, previous }: SessionKeys): Buffer[] {
  return [current, previous].filter((key) => key !== undefined)
}
