/** Sessions as they stand in Redis, made older than they are: tests do not wait for days to pass. */
import type { Harness } from './gateway.ts'

/** A session as it stands in the user's hash (session-value.ts). */
export function sessionValue({
  issued,
  used,
  letter,
}: {
  issued: number
  used: number
  letter: string
}): string {
  return issued.toString(36) + letter + (used === 0 ? '' : used.toString(36))
}

export interface Age {
  /** Seconds since the session was opened. */
  opened: number
  /** Seconds since its last use; default: never used since it was opened. */
  unused?: number
}

/** Makes the one session of a user this old. */
export async function ageSession({ redis, keys }: Pick<Harness, 'redis' | 'keys'>, sub: string, age: Age) {
  const key = keys.user(sub)
  const fields = Object.entries(await redis.hgetall(key)).filter(([name]) => name.includes(':'))
  const [[name, value] = ['', '']] = fields
  if (fields.length !== 1) throw new Error(`the user has ${fields.length} sessions, not one`)
  const [seconds] = await redis.time()
  const issued = Number(seconds) - age.opened
  const used = age.opened - (age.unused ?? age.opened)
  await redis.hset(key, name, sessionValue({ issued, used, letter: /[A-Z]/.exec(value)?.[0] ?? '' }))
}

/** Logs a user in over this gateway; a new one when no openid is given. */
export async function logIn(
  harness: Pick<Harness, 'wechat' | 'login'>,
  { openid, appid, headers = {} }: { openid?: string; appid?: string; headers?: Record<string, string> } = {},
) {
  const { code } = harness.wechat.issueCode({
    ...(openid === undefined ? {} : { openid }),
    ...(appid === undefined ? {} : { appid }),
  })
  const reply = await harness.login({ code, ...(appid === undefined ? {} : { appid }) }, headers)
  if (reply.status !== 200) throw new Error(`the login was refused: ${reply.text}`)
  return reply.body
}
