/** Waiting for a credential as long as one login may, while the work for it goes on for the others who wait. */
import { GatewayError } from '../errors.ts'

/** @throws {GatewayError} wechat_unreachable when the deadline passes: the code has not been sent */
export async function withinDeadline<T>(work: Promise<T>, deadline: AbortSignal): Promise<T> {
  const { promise: late, reject } = Promise.withResolvers<never>()
  const leave = () =>
    reject(new GatewayError('wechat_unreachable', { cause: new Error('no access_token in time') }))
  if (deadline.aborted) leave()
  else deadline.addEventListener('abort', leave, { once: true })
  try {
    return await Promise.race([work, late])
  } finally {
    deadline.removeEventListener('abort', leave)
  }
}
