/**
 * A PROVISION_MODULE: the worker writes the users who log in into a table of yours (provision-module.sql) instead of
 * its own. Needs the package pg. Run the worker with PROVISION_MODULE=./provision-module.mjs and
 *
 *   MEMBERS_DATABASE_URL   the Postgres with that table
 *
 * The worker calls at least once for each user, perhaps again, and up to WORKER_CONCURRENCY times at once: every
 * function must be one that may be repeated.
 */
import { Pool } from 'pg'

const { MEMBERS_DATABASE_URL } = process.env
if (!MEMBERS_DATABASE_URL) throw new Error('MEMBERS_DATABASE_URL is required')

/** Its errors say by their code whether trying again later can help; the worker understands those. */
const pool = new Pool({
  connectionString: MEMBERS_DATABASE_URL,
  max: 10,
  connectionTimeoutMillis: 2_000,
  statement_timeout: 5_000,
})
pool.on('error', () => {}) // of an idle connection; the pool has dropped it

/** Creates or finds the user, and returns the id that the gateway is to tell other backends. */
export async function provisionUser({ appid, openid, unionid, seenAtMs }, { signal }) {
  signal.throwIfAborted() // after 20 s the worker has given up on this call
  const { rows } = await pool.query(
    `insert into members (appid, openid, unionid, last_seen_at) values ($1, $2, $3, $4)
     on conflict (appid, openid) do update set
       unionid = coalesce(excluded.unionid, members.unionid),
       last_seen_at = greatest(excluded.last_seen_at, members.last_seen_at)
     returning id`,
    [appid, openid, unionid ?? null, new Date(seenAtMs)],
  )
  return rows[0].id
}

/** The user asked to be forgotten. Returns how many were deleted. */
export async function eraseUser({ appid, openid }) {
  const { rowCount } = await pool.query('delete from members where appid = $1 and openid = $2', [
    appid,
    openid,
  ])
  return rowCount
}
