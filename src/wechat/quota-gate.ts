/**
 * Gates, one an app: an app whose quota at WeChat is used up (45011) is answered for by ourselves, until a probe finds
 * that WeChat takes its logins again. To go on asking would use nothing but time.
 *
 * 45011 is said of one user as well, and whoever logs in in a loop gets it. So it takes many: a gate shuts when within
 * ten seconds more than half of at least 20 calls were told so, and those came from at least ten networks. One user,
 * or one abuser at one address, never shuts an app out.
 *
 * Calls are counted from an app's first 45011 on, so that apps that never hear it cost nothing.
 */
import { addressGroup } from '../addresses.ts'
import { GatewayError } from '../errors.ts'

const WINDOW_MS = 10_000
const BUCKET_MS = 1_000
const CALLS_MIN = 20
const LIMITED_SHARE_MIN = 0.5
/** Networks that were told so before an app is gated. */
export const GROUPS_MIN = 10
/** While a gate is shut, one login in this time is let through. */
const PROBE_INTERVAL_MS = 1_000
/** So that not everybody returns in the same second. */
const RETURN_SPREAD_SECONDS = 5
/** The edge adds up to two; nobody is kept waiting for more than a minute. */
const RETURN_SECONDS_MAX = 58

export interface QuotaGates {
  /** @throws {GatewayError} wechat_rate_limited, when the gate is shut and no probe is due */
  admit(appid: string): void
  /** WeChat has answered a login of the app from this address; limited: with 45011. */
  answered(appid: string, ip: string, limited: boolean): void
  isShut(appid: string): boolean
}

interface Bucket {
  readonly startedMs: number
  calls: number
  limited: number
  readonly groups: Set<string>
}

interface Watched {
  buckets: Bucket[]
  shut: boolean
  /** Of a shut gate. */
  probeAtMs: number
  /** Since it shut. Answers to calls that left before say nothing new. */
  probed: boolean
}

/**
 * Of this process alone. Holds something only for apps that were told 45011 lately.
 * @param onGate told when a gate shuts and when it opens again
 */
export function createQuotaGates(
  onGate: (appid: string, shut: boolean) => void,
  nowMs: () => number = () => performance.now(),
): QuotaGates {
  const watched = new Map<string, Watched>()

  return {
    admit(appid) {
      const app = watched.get(appid)
      if (!app?.shut) return
      if (nowMs() < app.probeAtMs) throw quotaUsedUp()
      app.probeAtMs = nowMs() + PROBE_INTERVAL_MS
      app.probed = true
    },

    answered(appid, ip, limited) {
      const app = watched.get(appid) ?? (limited ? watch(appid) : undefined)
      if (app === undefined) return
      if (app.shut) {
        if (limited || !app.probed) return
        watched.delete(appid)
        onGate(appid, false)
        return
      }
      count(app, ip, limited)
      if (limited && isUsedUp(app)) {
        Object.assign(app, { shut: true, probeAtMs: nowMs() + PROBE_INTERVAL_MS, buckets: [] })
        onGate(appid, true)
      } else if (app.buckets.every((bucket) => bucket.limited === 0)) watched.delete(appid)
    },

    isShut: (appid) => watched.get(appid)?.shut === true,
  }

  function watch(appid: string): Watched {
    const app = { buckets: [], shut: false, probeAtMs: 0, probed: false }
    watched.set(appid, app)
    return app
  }

  function count(app: Watched, ip: string, limited: boolean): void {
    const now = nowMs()
    app.buckets = app.buckets.filter(({ startedMs }) => now - startedMs < WINDOW_MS)
    let bucket = app.buckets.at(-1)
    if (bucket === undefined || now - bucket.startedMs >= BUCKET_MS) {
      bucket = { startedMs: now, calls: 0, limited: 0, groups: new Set() }
      app.buckets.push(bucket)
    }
    bucket.calls += 1
    if (!limited) return
    bucket.limited += 1
    if (bucket.groups.size < GROUPS_MIN) bucket.groups.add(addressGroup(ip))
  }
}

function isUsedUp({ buckets }: Watched): boolean {
  const calls = sum(buckets.map((bucket) => bucket.calls))
  if (calls < CALLS_MIN) return false
  if (sum(buckets.map((bucket) => bucket.limited)) <= calls * LIMITED_SHARE_MIN) return false
  return new Set(buckets.flatMap(({ groups }) => [...groups])).size >= GROUPS_MIN
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0)
}

/** The answer to whoever meets the quota: WeChat counts by the minute, so in the next one. */
export function quotaUsedUp(said: { errcode?: number; rid?: string | undefined } = {}): GatewayError {
  const toNextMinute = 60 - (Math.floor(Date.now() / 1000) % 60)
  const spread = toNextMinute + Math.floor(Math.random() * RETURN_SPREAD_SECONDS)
  const retryAfterSeconds = Math.min(spread, RETURN_SECONDS_MAX)
  return new GatewayError('wechat_rate_limited', { ...said, retryAfterSeconds })
}
