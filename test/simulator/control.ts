/**
 * The control port: what tests in other processes use to steer the simulator and to ask what it saw.
 *
 * JSON over HTTP, one table of routes, which `GET /` prints. It serves only callers on this machine
 * unless told otherwise, and then also looks at the Host header, because a web page could otherwise reach
 * it through a name of its own that points to 127.0.0.1.
 */
import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import { createServer } from 'node:http'
import type { Faults } from './faults.ts'
import type { Fields, Read } from './fields.ts'
import type { History } from './history.ts'
import type { Platform } from './platform.ts'
import { InputError, integer, readFields, text } from './fields.ts'

const BODY_BYTES_MAX = 16_000_000
const HISTORY_LIMIT_DEFAULT = 1_000
const LIMIT_MAX = 1_000_000
const WAIT_MS_DEFAULT = 10_000
const WAIT_MS_MAX = 60_000

const USERS_QUERY = { appid: text(64), openid: text(128), user: text(128), limit: integer(1, LIMIT_MAX) }
const HISTORY_QUERY = {
  path: text(256),
  code: text(512),
  appid: text(64),
  openid: text(128),
  outcome: text(32),
  limit: integer(1, LIMIT_MAX),
}
const RECEIVED_QUERY = {
  code: text(512),
  times: integer(1, LIMIT_MAX),
  timeoutMs: integer(1, WAIT_MS_MAX),
}
const ID = { id: integer(1, Number.MAX_SAFE_INTEGER) }

interface Parts {
  platform: Platform
  faults: Faults
  history: History
  stats: () => unknown
  reset: () => void
}

interface Request {
  /** The parsed body; an empty object when there is none. */
  body: unknown
  /** Reads the query by these fields; numbers are made numbers. */
  query: <F extends Fields>(fields: F) => Read<F>
}

interface Route {
  does: string
  run(request: Request): unknown
}

/** Builds the control server; it does not listen yet. */
export function createControl(parts: Parts, { remote }: { remote: boolean }): Server {
  const routes = createRoutes(parts)

  async function receive(request: IncomingMessage, response: ServerResponse): Promise<void> {
    if (!remote && !isLocal(request)) {
      return reply(response, 403, {
        error: 'The control port serves this machine only (see CONTROL_REMOTE).',
      })
    }
    const url = new URL(request.url ?? '/', 'http://control')
    if (request.method === 'GET' && url.pathname === '/') {
      return reply(response, 200, writeIndex(routes))
    }
    const route = routes[`${request.method} ${url.pathname}`]
    if (!route) {
      return reply(response, 404, {
        error: `There is no ${request.method} ${url.pathname}; GET / lists all.`,
      })
    }
    try {
      const body = await readJson(request)
      const query = <F extends Fields>(fields: F): Read<F> =>
        readFields(readQuery(url.searchParams), `${request.method} ${url.pathname}`, fields)
      reply(response, 200, (await route.run({ body, query })) ?? {})
    } catch (error) {
      if (!(error instanceof InputError)) throw error
      reply(response, 400, { error: error.message })
    }
  }

  return createServer((request, response) => {
    receive(request, response).catch((error: unknown) => {
      // A fault of the simulator itself: the test that asked should see it, not only the log.
      reply(response, 500, { error: error instanceof Error ? (error.stack ?? error.message) : String(error) })
    })
  })
}

