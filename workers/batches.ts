/**
 * Jobs that run at the same time are written to the database together (provision-many.ts). Each is still done, or
 * fails, by itself: what a batch leaves over, and the whole of one that failed, is done one by one.
 *
 * A batch leaves when it is full, or has waited for a few milliseconds; while as many as may are at the database,
 * what comes makes the next one, so that batches grow with the load and a single job hardly waits.
 */
import type { ProvisionMany } from './provision-many.ts'
import type { ProvisionedUser, SeenIdentity, Users } from './users.ts'

/** Beyond it a batch gains little, and one that fails is done again by ten connections at once. */
const BATCH_SIZE_MAX = 64
/** What one job may lose by the waiting; a round trip to the database takes as long. */
const BATCH_WAIT_MS = 2
/** One is being written while the jobs of the other are acknowledged and the next ones fetched. */
const BATCHES_AT_ONCE_MAX = 2
/** A batch that hangs is given up for its jobs' sake, long before they are (provision-worker.ts). */
const BATCH_MS_MAX = 10_000

export interface BatchObserver {
  /** A batch was done; of its `size` jobs so many were left to be done one by one. */
  onBatch(size: number, left: number): void
  /** It failed, and its jobs are done one by one. */
  onBatchFailed(size: number, error: unknown): void
}

export interface BatchedUsers {
  /** As Users' own. `alone`: in no batch, because it failed before. */
  provisionUser(seen: SeenIdentity, options: { alone: boolean }): Promise<ProvisionedUser>
}

interface Waiting {
  readonly key: string
  readonly seen: SeenIdentity
  readonly resolve: (user: ProvisionedUser | Promise<ProvisionedUser>) => void
}

/** Builds it before the store that knows all cases; where nothing is written together, everything is alone. */
export function createBatchedUsers(
  users: Users,
  provisionMany: ProvisionMany | undefined,
  { onBatch, onBatchFailed }: BatchObserver,
): BatchedUsers {
  let waiting: Waiting[] = []
  let running = 0
  let timer: NodeJS.Timeout | undefined

  function schedule(): void {
    if (waiting.length === 0 || running >= BATCHES_AT_ONCE_MAX) return
    if (waiting.length >= BATCH_SIZE_MAX) return start()
    timer ??= setTimeout(start, BATCH_WAIT_MS)
  }

  function start(): void {
    clearTimeout(timer)
    timer = undefined
    const batch = takeBatch()
    running += 1
    void write(batch).finally(() => {
      running -= 1
      schedule()
    })
    schedule()
  }

  /** The oldest, but of one identity only one: the next finds what that has written. */
  function takeBatch(): readonly Waiting[] {
    const taken = new Map<string, Waiting>()
    const rest: Waiting[] = []
    for (const each of waiting) {
      if (taken.size < BATCH_SIZE_MAX && !taken.has(each.key)) taken.set(each.key, each)
      else rest.push(each)
    }
    waiting = rest
    return [...taken.values()]
  }

  /** Never rejects. What is done one by one is not waited for. */
  async function write(batch: readonly Waiting[]): Promise<void> {
    const written = await writeTogether(batch)
    for (const [at, { seen, resolve }] of batch.entries()) resolve(written[at] ?? users.provisionUser(seen))
  }

  async function writeTogether(batch: readonly Waiting[]): ReturnType<ProvisionMany> {
    if (batch.length === 1 || provisionMany === undefined) return []
    try {
      const written = await inTime(provisionMany(batch.map(({ seen }) => seen)))
      onBatch(batch.length, written.filter((user) => user === undefined).length)
      return written
    } catch (error) {
      onBatchFailed(batch.length, error)
      return []
    }
  }

  return {
    provisionUser(seen, { alone }) {
      if (alone || provisionMany === undefined) return users.provisionUser(seen)
      return new Promise((resolve) => {
        waiting.push({ key: JSON.stringify([seen.appid, seen.openid]), seen, resolve })
        schedule()
      })
    },
  }
}

async function inTime<T>(answer: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${BATCH_MS_MAX / 1_000} s`)), BATCH_MS_MAX)
  })
  try {
    return await Promise.race([answer, late])
  } finally {
    clearTimeout(timer)
  }
}
