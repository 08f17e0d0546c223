/**
 * Message pushes of WeChat: who may send them, and what they lead to.
 *
 * Refused before the body is read: a time that is not now, by Redis' clock, and a wrong signature, where that can be
 * told already. Nothing is asked of Redis before the signature is found right.
 *
 *   signature in clear  does not cover the body. It stands for the first message it came with, and for no other
 *   EncodingAESKey      once an app has one, only what is encrypted with it is believed. In compatible mode that is the
 *                       part `Encrypt`; what stands beside it in clear is not looked at
 *   retries             WeChat sends a message again when it hears no `success` within 5 s. An event that was
 *                       acknowledged leads to nothing the second time; one that was not goes on with the same receipt,
 *                       and so with the same job
 *
 * What becomes of each message, act() says. An event is acknowledged when its erasure is queued in
 * Redis, not before.
 */
import { createHash, randomUUID } from 'node:crypto'
import type { App, AppPush } from './app-entry.ts'
import type { Erasure } from './erasure.ts'
import { GatewayError } from './errors.ts'
import { stored } from './redis/stored.ts'
import type { StoreClock } from './redis/clock.ts'
import type { RedisClient } from './redis/connections.ts'
import type { Keys } from './redis/keys.ts'
import type { Sessions } from './sessions.ts'
import { subjectOf } from './subject.ts'
import { isSigned, openEncrypted } from './wechat/push-envelope.ts'
import { parsePush, pushTypeOf } from './wechat/push-message.ts'
import type { PushFields, PushType } from './wechat/push-message.ts'

/** How far WeChat's time may be from Redis', either way. */
const WINDOW_SECONDS = 300
/** Above twice the window, in which a push could be sent again, and above WeChat's last retry. */
const REMEMBER_SECONDS = 3_600
/** Of RevokeInfo: everything is withdrawn. */
const REVOKED_ALL = '301'
const ACKNOWLEDGED = 'acknowledged'
/** As the administrator's routes take it. */
const OPENID = /^[\x21-\x7e]{1,128}$/

/** The address of a push, without what else WeChat puts there. */
export interface PushQuery {
  timestamp: string
  nonce: string
  /** '' when it is not there. */
  signature: string
  msgSignature: string
}

/** An app that takes pushes. */
export interface PushedApp extends App {
  readonly push: AppPush
}

/** ignored: nothing is to be done. repeated: it had been done. no_user: WeChat does not say whom it is about. */
type PushOutcome = 'erased' | 'logged_out' | 'repeated' | 'no_user' | 'ignored'

export interface PushesDeps {
  redis: RedisClient
  keys: Keys
  clock: StoreClock
  erasure: Pick<Erasure, 'erase'>
  sessions: Pick<Sessions, 'revokeAllOf'>
  /** `unread`: it was refused before it was known what it is. outcome: PushOutcome, or the code of the error. */
  onPush(type: PushType | 'unread', outcome: string): void
}

/**
 * @param revokeErases whether a user who withdraws their consent to single items is erased, as WeChat asks; false: they
 * are logged out everywhere
 */
