/**
 * The store of deliveries: one row for each event and endpoint (outbox.ts), of which workers take turns.
 *
 * A worker leases what it tries, by putting its `due_at` into the future: the row is no other's until then, and
 * everybody's again when the worker is lost. So an event is sent at least once, and twice at the same time by nobody
 * whose clock goes on. The end of an attempt counts only while no other attempt has begun since. All times are the
 * database's.
 */
import { sql } from 'kysely'
import type { Kysely, RawBuilder } from 'kysely'
import type { Schema } from '../migrations.ts'

/** Well above the longest attempt (post.ts), and what a lost worker's deliveries wait. */
export const LEASE_SECONDS = 30

/** Delivered rows are kept for whoever wants to know; they hold what was told. */
const DELIVERED_DAYS = 7
/** Dead ones for a person to look at. */
const DEAD_DAYS = 30
/** Longer than any schedule: of an endpoint that is disabled, or in no file any more. */
const PENDING_DAYS_MAX = 14
/** Rows that one statement changes or takes away: however many there are, it is done before it is timed out. */
export const SWEEP_ROWS = 5_000
/** Statements of each kind in one sweep, for which a worker that closes waits. The next sweep goes on. */
const SWEEP_STATEMENTS_MAX = 200

export interface Delivery {
  readonly eventId: string
  readonly endpoint: string
  readonly type: string
  readonly payload: string
  /** This one included. */
  readonly attempts: number
}

export type DeliveryEnd =
  | { readonly state: 'delivered' | 'dead' }
  | { readonly state: 'pending'; readonly delaySeconds: number }

export interface DeliveryCounts {
  readonly endpoint: string
  readonly state: 'pending' | 'dead'
  readonly count: number
  /** Of the oldest. */
  readonly ageSeconds: number
}

export interface ListedDelivery {
  readonly eventId: string
  readonly endpoint: string
  readonly type: string
  readonly createdAt: Date
  readonly finishedAt: Date | null
  readonly attempts: number
  readonly lastResult: string | null
}

export type Deliveries = ReturnType<typeof createDeliveries>

