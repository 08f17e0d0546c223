/**
 * The outbox: events are written into the database by the transaction that makes them true, so an event is told if
 * and only if it happened, whatever becomes of the process. deliveries.ts takes them from there.
 *
 * An event is one row for each endpoint that wants it, with the body as it will be sent: an endpoint that does not ask
 * for openids makes none be stored, and without endpoints nothing is written at all. All rows of an event have one id.
 */
import { createHash, randomUUIDv7 } from 'node:crypto'
import { sql } from 'kysely'
import type { Transaction } from 'kysely'
import { subjectOf } from '../../src/subject.ts'
import type { EventType, WebhookEndpoint } from '../../src/webhook-endpoints.ts'
import type { Schema } from '../migrations.ts'
import { LEASE_SECONDS } from './deliveries.ts'

export interface EventIdentity {
  readonly appid: string
  readonly openid: string
  readonly unionid?: string | undefined
}

export interface NewEvent {
  readonly type: EventType
  /** undefined: the user has none yet that anybody could know. */
  readonly userId: string | undefined
  /** The identity that it happened to. Its hash is told everyone, itself only those who ask for it. */
  readonly identity?: EventIdentity | undefined
  /** Instead of the identity, where only the hash is known. */
  readonly sub?: string | undefined
  /** What else is told. Nothing that names a person. */
  readonly details?: Readonly<Record<string, unknown>>
  /** When it happened, Unix time; now when it is left out. */
  readonly atMs?: number
  /** A UUIDv7. The same event written twice, with the same id, is one; left out, it gets an id of its own. */
  readonly id?: string
  /** How long its first delivery waits at least. */
  readonly delaySeconds?: number
}

export interface Outbox {
  /** Whether any endpoint wants events of this type. */
  wants(type: EventType): boolean
  /** Writes events, in one statement. Rejects with the database's error. */
  record(tx: Transaction<Schema>, events: readonly NewEvent[]): Promise<void>
  /**
   * Users are erased: what there is of them goes, delivered or not, and one user.erased tells of it. An event of
   * before must not arrive behind that and bring them back elsewhere, so it waits for a delivery that is on its way.
   * @param userIds the user, then those that were merged into them
   */
  forgetUsers(tx: Transaction<Schema>, sub: string, userIds: readonly string[]): Promise<void>
  /** Somebody is erased who never was a user: what was to be told of their log-outs goes. */
  forgetSubject(tx: Transaction<Schema>, sub: string): Promise<void>
  /** One identity of a user is erased, who stays: it goes from what there is. user.unlinked waits as user.erased does. */
  forgetIdentity(tx: Transaction<Schema>, sub: string, userId: string): Promise<void>
}

/** Builds it for these endpoints. */
export function createOutbox(endpoints: readonly WebhookEndpoint[]): Outbox {
  async function record(tx: Transaction<Schema>, events: readonly NewEvent[]): Promise<void> {
    const rows = events.flatMap((event) => rowsOf(event, endpoints))
    if (rows.length === 0) return
    await tx
      .insertInto('webhook_deliveries')
      .values(rows)
      .onConflict((conflict) => conflict.doNothing())
      .execute()
  }

  return {
    wants: (type) => endpoints.some(({ events }) => events.has(type)),
    record,
    async forgetUsers(tx, sub, userIds) {
      const removed = await tx
        .deleteFrom('webhook_deliveries')
        .where(({ eb, or }) => or([eb('user_id', 'in', [...userIds]), eb('sub', '=', sub)]))
        .returning('leased')
        .execute()
      const [userId, ...formerUserIds] = userIds
      const details = formerUserIds.length === 0 ? {} : { former_user_ids: formerUserIds }
      await record(tx, [{ type: 'user.erased', userId, details, delaySeconds: delayBehind(removed) }])
    },
    async forgetSubject(tx, sub) {
      await tx.deleteFrom('webhook_deliveries').where('sub', '=', sub).execute()
    },
    async forgetIdentity(tx, sub, userId) {
      const bare = sql<string>`(payload::jsonb #- '{data,appid}' #- '{data,openid}' #- '{data,unionid}')::text`
      const stripped = await tx
        .updateTable('webhook_deliveries')
        .set({ payload: bare })
        .where('sub', '=', sub)
        .returning('leased')
        .execute()
      await record(tx, [{ type: 'user.unlinked', userId, sub, delaySeconds: delayBehind(stripped) }])
    },
  }
}

/** For whoever has no endpoints. */
export const NO_OUTBOX = createOutbox([])

/** So that what is being sent, from a worker's memory, cannot arrive later. */
function delayBehind(rows: readonly { readonly leased: boolean }[]): number {
  return rows.some(({ leased }) => leased) ? LEASE_SECONDS : 0
}

function rowsOf(event: NewEvent, endpoints: readonly WebhookEndpoint[]) {
  const { type, userId, identity, atMs = Date.now(), delaySeconds = 0 } = event
  const sub = event.sub ?? (identity && subjectOf(identity.appid, identity.openid))
  const eventId = event.id ?? randomUUIDv7()
  return endpoints
    .filter(({ events }) => events.has(type))
    .map(({ name, includeOpenid }) => ({
      event_id: eventId,
      endpoint: name,
      type,
      user_id: userId ?? null,
      sub: sub ?? null,
      due_at: sql<Date>`now() + ${delaySeconds} * interval '1 second'`,
      payload: JSON.stringify({
        type,
        timestamp: new Date(atMs).toISOString(),
        // What is undefined is left out.
        data: { user_id: userId, sub, ...event.details, ...(includeOpenid && named(identity)) },
      }),
    }))
}

function named(identity: EventIdentity | undefined) {
  return identity && { appid: identity.appid, openid: identity.openid, unionid: identity.unionid }
}

/**
 * The id of what may be told of more than once, by a job that is run again: a UUIDv7 (RFC 9562) whose random part is
 * a hash, so that it is the same each time.
 */
export function repeatableEventId(type: EventType, sub: string, atMs: number): string {
  const bytes = createHash('sha256')
    .update(JSON.stringify([type, sub, atMs]))
    .digest()
    .subarray(0, 16)
  bytes.writeUIntBE(Math.max(0, Math.trunc(atMs)), 0, 6)
  bytes[6] = 0x70 | (bytes.readUInt8(6) & 0x0f)
  bytes[8] = 0x80 | (bytes.readUInt8(8) & 0x3f)
  const hex = bytes.toString('hex')
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-')
}
