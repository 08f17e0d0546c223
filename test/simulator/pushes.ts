/**
 * Message pushes: WeChat tells the app's own server what has happened, as the app's settings say, and tells it again
 * while it hears no `success`.
 */
import type { Read } from './fields.ts'
import { flag, InputError, integer, must, object, oneOf, readFields, text } from './fields.ts'
import { encryptPush, signPush, writeMessage } from './push-envelope.ts'
import type { Message } from './push-envelope.ts'
import type { Random } from './random.ts'
import { ALPHANUMERIC, DIGITS } from './random.ts'

/** Told in all, as older texts of WeChat say; the newest say nothing. */
const ATTEMPTS = 3
const ATTEMPTS_MAX = 100
/** Of what the server answers. */
const BODY_CHARS_MAX = 1_000

const MODES = ['plain', 'compatible', 'safe'] as const
const FORMATS = ['xml', 'json'] as const

const SETTING_FIELDS = {
  /** Of the app's server, with the path: https://example.com/push/APPID. */
  url: must(text(2_048)),
  token: must(text(32)),
  /** EncodingAESKey. */
  aesKey: text(43, 43),
  mode: oneOf(...MODES),
  format: oneOf(...FORMATS),
}

/** What the app's administrator has set in WeChat's console. */
export interface PushSettings {
  url: string
  token: string
  aesKey: string | null
  mode: (typeof MODES)[number]
  format: (typeof FORMATS)[number]
}

/** Reads the settings of an app; mode is plain and format xml unless said otherwise. */
export function readPushSettings(value: unknown, name: string): PushSettings {
  const {
    url,
    token,
    aesKey = null,
    mode = 'plain',
    format = 'xml',
  } = readFields(value, name, SETTING_FIELDS)
  if (!URL.canParse(url)) throw new InputError(`${name}.url is not an address`)
  if (mode !== 'plain' && aesKey === null) throw new InputError(`${name}: mode ${mode} needs an aesKey`)
  return { url, token, aesKey, mode, format }
}

/** What a test may say of a push, beside whom it is about. */
export const PUSH_FIELDS = {
  /** Default user_authorization_revoke. */
  event: text(64),
  revokeInfo: text(64),
  /** Unix seconds; default: now. */
  createTime: integer(0, 1e11),
  /** Fields of the message to add or to replace; null takes one away. */
  fields: object,
  /** Instead of the app's. */
  mode: oneOf(...MODES),
  format: oneOf(...FORMATS),
  /** Each attempt has a time and nonce of its own unless this is true. */
  sameSignature: flag,
  attempts: integer(1, ATTEMPTS_MAX),
}

export type PushFields = Read<typeof PUSH_FIELDS>

/** One time it was told. status null: no answer in time, or none at all. */
interface PushAttempt {
  status: number | null
  body: string
  durationMs: number
}

/** What became of it. */
export interface PushReport {
  /** The server has said `success`. */
  delivered: boolean
  attempts: PushAttempt[]
}

interface Subject {
  appid: string
  openid: string
  settings: PushSettings
}

