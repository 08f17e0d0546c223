/**
 * The worker's spans: a job goes on in the trace of the login that sent it. Only with tracing on.
 *
 * Jobs that run at the same time are written together. What is written belongs to the trace of the first of them, and
 * points at the others; each job has a span of its own for the time until it was written.
 */
import { PROVISION_QUEUE } from '../src/provisioning.ts'
import type { SpanAttributes } from '../src/tracing/attributes.ts'
import { QUEUE_ATTRIBUTES } from '../src/tracing/queue-spans.ts'
import { failureName, inSpan, runIn } from '../src/tracing/span.ts'
import type { Span } from '../src/tracing/span.ts'
import { unpackSpan } from '../src/tracing/trace-parent.ts'
import type { Tracing } from '../src/tracing/tracing.ts'
import type { BatchedUsers } from './batches.ts'
import { JobFailed } from './job-failure.ts'
import type { ProvisionMany } from './provision-many.ts'
import type { IncomingJob, ProvisionUser } from './provision-user.ts'
import type { SeenIdentity, Users } from './users.ts'

const PROCESSING: SpanAttributes = {
  ...QUEUE_ATTRIBUTES,
  'messaging.operation.name': 'process',
  'messaging.operation.type': 'process',
}

/** Does the same, in a span for each job that names a trace. */
export function traceJobs(tracing: Tracing, provisionUser: ProvisionUser): ProvisionUser {
  return async (job) => {
    const parent = unpackSpan((job.data as { tp?: unknown } | null | undefined)?.tp)
    if (parent === undefined) return provisionUser(job)
    const span = tracing.begin(`process ${PROVISION_QUEUE}`, {
      kind: 'consumer',
      parent,
      attributes: { ...PROCESSING, ...attributesOf(job) },
    })
    try {
      const done = await runIn(span, () => provisionUser(job))
      span.set({ 'gateway.outcome': done.outcome })
      span.end()
      return done
    } catch (error) {
      span.end(error instanceof JobFailed ? error.kind : failureName(error))
      throw error
    }
  }
}

function attributesOf({ id, attemptsMade = 0 }: IncomingJob): SpanAttributes {
  return { ...(id !== undefined && { 'messaging.message.id': id }), 'job.failures': attemptsMade }
}

/** The store of users with spans around it: what it writes, alone and together, and what a job waits for. */
export function traceUsers(store: { users: Users; provisionMany: ProvisionMany | undefined }) {
  /** In whose name each is written. */
  const spans = new WeakMap<SeenIdentity, Span>()
  const { users, provisionMany } = store

  return {
    users: {
      provisionUser(seen) {
        const span = spans.get(seen)
        return span === undefined ? users.provisionUser(seen) : runIn(span, () => users.provisionUser(seen))
      },
      identitiesOf: users.identitiesOf,
    } satisfies Users,
    provisionMany:
      provisionMany &&
      ((batch) => {
        const [first, ...links] = batch.flatMap((seen) => spans.get(seen) ?? [])
        if (first === undefined) return provisionMany(batch)
        const attributes = { 'job.batch_size': batch.length }
        return runIn(first, () => inSpan('write batch', { attributes, links }, () => provisionMany(batch)))
      }),
    /** What a job asks for: it waits for the others of its batch. */
    waiting(batched: BatchedUsers): BatchedUsers {
      return {
        provisionUser: (seen, options) =>
          inSpan('write user', {}, (span) => {
            if (span !== undefined) spans.set(seen, span)
            return batched.provisionUser(seen, options)
          }),
      }
    },
  } satisfies { users: Users; provisionMany: ProvisionMany | undefined; waiting: unknown }
}
