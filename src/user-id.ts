/**
 * The worker's user_id as the user's hash keeps it: a UUID takes 22 characters there instead of 36. Any other
 * form is kept as it is.
 */

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/
const SHORT = /^[A-Za-z0-9_-]{22}$/

/** A UUID as 22 characters of base64url. */
export function shortenUserId(userId: string): string {
  return UUID.test(userId) ? Buffer.from(userId.replaceAll('-', ''), 'hex').toString('base64url') : userId
}

/** The inverse of shortenUserId. */
export function expandUserId(kept: string): string {
  if (!SHORT.test(kept)) return kept
  const hex = Buffer.from(kept, 'base64url').toString('hex')
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-')
}
