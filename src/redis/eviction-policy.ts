/**
 * Whether Redis keeps what it is given. With any maxmemory-policy but noeviction it drops keys when its memory is
 * full: people are logged out, blocks and jobs are lost, and nothing says so.
 *
 * A gateway does not begin to serve with such a Redis. One that serves already goes on when the policy is changed
 * under it, and shouts: were all gateways to leave the load balancer at once, everybody would be out.
 */
import { GatewayError } from '../errors.ts'
import { mastersOf } from './connections.ts'
import { stored } from './stored.ts'
import type { RedisClient } from './connections.ts'
import { failureOf } from './watch.ts'

/** An alert may be this late. */
const CHECK_INTERVAL_MS = 15_000

const KEEPS = 'noeviction'

/** @param onPolicy told of the policy whenever it is another than before; undefined: Redis does not say */
export function createEvictionWatch(
  redis: RedisClient,
  onPolicy: (policy: { keepsKeys: boolean | undefined; name: string | undefined }) => void,
) {
  let known: string | undefined | null = null
  const check = async () => {
    const policies = await Promise.all(mastersOf(redis).map(askPolicy))
    // Of a Cluster: the worst.
    const name =
      policies.find((policy) => policy !== undefined && policy !== KEEPS) ??
      (policies.includes(undefined) ? undefined : KEEPS)
    if (name !== known) onPolicy({ name, keepsKeys: name === undefined ? undefined : name === KEEPS })
    known = name
    return name
  }
  const look = () => void check().catch(() => {}) // Redis is away, which others tell; the next look is soon
  const timer = setInterval(look, CHECK_INTERVAL_MS)
  timer.unref()
  redis.on('ready', look) // after a failover it is another server

  return {
    /** @throws {GatewayError} store_unavailable, also when Redis drops keys */
    async demand(): Promise<void> {
      const policy = await check()
      if (policy !== undefined && policy !== KEEPS)
        throw new GatewayError('store_unavailable', {
          cause: new Error(`maxmemory-policy is ${policy}; it must be ${KEEPS}`),
        })
    },
    stop: () => clearInterval(timer),
  }
}

/** undefined: this user may not ask, or this server does not tell. */
async function askPolicy(redis: Pick<RedisClient, 'info'>): Promise<string | undefined> {
  const answer = redis.info('memory').catch((error: unknown) => {
    if (failureOf(error) === 'denied') return ''
    throw error
  })
  return /^maxmemory_policy:(\S+)/m.exec(await stored(answer))?.[1]
}
