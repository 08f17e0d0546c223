/**
 * Protections, each with the row that fails without it: `npm run faults -- --mutations` takes out one after the other
 * in a copy and demands that the row fails by its figures (run-mutations.ts). test/tidy.test.ts keeps the texts true.
 */

export interface Mutation {
  /** Of ROWS. */
  row: string
  /** What is missing afterwards, in a line. */
  takenOut: string
  /** From the root of the repository. */
  file: string
  /** Stands in the file once. Short, so that it outlives changes around it. */
  find: string
  replace: string
}

export const MUTATIONS: readonly Mutation[] = [
  {
    row: 'D1-short',
    takenOut: 'a code that somebody leads makes others wait',
    file: 'src/lua/claim-code.lua',
    find: "return { 'WAIT', leaseEnd - now }",
    replace: "return { 'LEAD', generation, now, 0 }",
  },
  {
    row: 'D4',
    takenOut: 'a code stays with the client that began',
    file: 'src/lua/claim-code.lua',
    find: "if state ~= 'R' and boundTo ~= bind then",
    replace: 'if false then',
  },
  {
    row: 'D5',
    takenOut: 'the claim of a code is that of its app',
    file: 'src/codes.ts',
    find: "hash('sha256', `${appid}\\0${code}`,",
    replace: "hash('sha256', `${code}${appid.slice(99)}`,",
  },
  {
    row: 'D10',
    takenOut: 'refusals of WeChat are kept',
    file: 'src/codes.ts',
    find: "{ state: 'N', value, lifeMs: REFUSED_LIFE_MS }",
    replace: "{ state: 'R', value, lifeMs: REFUSED_LIFE_MS }",
  },
  {
    row: 'D13',
    takenOut: 'a user has so many sessions and no more',
    file: 'src/lua/open-session.lua',
    find: 'if #sessions >= sessionsMax then',
    replace: 'if false then',
  },
  {
    row: 'D6',
    takenOut: 'a leader that has gone silent is replaced',
    file: 'src/lua/claim-code.lua',
    find: "if state == 'R' or now >= leaseEnd then",
    replace: "if state == 'R' then",
  },
  {
    row: 'D7-settled',
    takenOut: 'a login that is done is found again by its code',
    file: 'src/lua/settle-code.lua',
    find: "redis.call('HSET', key, 'st', 'D', 'val', value, 'bind', bind)",
    replace: "redis.call('HSET', key, 'val', value, 'bind', bind)",
  },
  {
    row: 'D8',
    takenOut: 'a session_key that arrives late does not replace a newer one',
    file: 'src/lua/open-session.lua',
    find: 'if startOf(exchange) >= heldSince then',
    replace: 'if true then',
  },
  {
    row: 'R2',
    takenOut: 'commands do not queue while Redis is away',
    file: 'src/redis/connections.ts',
    find: 'enableOfflineQueue: false,',
    replace: 'enableOfflineQueue: true,',
  },
  {
    row: 'R4',
    takenOut: 'a command of the request path is given up after a time',
    file: 'src/redis/connections.ts',
    find: 'commandTimeout: config.commandTimeoutMs,',
    replace: '',
  },
  {
    row: 'R4',
    takenOut: 'a claim that may have been made is taken back',
    file: 'src/codes.ts',
    find: "[owner, 'R', '', PENDING_LIFE_MS]",
    replace: "['nobody', 'R', '', PENDING_LIFE_MS]",
  },
  {
    row: 'N1',
    takenOut: 'connections that fall idle while a gateway goes are closed',
    file: 'src/http/draining.ts',
    find: 'server.closeIdleConnections()',
    replace: '',
  },
  {
    row: 'M1-shed',
    takenOut: 'requests are shed before anything is done for them',
    file: 'src/http/shedding-hook.ts',
    find: 'if (shedding.refuse(rank) !== undefined)',
    replace: 'if (rank === undefined)',
  },
  {
    row: 'L4',
    takenOut: 'logins may not fill the last fifth',
    file: 'src/shedding.ts',
    find: 'login: 0.8,',
    replace: 'login: 1.0,',
  },
  {
    row: 'U1',
    takenOut: 'a call to WeChat ends with the deadline of its login',
    file: 'src/wechat/calls.ts',
    find: "deadline.addEventListener('abort', onDeadline, { once: true })",
    replace: '',
  },
  {
    row: 'U13',
    takenOut: 'a code that WeChat refuses proves that it is alive',
    file: 'src/wechat/hosts.ts',
    find: "|| attempt.outcome === 'refused') return attempt",
    replace: ') return attempt',
  },
  {
    row: 'U16',
    takenOut: 'so many exchanges at a time and no more',
    file: 'src/wechat/bulkhead.ts',
    find: 'const free = SLOTS - running',
    replace: 'const free = 10_000 - running',
  },
  {
    row: 'W11',
    takenOut: 'an erasure takes the rows away',
    file: 'workers/erasures.ts',
    find: "await tx.deleteFrom('identities').where('id', '=', id).execute()",
    replace: '',
  },
  {
    row: 'W7',
    takenOut: 'an endpoint that says 410 is left alone',
    file: 'workers/webhooks/schedule.ts',
    find: 'const GONE = 410',
    replace: 'const GONE = 999',
  },
  {
    row: 'W8',
    takenOut: 'every secret signs',
    file: 'workers/webhooks/post.ts',
    find: '.map((secret) => {',
    replace: '.slice(0, 1).map((secret) => {',
  },
  {
    row: 'W12',
    takenOut: 'two users who turn out to be one are merged',
    file: 'workers/users.ts',
    find: '} else if (ofUnionid.id !== ofIdentity.id) {',
    replace: '} else if (ofUnionid.id === ofIdentity.unionid) {',
  },
  {
    row: 'W13',
    takenOut: 'an erasure is told of',
    file: 'workers/erasures.ts',
    find: 'await outbox.forgetUsers(tx, sub, [userId, ...merged])',
    replace: '',
  },
]