/** Builds it on a migrated database. Everything rejects with the database's error. */
export function createDeliveries(db: Kysely<Schema>) {
  return {
    /** Leases what is due for an endpoint, the longest due first; none while it is disabled. */
    async claim(endpoint: string, limit: number): Promise<Delivery[]> {
      const { rows } = await sql<Delivery>`
        with due as materialized (
          select event_id, endpoint from webhook_deliveries
          where state = 'pending' and endpoint = ${endpoint} and due_at <= now()
            and not exists (
              select from webhook_endpoints where name = ${endpoint} and disabled_at is not null
            )
          order by due_at limit ${limit}
          for update of webhook_deliveries skip locked
        )
        update webhook_deliveries as taken
        set leased = true, attempts = attempts + 1, due_at = now() + ${LEASE_SECONDS} * interval '1 second'
        from due where taken.event_id = due.event_id and taken.endpoint = due.endpoint
        returning taken.event_id as "eventId", taken.endpoint, type, payload, attempts
      `.execute(db)
      return rows
    },

    /** Ends an attempt, unless another has begun since. */
    async finish(delivery: Delivery, end: DeliveryEnd, result: string): Promise<void> {
      const delaySeconds = end.state === 'pending' ? end.delaySeconds : 0
      await db
        .updateTable('webhook_deliveries')
        .set({
          state: end.state,
          leased: false,
          due_at: sql`now() + ${delaySeconds} * interval '1 second'`,
          finished_at: end.state === 'pending' ? null : sql`now()`,
          last_result: result,
        })
        .where('event_id', '=', delivery.eventId)
        .where('endpoint', '=', delivery.endpoint)
        .where('attempts', '=', delivery.attempts)
        .where('state', '=', 'pending')
        .execute()
    },

    /** Nothing is delivered to it from now on, or is again. What waits for it goes on waiting meanwhile. */
    async setDisabled(name: string, disabled: boolean): Promise<void> {
      const disabledAt = disabled ? sql<Date>`now()` : null
      await db
        .insertInto('webhook_endpoints')
        .values({ name, disabled_at: disabledAt })
        .onConflict((conflict) => conflict.column('name').doUpdateSet({ disabled_at: disabledAt }))
        .execute()
    },

    /** Since when endpoints are disabled, by name. */
    async disabled(): Promise<ReadonlyMap<string, Date>> {
      const rows = await db.selectFrom('webhook_endpoints').selectAll().execute()
      return new Map(rows.flatMap(({ name, disabled_at: at }) => (at === null ? [] : [[name, at]])))
    },

    /** What waits and what is dead, by endpoint; endpoints without either are left out. */
    async counts(): Promise<DeliveryCounts[]> {
      const counted = sql`endpoint, state, count(*)::int as count,
        greatest(0, extract(epoch from now() - min(created_at)))::float8 as "ageSeconds"`
      const { rows } = await sql<DeliveryCounts>`
        select ${counted} from webhook_deliveries where state = 'pending' group by 1, 2
        union all
        select ${counted} from webhook_deliveries where state = 'dead' group by 1, 2
        order by 1, 2
      `.execute(db)
      return rows
    },

    /** Dead ones, the latest first, of all endpoints or of one. */
    async dead(limit: number, endpoint?: string): Promise<ListedDelivery[]> {
      let query = db
        .selectFrom('webhook_deliveries')
        .select(['event_id', 'endpoint', 'type', 'created_at', 'finished_at', 'attempts', 'last_result'])
        .where('state', '=', 'dead')
        .orderBy('finished_at', 'desc')
        .limit(limit)
      if (endpoint !== undefined) query = query.where('endpoint', '=', endpoint)
      const rows = await query.execute()
      return rows.map((row) => ({
        eventId: row.event_id,
        endpoint: row.endpoint,
        type: row.type,
        createdAt: row.created_at,
        finishedAt: row.finished_at,
        attempts: row.attempts,
        lastResult: row.last_result,
      }))
    },

    /**
     * Dead ones are tried again with their ids and all attempts before them: how many. When it rejects, those that were
     * put back before stay so, and a second call goes on.
     */
    async replay(which: { eventIds: readonly string[] } | { endpoint: string | undefined }): Promise<number> {
      let wanted = sql`state = 'dead'`
      if ('eventIds' in which) wanted = sql`${wanted} and event_id = any(${[...which.eventIds]}::uuid[])`
      else {
        // What dies again meanwhile is not replayed twice. As text, for a Date has no microseconds.
        const { rows } = await sql<{ now: string }>`select now()::text as now`.execute(db)
        wanted = sql`${wanted} and finished_at <= ${rows[0]?.now}::timestamptz`
        if (which.endpoint !== undefined) wanted = sql`${wanted} and endpoint = ${which.endpoint}`
      }
      // Those that another has locked are waited for: none may be left out.
      return byPieces(
        sql`${wanted} order by finished_at limit ${SWEEP_ROWS} for update`,
        sql`update webhook_deliveries as changed
          set state = 'pending', attempts = 0, due_at = now(), finished_at = null, created_at = now() from piece`,
      )
    },

    /**
     * Takes away what is old, a piece at a time; what has waited for too long is dead. Safe beside others. Where one
     * of these fails the others are done, and it rejects with that error afterwards.
     */
    async sweep(): Promise<void> {
      const remove = sql`delete from webhook_deliveries as changed using piece`
      const steps = [
        [
          sql`state = 'pending' and not leased and ${pieceOlderThan('created_at', PENDING_DAYS_MAX)}`,
          sql`update webhook_deliveries as changed
            set state = 'dead', finished_at = now(), last_result = 'expired' from piece`,
        ],
        [sql`state = 'delivered' and ${pieceOlderThan('finished_at', DELIVERED_DAYS)}`, remove],
        [sql`state = 'dead' and ${pieceOlderThan('finished_at', DEAD_DAYS)}`, remove],
      ] as const
      const errors: unknown[] = []
      for (const [which, change] of steps)
        await byPieces(which, change, SWEEP_STATEMENTS_MAX).catch((error: unknown) => errors.push(error))
      if (errors.length > 0) throw errors[0]
    },
  }

  /**
   * Changes rows a piece at a time, each time in a transaction of its own, until there are no more. How many.
   * @param which a condition that a changed row does not fulfil any more, with its limit of SWEEP_ROWS and its lock
   */
  async function byPieces(
    which: RawBuilder<unknown>,
    change: RawBuilder<unknown>,
    statementsMax = Infinity,
  ): Promise<number> {
    let count = 0
    for (let statements = 0; statements < statementsMax; statements += 1) {
      const changed = await sql`
        with piece as materialized (select event_id, endpoint from webhook_deliveries where ${which})
        ${change} where changed.event_id = piece.event_id and changed.endpoint = piece.endpoint
      `.execute(db)
      const rows = Number(changed.numAffectedRows ?? 0)
      count += rows
      if (rows < SWEEP_ROWS) break
    }
    return count
  }
}

function pieceOlderThan(column: 'created_at' | 'finished_at', days: number): RawBuilder<unknown> {
  return sql`${sql.ref(column)} < now() - ${days} * interval '1 day' limit ${SWEEP_ROWS} for update skip locked`
}
