/**
 * A bulkhead: so many calls under way and no more, shared fairly by the apps, so that one whose calls hang leaves
 * room for the others. It stands outside the breakers: to be turned away here says nothing of a host.
 *
 * An app that is alone may fill all slots. Otherwise it may hold as many as are free: a greedy one gets half of them,
 * and of several each leaves half of what it finds. (Dynamic thresholds, Choudhury and Hahne 1998, with alpha 1.) The
 * same goes for the places in the queue.
 *
 * Who finds no slot waits only if waiting makes sense: while a slot is likely to come free in time, going by how long
 * the app's calls take and by when its slots last moved, and while the login would have enough of its deadline left
 * for such a call. Everybody else is turned away at once, for a slow answer to too many is no answer to all of them.
 */
import { msLeft, msUntilLate } from '../deadline.ts'
import { GatewayError } from '../errors.ts'

/** How many calls may run: each has a connection of its own, none waits for one inside the pool. */
export const SLOTS = 64
/** Longest wait for a slot. */
const WAIT_MS_MAX = 500
/** As many as the slots can serve within that time when a call takes 60 ms. */
const WAITING_MAX = 512
/**
 * Silence says nothing while it is no longer than a call may take: the slots were filled at once by a burst, and will
 * come free at once. Also what a call is taken to need before the first one has ended.
 */
const SILENCE_MS_MIN = 200
/** How much the last call counts in what calls of an app take. */
const TYPICAL_WEIGHT = 0.1
/** An app that has asked within this time is reckoned with when another one asks for more than its share. */
const LIVE_MS = 60_000

export type BulkheadRefusal =
  | 'queue_full'
  | 'hopeless' // no slot would come free in time
  | 'waited' // none did

export interface Bulkhead {
  /** Runs the call in a slot of the app. Rejects with overloaded, within 500 ms and usually at once. */
  run<T>(appid: string, deadline: AbortSignal, call: () => Promise<T>): Promise<T>
  counts(): { running: number; waiting: number }
}

/** Of one app; there only while the app has calls running or waiting. */
interface Tenant {
  readonly appid: string
  running: number
  waiting: number
  /** What a call takes, a moving average; 0 until the first one has ended. */
  typicalMs: number
  /** When a slot of the app was last taken or given back. */
  movedAtMs: number
}

interface Waiter {
  readonly tenant: Tenant
  enter(): void
}

/** @param onRefused told of every call that is turned away */
export function createBulkhead(
  onRefused: (why: BulkheadRefusal) => void,
  nowMs: () => number = () => performance.now(),
): Bulkhead {
  const tenants = new Map<string, Tenant>()
  /** Oldest first. */
  const waiters: Waiter[] = []
  const others = createLiveness(nowMs)
  let running = 0

  return {
    async run(appid, deadline, call) {
      others.asked(appid)
      const tenant = tenantOf(appid)
      if (mayRun(tenant)) take(tenant)
      else await queue(tenant, deadline)
      const startedMs = nowMs()
      try {
        return await call()
      } finally {
        give(tenant, nowMs() - startedMs)
      }
    },
    counts: () => ({ running, waiting: waiters.length }),
  }

  function tenantOf(appid: string): Tenant {
    const known = tenants.get(appid)
    if (known !== undefined) return known
    const tenant = { appid, running: 0, waiting: 0, typicalMs: 0, movedAtMs: nowMs() }
    tenants.set(appid, tenant)
    return tenant
  }

  function mayRun({ appid, running: own }: Tenant): boolean {
    const free = SLOTS - running
    return free > 0 && (own < free || !others.areLive(appid))
  }

  function mayWait({ appid, waiting: own }: Tenant): boolean {
    const free = WAITING_MAX - waiters.length
    return free > 0 && (own < free || !others.areLive(appid))
  }

  function take(tenant: Tenant): void {
    running += 1
    tenant.running += 1
    tenant.movedAtMs = nowMs()
  }

  function give(tenant: Tenant, heldMs: number): void {
    running -= 1
    tenant.running -= 1
    tenant.movedAtMs = nowMs()
    tenant.typicalMs += (heldMs - tenant.typicalMs) * (tenant.typicalMs === 0 ? 1 : TYPICAL_WEIGHT)
    for (let next = nextWaiter(); next !== undefined; next = nextWaiter()) next.enter()
    forgetIdle(tenant)
  }

  function nextWaiter(): Waiter | undefined {
    return running < SLOTS ? waiters.find((waiter) => mayRun(waiter.tenant)) : undefined
  }

  function forgetIdle({ appid, running, waiting }: Tenant): void {
    if (running === 0 && waiting === 0) tenants.delete(appid)
  }

  function queue(tenant: Tenant, deadline: AbortSignal): Promise<void> {
    const patienceMs = Math.min(WAIT_MS_MAX, msUntilLate(deadline), msLeft(deadline) - tenant.typicalMs)
    if (!mayWait(tenant)) throw refused(tenant, 'queue_full')
    if (expectedWaitMs(tenant) >= patienceMs) throw refused(tenant, 'hopeless')
    return new Promise((resolve, reject) => {
      const leave = () => {
        clearTimeout(timer)
        waiters.splice(waiters.indexOf(waiter), 1)
        tenant.waiting -= 1
      }
      const waiter: Waiter = {
        tenant,
        enter() {
          leave()
          take(tenant)
          resolve()
        },
      }
      const timer = setTimeout(() => {
        leave()
        reject(refused(tenant, 'waited'))
      }, patienceMs)
      waiters.push(waiter)
      tenant.waiting += 1
    })
  }

  /** From slot to slot it takes what calls usually do, or what it has taken so far, if that is longer. */
  function expectedWaitMs({ running, waiting, typicalMs, movedAtMs }: Tenant): number {
    if (running === 0) return 0 // the slots are others', of which nothing is known here
    const silenceMs = nowMs() - movedAtMs
    const perSlotMs = (typicalMs || SILENCE_MS_MIN) / running
    return (waiting + 1) * (silenceMs > Math.max(typicalMs, SILENCE_MS_MIN) ? silenceMs : perSlotMs)
  }

  function refused(tenant: Tenant, why: BulkheadRefusal): GatewayError {
    forgetIdle(tenant)
    onRefused(why)
    return new GatewayError('overloaded')
  }
}

/** Whether an app is alone. To know that of each, the last app that asked and the last other one are enough. */
function createLiveness(nowMs: () => number) {
  let last = { appid: '', atMs: -Infinity }
  let lastOther = last

  return {
    asked(appid: string): void {
      if (last.appid !== appid) lastOther = last
      last = { appid, atMs: nowMs() }
    },
    areLive(appid: string): boolean {
      const other = last.appid === appid ? lastOther : last
      return nowMs() - other.atMs < LIVE_MS
    },
  }
}
