/**
 * WeChat's calls about one user that want an access_token: the phone number, and whether a session_key is
 * still good or shall be replaced.
 *
 * An access_token that WeChat refuses was refused before anything was done, so that is the one failure after
 * which a call is made again, once. Everything else is left to the caller: a phone number costs money.
 */
import { GatewayError } from '../errors.ts'
import type { ErrorCode } from '../errors.ts'
import type { Secret } from '../secret.ts'
import type { AccessTokens } from './access-token.ts'
import { decodeSessionKey } from './answer.ts'
import { ERRCODES_ACCESS_TOKEN, ERRCODES_SESSION_KEY } from './api-errcodes.ts'
import { refusalOf, senseless } from './api.ts'
import type { Api, ApiAnswer, ApiRequest } from './api.ts'
import { signEmpty } from './signatures.ts'

/** A user of an app, as WeChat knows them. */
export interface AppUser {
  appid: string
  openid: string
}

export interface PhoneNumber {
  /** With the country code when it is a foreign one. */
  phoneNumber: string
  purePhoneNumber: string
  /** Without +. */
  countryCode: string
}

/** All reject with what AccessTokens.get() and Api.ask() reject with, beside what is said here. */
export function createUserApi(api: Api, accessTokens: AccessTokens) {
  return {
    /**
     * The phone number behind the code of a phone button. WeChat checks that the code is this user's.
     *
     * Rejects with phone_code_invalid; with phone_code_unclear when the code may have been used up (and the
     * number paid for); after any other error it has not been.
     */
    async phoneNumber({ appid, openid }: AppUser, code: string, deadline: AbortSignal): Promise<PhoneNumber> {
      const request: ApiRequest = { name: 'phone_number', appid, body: { code, openid } }
      const answer = await ask(request, deadline, 'phone_code_unclear')
      if (answer.outcome === 'refused') throw refusalOf('phone_number', answer)
      const phone = readPhoneNumber(answer.fields, appid)
      if (phone === undefined) throw new GatewayError('phone_code_unclear')
      return phone
    },

    /** Whether this session_key is the one that WeChat has for the user now. */
    async isSessionKeyValid(user: AppUser, sessionKey: Buffer, deadline: AbortSignal): Promise<boolean> {
      const answer = await askSigned('check_session_key', user, sessionKey, deadline)
      if (answer.outcome === 'ok') return true
      if (ERRCODES_SESSION_KEY.has(answer.errcode)) return false
      throw refusalOf('check_session_key', answer)
    },

    /**
     * Has WeChat replace the session_key and gives the new one. Rejects with session_key_stale when this one
     * was not WeChat's any more; that is also the answer to a repeat after wechat_call_failed, if the first
     * call had worked.
     */
    async resetSessionKey(user: AppUser, sessionKey: Buffer, deadline: AbortSignal): Promise<Buffer> {
      const answer = await askSigned('reset_session_key', user, sessionKey, deadline)
      if (answer.outcome === 'refused') throw refusalOf('reset_session_key', answer)
      const renewed = decodeSessionKey(answer.fields['session_key'])
      if (renewed === undefined) throw senseless('session_key is missing or malformed')
      if (answer.fields['openid'] !== user.openid) throw senseless('openid is another')
      return renewed
    },
  }

  function askSigned(
    name: 'check_session_key' | 'reset_session_key',
    { appid, openid }: AppUser,
    sessionKey: Buffer,
    deadline: AbortSignal,
  ): Promise<ApiAnswer> {
    const query = { openid, signature: signEmpty(sessionKey), sig_method: 'hmac_sha256' }
    return ask({ name, appid, query }, deadline, 'wechat_call_failed')
  }

  /**
   * Asks, and once more with another access_token if WeChat refuses the first.
   * @param unclear the error for a call of which it is not known whether it was done
   */
  async function ask(request: ApiRequest, deadline: AbortSignal, unclear: ErrorCode): Promise<ApiAnswer> {
    const send = async (accessToken: Secret<string>): Promise<ApiAnswer> => {
      const query = { access_token: accessToken.reveal(), ...request.query }
      try {
        return await api.ask({ ...request, query }, deadline)
      } catch (error) {
        if (!(error instanceof GatewayError) || error.code !== 'wechat_call_failed') throw error
        throw new GatewayError(unclear, { cause: error.cause })
      }
    }
    const accessToken = await accessTokens.get(request.appid, deadline)
    const answer = await send(accessToken)
    if (!isTokenRefused(answer)) return answer
    const again = await send(await accessTokens.renew(request.appid, accessToken, deadline))
    if (!isTokenRefused(again)) return again
    const { errcode, rid } = again
    throw new GatewayError('wechat_call_failed', {
      detail: 'WeChat refuses the access_token that it gives out.',
      errcode,
      rid,
    })
  }
}

export type UserApi = ReturnType<typeof createUserApi>

type Refused = Extract<ApiAnswer, { outcome: 'refused' }>

function isTokenRefused(answer: ApiAnswer): answer is Refused {
  return answer.outcome === 'refused' && ERRCODES_ACCESS_TOKEN.has(answer.errcode)
}

/** Undefined when the answer lacks something, or is about another app. */
function readPhoneNumber(fields: Readonly<Record<string, unknown>>, appid: string): PhoneNumber | undefined {
  const { phone_info: phone } = fields as { phone_info?: Record<string, unknown> | null }
  const { phoneNumber, purePhoneNumber, countryCode, watermark } = phone ?? {}
  if ((watermark as { appid?: unknown } | null | undefined)?.appid !== appid) return undefined
  if (!isPhoneText(phoneNumber) || !isPhoneText(purePhoneNumber)) return undefined
  // A number in some versions of the documentation, text in others.
  const code = typeof countryCode === 'number' ? String(countryCode) : countryCode
  if (typeof code !== 'string' || !/^\d{1,4}$/.test(code)) return undefined
  return { phoneNumber, purePhoneNumber, countryCode: code }
}

function isPhoneText(value: unknown): value is string {
  return typeof value === 'string' && /^[+\d -]{3,32}$/.test(value)
}