export function createPushes(
  { redis, keys, clock, erasure, sessions, onPush }: PushesDeps,
  { revokeErases }: { revokeErases: boolean },
) {
  return {
    /**
     * Whether WeChat's administrator page is asking if this address is theirs.
     * @throws {GatewayError} push_unsigned, push_stale
     */
    checkUrl({ push }: PushedApp, query: PushQuery): void {
      refuseOutsideWindow(query)
      refuseUnsigned(push, query)
    },

    /**
     * What can be said of a push before its body has been read.
     * @throws {GatewayError} push_unsigned, push_stale
     */
    screen({ push }: PushedApp, query: PushQuery): void {
      counted('unread', () => {
        refuseOutsideWindow(query)
        if (push.aesKeys.length === 0) refuseUnsigned(push, query)
        else if (query.msgSignature === '')
          throw new GatewayError('push_unsigned', { detail: 'This app takes encrypted messages only.' })
      })
    },

    /**
     * Does what the message asks. When it resolves, that is certain to happen: WeChat may be told `success`. After a
     * failure it has to come again.
     * @throws {GatewayError} push_unsigned, push_foreign, request_invalid, store_unavailable
     */
    async receive(app: PushedApp, query: PushQuery, body: Uint8Array): Promise<void> {
      const fields = counted('unread', () => open(app, query, body))
      const type = pushTypeOf(fields)
      try {
        if (app.push.aesKeys.length === 0) await bindSignature(app, query, body)
        onPush(type, await act(app, query, type, fields))
      } catch (error) {
        onPush(type, outcomeOf(error))
        throw error
      }
    },
  }

  function refuseOutsideWindow({ timestamp }: PushQuery): void {
    if (Math.abs(clock.nowMs() / 1000 - Number(timestamp)) > WINDOW_SECONDS)
      throw new GatewayError('push_stale')
  }

  async function act(
    app: PushedApp,
    query: PushQuery,
    type: PushType,
    fields: PushFields,
  ): Promise<PushOutcome> {
    switch (type) {
      case 'user_authorization_cancellation':
      case 'user_authorization_revoke': {
        const { OpenID: openid = '' } = fields
        // WeChat has been seen to leave it out. Nothing can be done, and nothing would change by sending it again.
        if (!OPENID.test(openid)) return 'no_user'
        const time = fields.CreateTime ?? query.timestamp
        const user = { appid: app.appid, openid }
        const event = hashOf('event', app.appid, type, openid, time, fields.RevokeInfo ?? '')
        const logOutOnly = type === 'user_authorization_revoke' && !revokeErases && namesItems(fields)
        return logOutOnly
          ? once(event, 'logged_out', () => sessions.revokeAllOf(subjectOf(app.appid, openid)))
          : once(event, 'erased', (receipt) => erasure.erase(user, receipt))
      }
      // It asks to drop name and picture of the user, of which the gateway keeps neither.
      case 'user_info_modified':
      default:
        return 'ignored'
    }
  }

  /** Does it unless it has been done. @param work told of the same receipt until it has succeeded */
  async function once(
    event: string,
    outcome: PushOutcome,
    work: (receipt: string) => Promise<unknown>,
  ): Promise<PushOutcome> {
    const key = keys.push(event)
    const own = randomUUID()
    const isNew = await stored(redis.set(key, own, 'EX', REMEMBER_SECONDS, 'NX'))
    const receipt = isNew === 'OK' ? own : ((await stored(redis.get(key))) ?? own)
    if (receipt === ACKNOWLEDGED) return 'repeated'
    await work(receipt)
    await stored(redis.set(key, ACKNOWLEDGED, 'EX', REMEMBER_SECONDS))
    return outcome
  }

  /** @throws {GatewayError} push_unsigned, when the signature has come with another body before */
  async function bindSignature(
    { appid }: PushedApp,
    { timestamp, nonce, signature }: PushQuery,
    body: Uint8Array,
  ): Promise<void> {
    const key = keys.push(hashOf('signature', appid, timestamp, nonce, signature))
    const digest = createHash('sha256').update(body).digest('base64url')
    const isNew = await stored(redis.set(key, digest, 'EX', REMEMBER_SECONDS, 'NX'))
    if (isNew === 'OK' || (await stored(redis.get(key))) === digest) return
    throw new GatewayError('push_unsigned', { detail: 'This signature has come with another message.' })
  }

  function counted<T>(type: 'unread', work: () => T): T {
    try {
      return work()
    } catch (error) {
      onPush(type, outcomeOf(error))
      throw error
    }
  }
}

export type Pushes = ReturnType<typeof createPushes>

/** Whether it is about single items, such as the camera; in Mini Programs it always is, as far as WeChat tells. */
function namesItems({ RevokeInfo: items = '' }: PushFields): boolean {
  return items !== '' && items !== REVOKED_ALL
}

/** @throws {GatewayError} push_unsigned */
function refuseUnsigned({ tokens }: AppPush, { timestamp, nonce, signature }: PushQuery): void {
  if (!isSigned(tokens, [timestamp, nonce], signature)) throw new GatewayError('push_unsigned')
}

/** The message itself. @throws {GatewayError} push_unsigned, push_foreign, request_invalid */
function open({ appid, push }: PushedApp, query: PushQuery, body: Uint8Array): PushFields {
  const { timestamp, nonce, msgSignature } = query
  let fields = readable(parsePush(body))
  if (push.aesKeys.length > 0) {
    const { Encrypt: encrypt = '' } = fields
    if (!isSigned(push.tokens, [timestamp, nonce, encrypt], msgSignature))
      throw new GatewayError('push_unsigned')
    const opened = openEncrypted(encrypt, push.aesKeys, appid)
    if (opened.outcome === 'foreign') throw new GatewayError('push_foreign')
    if (opened.outcome === 'sealed') throw unreadable('No EncodingAESKey of this app opens the message.')
    fields = readable(parsePush(opened.message))
  } else if (fields.MsgType === undefined && fields.Encrypt !== undefined) {
    throw unreadable('The message is encrypted, and no EncodingAESKey is configured for this app.')
  }
  if (fields.AppID !== undefined && fields.AppID !== appid) throw new GatewayError('push_foreign')
  return fields
}

function outcomeOf(error: unknown): string {
  return error instanceof GatewayError ? error.code : 'internal'
}

function readable(fields: PushFields | undefined): PushFields {
  if (fields === undefined) throw unreadable("The message is neither WeChat's XML nor a JSON object.")
  return fields
}

function unreadable(detail: string): GatewayError {
  return new GatewayError('request_invalid', { detail })
}

function hashOf(...parts: readonly string[]): string {
  return createHash('sha256').update(parts.join('\0')).digest('base64url')
}
