/** A job in the queue: the gateway's span of sending it, and where the worker goes on. */
import type { Provisioning } from '../provisioning.ts'
import { PROVISION_QUEUE } from '../provisioning.ts'
import type { SpanAttributes } from './attributes.ts'
import { inSpan } from './span.ts'
import { packSpan } from './trace-parent.ts'

/** What both ends say of the queue. */
export const QUEUE_ATTRIBUTES = {
  'messaging.system': 'bullmq',
  'messaging.destination.name': PROVISION_QUEUE,
} as const satisfies SpanAttributes

/** The same queue; a job of a login that is sampled names its trace, for 40 bytes of Redis. Only with tracing on. */
export function traceProvisioning<P extends Provisioning>(provisioning: P): P {
  return {
    ...provisioning,
    enqueue: (job) =>
      inSpan(`send ${PROVISION_QUEUE}`, { kind: 'producer', attributes: SENDING }, async (span) => {
        const isNew = await provisioning.enqueue(span === undefined ? job : { ...job, tp: packSpan(span) })
        span?.set({ 'gateway.outcome': isNew ? 'added' : 'waiting_already' })
        return isNew
      }),
  }
}

const SENDING: SpanAttributes = {
  ...QUEUE_ATTRIBUTES,
  'messaging.operation.name': 'send',
  'messaging.operation.type': 'send',
}
