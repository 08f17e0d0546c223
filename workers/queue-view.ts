/** A queue, seen from beside it: for counting, and for its dead jobs. */
import { Queue } from 'bullmq'
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
