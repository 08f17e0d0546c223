/** A queue, seen from beside it: for counting, and for its dead jobs. */
import { Queue } from 'bullmq'
import type { JobState } from 'bullmq'
import { PROVISION_QUEUE } from '../src/provisioning.ts'
import type { RedisClient } from '../src/redis/connections.ts'

/** Opens it over a connection that it leaves open; `prefix` is keys.queue(name). */
export function openQueueView(redis: RedisClient, prefix: string, name = PROVISION_QUEUE): Queue<unknown> {
  const queue = new Queue<unknown>(name, {
    connection: redis,
    prefix,
    skipVersionCheck: true,
    skipMetasUpdate: true, // the producer's settings of the queue are not to be overwritten with defaults
  })
  queue.on('error', () => {}) // the connection's owner reports them
  return queue
}

/** Jobs read at once. */
const PAGE = 500
/** In one state, for others that remove jobs meanwhile. Far more than they can; beyond, the reading rejects. */
const STEPS_BACK_MAX = 1_000

/**
 * Tells `take` of all jobs of a state; it says whether it took the job out. Jobs are counted by their ids, for one may
 * be gone before it is read. What comes behind one that somebody else removes moves up, past the end of the page
 * before. So a page begins with the last job of that one; where it does not, it begins earlier. `take` may hear of a
 * job twice.
 */
export async function readJobIds(
  queue: Queue<unknown>,
  state: JobState,
  take: (id: string) => Promise<boolean>,
): Promise<void> {
  let seen: ReadonlySet<string> = new Set()
  for (let from = 0, stepsBack = 0; ; ) {
    const ids = await queue.getRanges([state], from, from + PAGE - 1)
    if (from > 0 && !ids.some((id) => seen.has(id))) {
      stepsBack += 1
      if (stepsBack > STEPS_BACK_MAX) throw new Error('the queue changes faster than it is read')
      from = Math.max(0, from - PAGE)
      continue
    }
    const isTaken = await Promise.all(ids.map(take))
    if (ids.length < PAGE) return
    const left = ids.filter((_id, at) => !isTaken[at])
    if (left.length > 0) seen = new Set(left)
    from = Math.max(0, from + left.length - 1)
  }
}
