/**
 * The page of keys: all that is held in Redis.
 *
 *   key                                 type     holds                                        life
 *   code:<sha256(appid, 0, code)>       hash     the claim of a code (codes.ts)               30 s … 5 min
 *   user:{<sub>}                        hash     a user and all their sessions (sessions.ts)  last session's end
 *   block:{<sub>}                       string   a blocked user (blocking.ts)                 as the block says
 *   limit:<name>:<subject>              string   a counter (limits.ts)                        one window
 *   limit:login_per_user:{<sub>}        string   the same, counted inside open-session.lua    one minute
 *   app:<appid>                         hash     an app added at run time (apps.ts)           none: configuration
 *   apps                                hash     their appids and versions (apps.ts)          none: configuration
 *   wechat:token:{<appid>}              hash     access_token, sealed (wechat/access-token.ts)  its life
 *   wechat:token-lock:{<appid>}         string   who is fetching it                           3 s
 *   wechat:token-forced:{<appid>}       list     when it was fetched by force                 24 h
 *   replay:<sha256(sub, 0, iv, data)>   string   open data that was shown (replays.ts)        OPEN_DATA_REPLAY_SECONDS
 *   push:<sha256>                       string   an event of a push, or a signature and its message (pushes.ts)  1 h
 *   erasure:<id>                        hash     receipt of an erasure (erasure.ts)               30 days
 *   erased:{<sub>}                      hash     until when, for PROVISION_MODULE (erasure.ts)     30 days
 *   {provision}:provision:*             BullMQ   the queue of the worker (provisioning.ts)    until done
 *   {erase}:erase:*                     BullMQ   users to be forgotten (erasure.ts)               until done
 *   {events}:events:*                   BullMQ   log-outs to be told of (session-events.ts)      until done
 *   sessions-ended                      channel  users whose sessions were ended (session-cache.ts)
 *
 * KEY_PREFIX stands before each. No ioredis `keyPrefix`: BullMQ refuses it, and it would hide what is on
 * this page. Every script touches one slot, so the same code runs on standalone, Sentinel and Cluster.
 */

/** Builds every key on the page above. Nothing else puts a key together. */
export function createKeys(prefix: string) {
  return {
    code: (codeHash: string) => `${prefix}code:${codeHash}`,
    user: (sub: string) => `${prefix}user:{${sub}}`,
    block: (sub: string) => `${prefix}block:{${sub}}`,
    /** Not a key: gateways that keep sessions in memory listen here. A message is a sub. */
    endedChannel: `${prefix}sessions-ended`,
    /** rate-limiter-flexible puts the `:` and the subject behind this itself. */
    limit: (name: string) => `${prefix}limit:${name}`,
    userLimit: (sub: string) => `${prefix}limit:login_per_user:{${sub}}`,
    app: (appid: string) => `${prefix}app:${appid}`,
    apps: `${prefix}apps`,
    accessToken: (appid: string) => `${prefix}wechat:token:{${appid}}`,
    accessTokenLock: (appid: string) => `${prefix}wechat:token-lock:{${appid}}`,
    accessTokenForced: (appid: string) => `${prefix}wechat:token-forced:{${appid}}`,
    erased: (sub: string) => `${prefix}erased:{${sub}}`,
    erasure: (receipt: string) => `${prefix}erasure:${receipt}`,
    replay: (hash: string) => `${prefix}replay:${hash}`,
    push: (hash: string) => `${prefix}push:${hash}`,
    /** BullMQ's `prefix`; the braces are the hash tag that keeps a queue on one Cluster slot. */
    queue: (name: string) => `${prefix}{${name}}`,
  }
}

export type Keys = ReturnType<typeof createKeys>