/** @param timeoutMs how long an answer is waited for, and how far apart attempts are: 5 s at WeChat */
export function createPushes({ random, now }: { random: Random; now: () => number }, timeoutMs: number) {
  let ending = new AbortController()

  return {
    /** Resolves when the server has said `success`, or WeChat has given up, or clear() was called. */
    async push({ appid, openid, settings }: Subject, fields: PushFields): Promise<PushReport> {
      const { signal } = ending
      const { attempts: attemptsMax = ATTEMPTS, sameSignature = false } = fields
      const message = messageOf(appid, openid, fields)
      const options = {
        ...settings,
        mode: fields.mode ?? settings.mode,
        format: fields.format ?? settings.format,
      }
      const compose = () => composeRequest(appid, message, options)
      const first = compose()
      const attempts: PushAttempt[] = []
      while (attempts.length < attemptsMax && !signal.aborted) {
        const startedMs = performance.now()
        const { url, body, type } = sameSignature || attempts.length === 0 ? first : compose()
        const attempt = await tell(url, { method: 'POST', body, headers: { 'content-type': type } }, signal)
        attempts.push(attempt)
        if (isSuccess(attempt)) return { delivered: true, attempts }
        if (attempts.length < attemptsMax) await rest(timeoutMs - (performance.now() - startedMs), signal)
      }
      return { delivered: false, attempts }
    },

    /** The URL check of the administrator's page: whether the server sends the echostr back. */
    async check({
      settings,
    }: Pick<Subject, 'settings'>): Promise<{ verified: boolean; attempt: PushAttempt }> {
      const echostr = random.text(DIGITS, 19)
      const url = address(settings, { ...stamp(settings.token), echostr })
      const attempt = await tell(url, { method: 'GET' }, ending.signal)
      return { verified: attempt.status === 200 && attempt.body === echostr, attempt }
    },

    /** Gives up on all that is under way. */
    clear(): void {
      ending.abort()
      ending = new AbortController()
    },
  }

  function messageOf(appid: string, openid: string, { event, revokeInfo, createTime, fields }: PushFields) {
    const message: Record<string, unknown> = {
      ToUserName: 'gh_870882ca4b1',
      FromUserName: 'owAqB1v0ahK_Xlc7GshIDdf2yf7E', // the platform's own account, not the user
      CreateTime: createTime ?? Math.floor(now() / 1000),
      MsgType: 'event',
      Event: event ?? 'user_authorization_revoke',
      OpenID: openid,
      AppID: appid,
      ...(revokeInfo !== undefined && { RevokeInfo: revokeInfo }),
      ...fields,
    }
    for (const [name, value] of Object.entries(message)) if (value === null) delete message[name]
    return message as Message
  }

  function composeRequest(appid: string, message: Message, settings: PushSettings) {
    const { token, aesKey, mode, format } = settings
    const stamped = stamp(token)
    const query = { ...stamped, openid: String(message['FromUserName'] ?? '') }
    const text = writeMessage(message, format)
    const type = format === 'xml' ? 'text/xml' : 'application/json'
    if (mode === 'plain') return { url: address(settings, query), body: text, type }
    if (aesKey === null) throw new InputError(`a push: mode ${mode} needs an aesKey`)
    const encrypt = encryptPush(text, { appid, aesKey, random16: random.text(ALPHANUMERIC, 16) })
    const signature = signPush(token, stamped.timestamp, stamped.nonce, encrypt)
    const beside = mode === 'compatible' ? message : { ToUserName: message['ToUserName'] ?? '' }
    return {
      url: address(settings, { ...query, encrypt_type: 'aes', msg_signature: signature }),
      body: writeMessage({ ...beside, Encrypt: encrypt }, format),
      type,
    }
  }

  function stamp(token: string) {
    const timestamp = String(Math.floor(now() / 1000))
    const nonce = random.text(DIGITS, 9)
    return { signature: signPush(token, timestamp, nonce), timestamp, nonce }
  }

  async function tell(url: string, request: RequestInit, signal: AbortSignal): Promise<PushAttempt> {
    const startedMs = performance.now()
    let status: number | null = null
    let body = ''
    try {
      const limited = AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)])
      const response = await fetch(url, { ...request, redirect: 'manual', signal: limited })
      body = (await response.text()).slice(0, BODY_CHARS_MAX)
      status = response.status
    } catch {
      // No answer, for whatever reason: it is told again.
    }
    return { status, body, durationMs: performance.now() - startedMs }
  }
}

export type Pushes = ReturnType<typeof createPushes>

function address({ url }: PushSettings, query: Record<string, string>): string {
  const target = new URL(url)
  for (const [name, value] of Object.entries(query)) target.searchParams.set(name, value)
  return target.href
}

function isSuccess({ status, body }: PushAttempt): boolean {
  return status === 200 && (body === 'success' || body === '')
}

function rest(ms: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve()
  return new Promise((resolve) => {
    const timer = setTimeout(done, Math.max(0, ms))
    signal.addEventListener('abort', done, { once: true })
    function done() {
      clearTimeout(timer)
      signal.removeEventListener('abort', done)
      resolve()
    }
  })
}