function createRoutes({ platform, faults, history, stats, reset }: Parts): Record<string, Route> {
  return {
    'POST /codes': {
      does: 'issue login codes {appid?, openid?|user?, unionid?, refreshKey?, count?, codesPerUser?}; default: new users',
      run: ({ body }) => ({ codes: platform.issueCodes(body) }),
    },
    'POST /phone-codes': {
      does: 'issue phone codes {appid?, openid?|user?, phoneNumber?, countryCode?, count?}',
      run: ({ body }) => ({ codes: platform.issuePhoneCodes(body) }),
    },
    'POST /users': {
      does: 'make or change users {appid?, openid?, user?, unionid?, blocked?, sessionKey?, count?}',
      run: ({ body }) => ({ users: platform.putUsers(body) }),
    },
    'GET /users': {
      does: 'list users ?appid=&openid=&user=&limit=',
      run({ query }) {
        const { limit = HISTORY_LIMIT_DEFAULT, ...filter } = query(USERS_QUERY)
        return { users: platform.listUsers(filter, limit) }
      },
    },
    'PUT /apps': {
      does: 'add or change an app {appid, kind?, secret?|secrets?, corpid?, componentAppid?, componentAccessTokens?, ipWhitelist?, …}',
      run: ({ body }) => ({ app: platform.putApp(body) }),
    },
    'GET /apps': { does: 'list apps, without their secrets', run: () => ({ apps: platform.apps() }) },
    'POST /open-data': {
      does: 'rawData, signature, encryptedData, iv {appid?, openid?|user?, kind?, data?, sessionKey?, …}',
      run: ({ body }) => platform.writeOpenData(body),
    },
    'POST /pushes': {
      does: "push an event to the app's server {appid?, openid?|user?, event?, revokeInfo?, createTime?, fields?, mode?, format?, …}",
      run: ({ body }) => platform.push(body),
    },
    'POST /pushes/check': {
      does: 'check the push URL of an app, as its administrator page does {appid?}',
      run: ({ body }) => platform.checkPushUrl(body),
    },
    'POST /tokens/invalidate': {
      does: 'take access_tokens out of service {appid?, accessToken?, errcode?: 40001|40014|42001}',
      run: ({ body }) => ({ invalidated: platform.invalidateTokens(body) }),
    },
    'POST /faults': {
      does: 'add a fault rule, or a list of them; see the README for the kinds',
      run: ({ body }) => ({ ids: addFaults(faults, Array.isArray(body) ? body : [body]) }),
    },
    'GET /faults': { does: 'list fault rules with their hits', run: () => ({ faults: faults.list() }) },
    'DELETE /faults': {
      does: 'end all fault rules, or one ?id=; held requests stay held',
      run({ query }) {
        const { id } = query(ID)
        if (id === undefined) faults.clear()
        else if (!faults.remove(id)) throw new InputError(`there is no fault rule ${id}`)
      },
    },
    'POST /faults/release': {
      does: 'let held requests go on, all or those of one rule {id?}',
      run: ({ body }) => ({ released: faults.release(readFields(body, 'releasing', ID).id) }),
    },
    'GET /history': {
      does: `the last requests ?path=&code=&appid=&openid=&outcome=&limit= (${HISTORY_LIMIT_DEFAULT})`,
      run: ({ query }) => ({
        requests: history.list({ limit: HISTORY_LIMIT_DEFAULT, ...query(HISTORY_QUERY) }),
      }),
    },
    'GET /history/summary': { does: 'counts over the whole run', run: () => history.summary() },
    'DELETE /history': { does: 'forget the requests and their counts', run: () => history.clear() },
    'GET /received': {
      does: `wait until a code has arrived ?code=&times=&timeoutMs= (${WAIT_MS_DEFAULT})`,
      async run({ query }) {
        const { code, times = 1, timeoutMs = WAIT_MS_DEFAULT } = query(RECEIVED_QUERY)
        if (code === undefined) throw new InputError('GET /received: code is missing')
        return { received: await isReceived(history, { code, times, timeoutMs }) }
      },
    },
    'GET /stats': { does: 'connections, requests in flight, sizes, the seed', run: stats },
    'POST /reset': { does: 'forget everything but the starting apps, cut all connections', run: reset },
  }
}

/** Adds all rules or none. */
function addFaults(faults: Faults, rules: unknown[]): number[] {
  const ids: number[] = []
  try {
    for (const rule of rules) ids.push(faults.add(rule))
  } catch (error) {
    for (const id of ids) faults.remove(id)
    throw error
  }
  return ids
}

async function isReceived(
  history: History,
  { code, times, timeoutMs }: { code: string; times: number; timeoutMs: number },
): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<false>((resolve) => {
    timer = setTimeout(() => resolve(false), timeoutMs)
  })
  const arrival = history.received(code, times).then(
    () => true,
    // The simulator was reset: the code will not come any more.
    () => false,
  )
  const received = await Promise.race([arrival, late])
  clearTimeout(timer)
  return received
}

function isLocal(request: IncomingMessage): boolean {
  const address = (request.socket.remoteAddress ?? '').replace(/^::ffff:/, '')
  const host = (request.headers.host ?? '').replace(/:\d+$/, '')
  return (address.startsWith('127.') || address === '::1') && /^(localhost|127\.[\d.]+|\[::1\])$/i.test(host)
}

async function readJson(request: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = []
  let size = 0
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length
    if (size > BODY_BYTES_MAX) throw new InputError(`the body is larger than ${BODY_BYTES_MAX} bytes`)
    chunks.push(chunk)
  }
  if (size === 0) return {}
  try {
    return JSON.parse(Buffer.concat(chunks).toString())
  } catch {
    throw new InputError('the body is not JSON')
  }
}

function readQuery(parameters: URLSearchParams): Record<string, unknown> {
  const numbers = new Set(['id', 'limit', 'times', 'timeoutMs'])
  return Object.fromEntries(
    [...parameters].map(([name, value]) => [
      name,
      numbers.has(name) && /^\d+$/.test(value) ? Number(value) : value,
    ]),
  )
}

function writeIndex(routes: Record<string, Route>): string {
  const lines = Object.entries(routes).map(([route, { does }]) => `${route.padEnd(24)}${does}`)
  return `The control port of the WeChat simulator. For tests only.\n\n${lines.join('\n')}\n`
}

function reply(response: ServerResponse, status: number, content: unknown): void {
  const isText = typeof content === 'string'
  const body = isText ? content : `${JSON.stringify(content)}\n`
  response.writeHead(status, {
    'content-type': isText ? 'text/plain; charset=utf-8' : 'application/json',
    'content-length': Buffer.byteLength(body),
  })
  response.end(body)
}
