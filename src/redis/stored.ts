/** What becomes of a command that Redis did not answer. */
import { GatewayError } from '../errors.ts'

/**
 * Awaits a Redis answer; whatever goes wrong becomes `store_unavailable`. A timeout means "unknown", never
 * "no": the command may still run.
 *
 * The original error is not passed on as it is, because ioredis hangs the command's arguments on it, and
 * those must not reach a log.
 */
export async function stored<T>(answer: Promise<T>): Promise<T> {
  try {
    return await answer
  } catch (error) {
    if (error instanceof GatewayError) throw error
    throw new GatewayError('store_unavailable', { cause: new Error(describe(error)) })
  }
}

/** What may be told of an error of ioredis. */
export function describe(error: unknown): string {
  return error instanceof Error ? `${error.name}: ${error.message}` : 'unknown failure'
}
