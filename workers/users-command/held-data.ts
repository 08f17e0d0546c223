/**
 * Everything that is held about one user, for whoever asks for it by law: what Redis knows of their sessions, blocks
 * and jobs, and their rows in the database. No secret is in it: neither a session_key, nor what a token is checked by.
 *
 * Not found by user, and so not in it: the claim of a code, which names them for five minutes at most.
 */
import { sql } from 'kysely'
import type { Kysely } from 'kysely'
import { ERASE_QUEUE } from '../../src/erasure.ts'
import { PROVISION_QUEUE, readableJob } from '../../src/provisioning.ts'
import { stored } from '../../src/redis/stored.ts'
import type { RedisClient } from '../../src/redis/connections.ts'
import type { Keys } from '../../src/redis/keys.ts'
import { SESSION_EVENTS_QUEUE } from '../../src/session-events.ts'
import { parseSession } from '../../src/session-value.ts'
import { subjectOf } from '../../src/subject.ts'
import { readMarks } from '../../src/user-marks.ts'
import type { Schema } from '../migrations.ts'
import { openQueueView, readJobIds } from '../queue-view.ts'

interface Asked {
  readonly appid: string
  readonly openid: string
}

export interface HeldDataDeps {
  readonly redis: RedisClient
  readonly keys: Keys
  /** undefined: users are in a table of the operator's (PROVISION_MODULE). */
  readonly db: Kysely<Schema> | undefined
}

/** Collects it, as it goes into JSON. Rejects with store_unavailable, or with the database's error. */
export async function collectHeldData({ redis, keys, db }: HeldDataDeps, asked: Asked) {
  const sub = subjectOf(asked.appid, asked.openid)
  return {
    exported_at: new Date().toISOString(),
    ...asked,
    sub,
    redis: {
      login: await readLogin(redis, keys.user(sub)),
      block: await readBlock(redis, keys.block(sub)),
      logins_counted_this_minute: Number((await stored(redis.get(keys.userLimit(sub)))) ?? 0),
      erasure_remembered: (await stored(redis.exists(keys.erased(sub)))) === 1,
      jobs: [
        ...(await readJobs(redis, keys, PROVISION_QUEUE, sub)),
        ...(await readJobs(redis, keys, ERASE_QUEUE, sub)),
        ...(await readJobs(redis, keys, SESSION_EVENTS_QUEUE, sub)),
      ],
    },
    database: db === undefined ? 'in a table of your own: PROVISION_MODULE' : await readRows(db, asked, sub),
  }
}

/** The ends of sessions follow from settings of the gateway; what is held are these times. */
const NO_LIFE = { idleSeconds: 0, maxSeconds: 0 }

async function readLogin(redis: RedisClient, key: string) {
  const fields = await stored(redis.hgetallBuffer(key))
  if (Object.keys(fields).length === 0) return null
  const { userId, acknowledged, sinceSeconds } = readMarks(fields['m'], fields['g'], fields['i'])
  const sessions = Object.entries(fields)
    .filter(([name]) => name.includes(':'))
    .map(([, value]) => parseSession(value.toString(), NO_LIFE, 0))
  return {
    appid: fields['a']?.toString(),
    openid: fields['o']?.toString(),
    unionid: fields['u']?.toString() ?? null,
    user_id: userId ?? null,
    provisioning: { acknowledged, since: timeOf(sinceSeconds) },
    session_keys_held_sealed: ['k', 'p'].filter((name) => name in fields).length,
    sessions: sessions.map(({ issuedAtSeconds, lastUsedAtSeconds, device }) => ({
      issued_at: timeOf(issuedAtSeconds),
      last_used_at: timeOf(lastUsedAtSeconds),
      device,
    })),
    kept_until: timeOf(Date.now() / 1_000 + (await stored(redis.ttl(key)))),
  }
}

async function readBlock(redis: RedisClient, key: string) {
  const note = await stored(redis.get(key))
  if (note === null) return null
  const { since, reason = null } = JSON.parse(note) as { since: number; reason?: string }
  const secondsLeft = await stored(redis.ttl(key))
  const until = secondsLeft < 0 ? 'for good' : timeOf(Date.now() / 1_000 + secondsLeft)
  return { since: timeOf(since), reason, until }
}

/** From where a job may come before where it may go. */
const STATES = ['delayed', 'prioritized', 'waiting', 'active', 'failed', 'completed'] as const

async function readJobs(redis: RedisClient, keys: Keys, queueName: string, sub: string) {
  const queue = openQueueView(redis, keys.queue(queueName), queueName)
  const found = new Map<string, object>()
  for (const state of STATES) {
    const reading = readJobIds(queue, state, async (id) => {
      const job = await queue.getJob(id)
      const data = (readableJob(job?.data) ?? {}) as { sub?: string }
      if (job !== undefined && data.sub === sub) {
        const queued_at = new Date(job.timestamp).toISOString()
        found.set(id, { queue: queueName, id, state, queued_at, data })
      }
      return false
    })
    await stored(reading)
  }
  await queue.close()
  return [...found.values()]
}

async function readRows(db: Kysely<Schema>, { appid, openid }: Asked, sub: string) {
  const identity = await db
    .selectFrom('identities')
    .select('user_id')
    .where('appid', '=', appid)
    .where('openid', '=', openid)
    .executeTakeFirst()
  const erasure = await db.selectFrom('erasures').selectAll().where('sub', '=', sub).executeTakeFirst()
  const events = db
    .selectFrom('webhook_deliveries')
    .select(['endpoint', 'type', 'payload', 'state', 'created_at'])
    .orderBy('created_at')
  if (identity === undefined) {
    const webhooks = await events.where('sub', '=', sub).execute()
    return { users: [], identities: [], erasure: erasure ?? null, webhooks }
  }
  // With those that were merged into them.
  const { rows: users } = await sql<object>`
    with recursive tree as (
      select * from users where id = ${identity.user_id}
      union all
      select users.* from users join tree on users.merged_into = tree.id
    )
    select * from tree`.execute(db)
  const identities = await db
    .selectFrom('identities')
    .selectAll()
    .where('user_id', '=', identity.user_id)
    .orderBy('first_seen_at')
    .execute()
  const webhooks = await events
    .where(({ eb, or }) => or([eb('sub', '=', sub), eb('user_id', '=', identity.user_id)]))
    .execute()
  return { users, identities, erasure: erasure ?? null, webhooks }
}

function timeOf(seconds: number): string {
  return new Date(Math.round(seconds) * 1_000).toISOString()
}
