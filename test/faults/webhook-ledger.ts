/** The webhooks' ledger: what every event must have come to at the receiver of a stand (I5). */
import { subjectOf } from '../../src/subject.ts'
import { until } from '../harness/until.ts'
import type { ReceivedWebhook } from '../harness/webhook-receiver.ts'
import type { Bench } from './row.ts'
import type { Stand } from './stand.ts'

interface Row {
  id: string
  state: string
}

async function eventsOf({ database }: Stand): Promise<readonly Row[]> {
  const rows = await database?.query<Row>(
    "select event_id as id, state from webhook_deliveries where endpoint = 'sound'",
  )
  return rows ?? []
}

/** Waits until no event waits. Resolves with the milliseconds that took; Infinity when it took too long. */
export async function eventsDelivered(stand: Stand, timeoutMs: number): Promise<number> {
  const startedMs = performance.now()
  const isDone = async () => (await eventsOf(stand)).every(({ state }) => state !== 'pending')
  try {
    await until('all events to be delivered', isDone, timeoutMs)
    return performance.now() - startedMs
  } catch {
    return Infinity
  }
}

/** I5: every event of the outbox has arrived, signed, with one id; and everybody who is logged in has been told of. */
export async function checkWebhooks(
  bench: Bench,
  stand: Stand,
  { withinMs }: { withinMs: number },
): Promise<void> {
  const { webhooks, ledger, app } = stand
  if (webhooks === undefined) return
  const { receiver } = webhooks
  await eventsDelivered(stand, withinMs)
  const events = await eventsOf(stand)
  const arrived = new Set(receiver.received.map(({ id }) => id))
  bench.say(
    `  ${receiver.received.length} deliveries of ${events.length} events: ${countTypes(receiver.received)}`,
  )
  const missing = events.filter(({ id, state }) => state !== 'delivered' || !arrived.has(id)).length
  bench.figure('events not delivered', missing, { is: 0 })
  const forged = receiver.received.filter(({ verified }) => !verified).length
  bench.figure('deliveries that do not verify', forged, { is: 0 })
  bench.figure('events with several ids', severalIds(receiver.received), { is: 0 })
  const toldOf = new Set(
    ['user.created', 'user.linked'].flatMap((type) =>
      receiver.ofType(type).map(({ event }) => event.data['sub']),
    ),
  )
  const subs = new Set(
    ledger
      .find({ kind: 'login', status: 200 })
      .map(({ appid, openid }) => subjectOf(appid || app.appid, openid ?? '')),
  )
  bench.figure('users not told of', [...subs].filter((sub) => !toldOf.has(sub)).length, { is: 0 })
}

/** An event is what it tells: nothing may be told twice as two. */
function severalIds(received: readonly ReceivedWebhook[]): number {
  const ids = new Map<string, Set<string>>()
  for (const { event, id } of received) {
    const told = JSON.stringify([event.type, event.data])
    ids.set(told, (ids.get(told) ?? new Set()).add(id))
  }
  return [...ids.values()].filter(({ size }) => size > 1).length
}

function countTypes(received: readonly ReceivedWebhook[]): string {
  const counts = new Map<string, Set<string>>()
  for (const { event, id } of received) counts.set(event.type, (counts.get(event.type) ?? new Set()).add(id))
  return [...counts].map(([type, ids]) => `${type} ${ids.size}`).join(', ')
}
