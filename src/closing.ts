/** Waiting for the end of what runs, but not for ever. */

/**
 * How long a gateway may take to finish and close, after its drain delay; then all that is left is cut off. With the
 * delay's default it is 25 s, below the 30 s after which Kubernetes kills unless it is told otherwise.
 */
export const GATEWAY_CLOSE_MS_MAX = 20_000
/** The same of a worker. */
export const WORKER_CLOSE_MS_MAX = 25_000

/**
 * Promises that have not settled yet. Logins are kept here, also those whose client has hung up and whom no
 * connection waits for: their code is at WeChat, and its answer must be kept for the retry.
 */
export function createRunning<T>() {
  const promises = new Set<Promise<T>>()
  return {
    add(promise: Promise<T>): Promise<T> {
      promises.add(promise)
      const remove = () => void promises.delete(promise)
      promise.then(remove, remove)
      return promise
    },
    settled: () => Promise.allSettled(promises),
  }
}

/** Waits for a step of closing, but not for ever: BullMQ's close() never ends while Redis is away. Never rejects. */
export async function within(timeoutMs: number, step: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const timeout = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, timeoutMs)
  })
  await Promise.race([step.catch(() => {}), timeout])
  clearTimeout(timer)
}
