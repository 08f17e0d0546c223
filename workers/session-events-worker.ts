/**
 * The BullMQ worker of the queue of log-outs (src/session-events.ts): each goes into the outbox, once however often its
 * job is run. Where nobody wants to hear of them, or there is no outbox (PROVISION_MODULE), they are taken all the same,
 * so that the queue does not fill.
 */
import { UnrecoverableError } from 'bullmq'
import { sql } from 'kysely'
import type { Kysely, Transaction } from 'kysely'
import type { WorkerMetrics } from '../src/metrics/worker.ts'
import { parseSessionEventJob, SESSION_EVENTS_QUEUE } from '../src/session-events.ts'
import type { SessionEventJob } from '../src/session-events.ts'
import { subjectOf } from '../src/subject.ts'
import { describeDatabaseError } from './database-errors.ts'
import type { Schema } from './migrations.ts'
import { createPatientWorker } from './patient-worker.ts'
import type { FailedJob, PatientWorker, PatientWorkerDeps } from './patient-worker.ts'
import type { IncomingJob } from './provision-user.ts'
import type { EventIdentity, Outbox } from './webhooks/outbox.ts'

const STALLED_TIMES_MAX = 20
const CONCURRENCY = 4
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/

export interface SessionEventsWorkerDeps extends Pick<PatientWorkerDeps, 'redis' | 'log'> {
  /** undefined: users are in a table of the operator's, and there are no webhooks. */
  readonly db: Kysely<Schema> | undefined
  readonly outbox: Outbox
  readonly metrics: Pick<WorkerMetrics, 'webhooks'>
}

/** Builds the worker; it takes no jobs before start(). @param prefix BullMQ's: keys.queue(SESSION_EVENTS_QUEUE) */
export function createSessionEventsWorker(
  { db, outbox, redis, metrics, log }: SessionEventsWorkerDeps,
  prefix: string,
): PatientWorker {
  const { sessionEvents } = metrics.webhooks

  function onEnd(outcome: 'done' | 'failed' | 'dead', job?: FailedJob): void {
    sessionEvents.inc({ outcome })
    if (job === undefined) return
    const { id, ...fields } = job
    if (outcome === 'dead') log.error({ job: id, ...fields }, 'a log-out cannot be told of')
    else log.warn({ job: id, ...fields }, 'a log-out will be told of later')
  }

  let isUnheardSaid = false

  function sayUnheard(): void {
    if (!isUnheardSaid)
      log.warn(
        db === undefined
          ? 'SESSION_EVENTS is on at a gateway, and with PROVISION_MODULE there are no webhooks to tell of log-outs'
          : 'SESSION_EVENTS is on at a gateway, and no endpoint of WEBHOOKS_FILE wants session.revoked',
      )
    isUnheardSaid = true
  }

  async function run({ data }: IncomingJob): Promise<void> {
    if (db === undefined || !outbox.wants('session.revoked')) return sayUnheard()
    const event = parse(data)
    await db
      .transaction()
      .execute((tx) => record(tx, outbox, event))
      .catch((error: unknown) => {
        // BullMQ keeps the message in clear, and the database's may quote.
        throw new NotRecorded(`database: ${describeDatabaseError(error).reason ?? 'connection lost'}`)
      })
  }

  return createPatientWorker(
    { name: SESSION_EVENTS_QUEUE, prefix, concurrency: CONCURRENCY, stalledTimesMax: STALLED_TIMES_MAX },
    { redis, log, run, onEnd },
  )
}

function parse(data: unknown): SessionEventJob {
  try {
    return parseSessionEventJob(data)
  } catch (error) {
    throw new UnrecoverableError(error instanceof TypeError ? error.message : 'malformed job')
  }
}

async function record(tx: Transaction<Schema>, outbox: Outbox, event: SessionEventJob): Promise<void> {
  const { id, sub, scope, sid, endedAtMs } = event
  const user = event.userId === undefined ? undefined : await findUser(tx, event.userId, sub)
  // After the lock on their identities, so that an erasure is either seen here or takes what is written here.
  if (await isErasedSince(tx, sub, endedAtMs)) return
  await outbox.record(tx, [
    {
      type: 'session.revoked',
      id,
      userId: user?.userId ?? event.userId,
      sub,
      identity: user?.identity,
      details: { scope, ...(sid !== undefined && { [scope === 'others' ? 'kept_sid' : 'sid']: sid }) },
      atMs: endedAtMs,
    },
  ])
}

/** The user as they are now, who may have been merged since; undefined where users are kept elsewhere, or gone. */
async function findUser(
  tx: Transaction<Schema>,
  userId: string,
  sub: string,
): Promise<{ userId: string; identity: EventIdentity | undefined } | undefined> {
  if (!UUID.test(userId)) return undefined
  const { rows } = await sql<{ user_id: string; appid: string; openid: string; unionid: string | null }>`
    with recursive chain as (
      select id, merged_into from users where id = ${userId}
      union all
      select users.id, users.merged_into from users join chain on users.id = chain.merged_into
    )
    select user_id, appid, openid, unionid from identities
    where user_id = (select id from chain where merged_into is null)
    for share of identities
  `.execute(tx)
  const [first] = rows
  if (first === undefined) return undefined
  const own = rows.find(({ appid, openid }) => subjectOf(appid, openid) === sub)
  const identity = own && { appid: own.appid, openid: own.openid, unionid: own.unionid ?? undefined }
  return { userId: first.user_id, identity }
}

/** Behind user.erased nothing of before is told. */
async function isErasedSince(tx: Transaction<Schema>, sub: string, atMs: number): Promise<boolean> {
  const erasure = await tx
    .selectFrom('erasures')
    .select('sub')
    .where('sub', '=', sub)
    .where('erased_at', '>=', new Date(atMs))
    .executeTakeFirst()
  return erasure !== undefined
}

/** Is run again soon. */
class NotRecorded extends Error {
  override readonly name = 'NotRecorded'

  constructor(message: string) {
    super(message)
    this.stack = `${this.name}: ${message}` // BullMQ keeps it
  }
}
