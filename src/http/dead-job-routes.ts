/** Dead jobs of the provisioning queue, as `npm run jobs` has them: what they died of, and once more. No openid is shown. */
import { Type } from './schema.ts'
import type { DeadJob, DeadJobs } from '../dead-jobs.ts'
import { GatewayError } from '../errors.ts'
import type { Server } from './server.ts'

const LIMIT_MAX = 500
/** What one request puts back; with `all` the next one goes on. */
const REPLAYED_MAX = 200
const REPLAYED_AT_ONCE = 10
const BODY_BYTES_MAX = 16_384

const NoFields = Type.Object({}, { additionalProperties: false })
const ListQuery = Type.Object(
  {
    limit: Type.Optional(
      Type.String({ pattern: '^[1-9]\\d{0,2}$', description: 'up to 500; 50 unless given' }),
    ),
  },
  { additionalProperties: false },
)
const ReplayFields = Type.Object(
  {
    ids: Type.Optional(
      Type.Array(Type.String({ pattern: '^[\\x21-\\x7e]{1,128}$' }), { minItems: 1, maxItems: REPLAYED_MAX }),
    ),
    all: Type.Optional(Type.Literal(true)),
  },
  { additionalProperties: false },
)

const DeadJobAnswer = Type.Object({
  id: Type.String(),
  died_at: Type.Integer({ description: 'unix seconds' }),
  queued_at: Type.Integer({ description: 'unix seconds' }),
  attempts: Type.Integer(),
  takeovers: Type.Integer({ description: 'how often its worker was lost while it ran' }),
  reason: Type.String(),
  sub: Type.Optional(Type.String()),
  appid: Type.Optional(Type.String()),
})
const DeadJobsAnswer = Type.Object({ count: Type.Integer(), jobs: Type.Array(DeadJobAnswer) })
const ReplayAnswer = Type.Object({
  replayed: Type.Integer(),
  waiting_already: Type.Integer({ description: 'dropped: a newer job of the same user waits' }),
  not_dead: Type.Array(Type.String()),
  left: Type.Integer({ description: 'dead jobs that there still are' }),
})

export interface DeadJobRoutesDeps {
  deadJobs: DeadJobs
}

/** Adds them. The token is asked for by the listener. */
export function addDeadJobRoutes(app: Server, { deadJobs }: DeadJobRoutesDeps): void {
  app.get(
    '/jobs/dead',
    { schema: { querystring: ListQuery, response: { 200: DeadJobsAnswer } } },
    async ({ query: { limit = '50' } }) => {
      const [count, jobs] = await Promise.all([
        deadJobs.count(),
        deadJobs.list(Math.min(Number(limit), LIMIT_MAX)),
      ])
      return { count, jobs: jobs.map(wireDeadJob) }
    },
  )

  // May be repeated: what has been put back is no dead job any more.
  app.post(
    '/jobs/dead/replay',
    {
      schema: { querystring: NoFields, body: ReplayFields, response: { 200: ReplayAnswer } },
      bodyLimit: BODY_BYTES_MAX,
    },
    async ({ body }) => {
      if ((body.ids === undefined) === (body.all === undefined))
        throw new GatewayError('request_invalid', { detail: 'Either ids or all must be given.' })
      const ids = body.ids ?? (await deadJobs.ids()).slice(0, REPLAYED_MAX)
      const outcomes = await replayAll(deadJobs, ids)
      const idsOf = (outcome: string) => ids.filter((_, at) => outcomes[at] === outcome)
      return {
        replayed: idsOf('replayed').length,
        waiting_already: idsOf('waiting_already').length,
        not_dead: idsOf('not_dead'),
        left: await deadJobs.count(),
      }
    },
  )
}

async function replayAll(deadJobs: DeadJobs, ids: readonly string[]) {
  const outcomes: Awaited<ReturnType<DeadJobs['replay']>>[] = []
  for (let from = 0; from < ids.length; from += REPLAYED_AT_ONCE)
    outcomes.push(
      ...(await Promise.all(ids.slice(from, from + REPLAYED_AT_ONCE).map((id) => deadJobs.replay(id)))),
    )
  return outcomes
}

function wireDeadJob({ id, diedAtMs, queuedAtMs, attempts, takeovers, reason, data }: DeadJob) {
  const { sub, appid } = (data ?? {}) as Record<string, unknown>
  return {
    id,
    died_at: Math.floor(diedAtMs / 1_000),
    queued_at: Math.floor(queuedAtMs / 1_000),
    attempts,
    takeovers,
    reason,
    ...(typeof sub === 'string' && { sub }),
    ...(typeof appid === 'string' && { appid }),
  }
}
