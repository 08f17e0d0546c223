/**
 * Bull Board, for looking at the queues: its pages and its answers, without a web framework around them.
 *
 * It looks and changes nothing: of its routes only those that read are there. Jobs are shown masked, for an openid is
 * personal data. Its page names fonts of a foreign host, which is taken out here, so that nothing is fetched from
 * elsewhere (test/queue-board.test.ts looks through all that is sent).
 */
import { readdirSync, readFileSync } from 'node:fs'
import { extname, join } from 'node:path'
import { createBullBoard } from '@bull-board/api'
import { BullMQAdapter } from '@bull-board/api/bullMQAdapter'
import type {
  AppControllerRoute,
  BullBoardQueues,
  IServerAdapter,
  UIConfig,
} from '@bull-board/api/typings/app'
import type { Queue } from './job-queue.ts'
import { GatewayError } from './errors.ts'
import { maskJob } from './masking.ts'
import { readableJob } from './provisioning.ts'
import { stored } from './redis/stored.ts'

/** A page has 10 unless asked for more; each is read whole. */
const JOBS_PER_PAGE_MAX = 100
/** Of the list of jobs, which is all that is asked for with these. */
const QUERY_NAMES = ['activeQueue', 'status', 'page', 'jobsPerPage']

/** Shows jobs of other queues, in a form of its own. We have no flows. */
const FLOW_ROUTE = '/api/queues/:queueName/:jobId/flow'

const TYPES: Readonly<Record<string, string>> = {
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.json': 'application/json; charset=utf-8',
  '.svg': 'image/svg+xml',
  '.png': 'image/png',
  '.ico': 'image/x-icon',
}

export interface BoardAnswer {
  readonly status: number
  readonly type: string
  readonly body: string | Buffer
}

export interface QueueBoard {
  /** What is at a path below the board's own, which begins with `/`. @throws {GatewayError} not_found */
  answer(path: string, query: Readonly<Record<string, unknown>>): Promise<BoardAnswer>
}

interface Parts {
  queues: BullBoardQueues
  views: string
  assets: string
  config: UIConfig
  routes: readonly AppControllerRoute[]
}

/**
 * Builds it.
 * @param basePath where it is to be found, with a `/` at both ends
 * @param queues over connections that fail fast
 */
export function createQueueBoard(basePath: string, queues: readonly Queue[]): QueueBoard {
  const parts = assemble(queues)
  const pages = readPage(parts, basePath)
  const assets = readAssets(parts.assets)
  const routes = parts.routes
    .filter(({ method, route }) => method === 'get' && route !== FLOW_ROUTE)
    .flatMap(({ route, handler }) => [route].flat().map((each) => ({ match: matcherOf(each), handler })))

  return {
    async answer(path, query) {
      const asset = assets.get(path)
      if (asset !== undefined) return { status: 200, ...asset }
      if (!path.startsWith('/api/')) {
        if (path.startsWith('/static/')) throw new GatewayError('not_found')
        return { status: 200, type: 'text/html; charset=utf-8', body: pages }
      }
      for (const { match, handler } of routes) {
        const params = match(path)
        if (params === undefined) continue
        const request = {
          queues: parts.queues,
          uiConfig: parts.config,
          query: bounded(query),
          params,
          body: {},
          headers: {},
        }
        const { status = 200, body } = await stored(Promise.resolve(handler(request)))
        return { status, type: 'application/json; charset=utf-8', body: JSON.stringify(body) }
      }
      throw new GatewayError('not_found')
    },
  }
}

/** Has Bull Board say what it consists of. */
function assemble(queues: readonly Queue[]): Parts {
  const parts: Parts = { queues: new Map(), views: '', assets: '', config: {}, routes: [] }
  const adapter: IServerAdapter = {
    setQueues: (given) => keep({ queues: given }),
    setViewsPath: (views) => keep({ views }),
    setStaticPath: (_route, assets) => keep({ assets }),
    setEntryRoute: () => adapter,
    setErrorHandler: () => adapter,
    setApiRoutes: (routes) => keep({ routes }),
    setUIConfig: (config) => keep({ config }),
  }
  function keep(some: Partial<Parts>): IServerAdapter {
    Object.assign(parts, some)
    return adapter
  }
  const adapters = queues.map((queue) => {
    const board = new BullMQAdapter(queue, { readOnlyMode: true })
    board.setFormatter('data', ((data: unknown) => maskJob(readableJob(data))) as (data: unknown) => never)
    return board
  })
  createBullBoard({
    queues: adapters,
    serverAdapter: adapter,
    options: {
      uiConfig: {
        boardTitle: 'Queues',
        hideDocsLink: true,
        // CLIENT LIST for every queue at every poll, which a Redis user may not have.
        showWorkers: false,
      },
    },
  })
  return parts
}

const FOREIGN_LINK = /<link[^>]*href="https?:[^>]*>\s*/g

/** The one page there is, which reads its path by itself. */
function readPage({ views, config }: Parts, basePath: string): string {
  const { default: icon = '', alternative = '' } = config.favIcon ?? {}
  const values: Readonly<Record<string, string>> = {
    basePath,
    title: config.boardTitle ?? '',
    favIconDefault: icon,
    favIconAlternative: alternative,
    uiConfig: JSON.stringify(config).replaceAll('<', String.raw`\u003c`),
  }
  return readFileSync(join(views, 'index.ejs'), 'utf8')
    .replaceAll(FOREIGN_LINK, '')
    .replaceAll(/<%[=-] (\w+) %>/g, (_, name: string) => values[name] ?? '')
}

/** All that the page fetches, in memory: 2 MB, and no path of a request ever reaches the disk. */
function readAssets(folder: string): ReadonlyMap<string, { type: string; body: Buffer }> {
  const files = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) =>
    entry.isFile(),
  )
  return new Map(
    files.flatMap(({ parentPath, name }) => {
      const type = TYPES[extname(name)]
      if (type === undefined) return []
      const path = join(parentPath, name)
      return [
        [`/static${path.slice(folder.length).replaceAll('\\', '/')}`, { type, body: readFileSync(path) }],
      ]
    }),
  )
}

/** `/api/queues/:queueName/:jobId` → what stands in the places of the names; undefined where it does not fit. */
function matcherOf(route: string): (path: string) => Record<string, string> | undefined {
  const pattern = new RegExp(`^${route.replaceAll(/:(\w+)/g, '(?<$1>[^/]+)')}$`)
  return (path) => {
    const groups = pattern.exec(path)?.groups
    return pattern.test(path) ? { ...groups } : undefined
  }
}

/** Numbers come as text, and nobody is to read a million jobs. */
function bounded(query: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const known = Object.entries(query).filter(([name]) => QUERY_NAMES.includes(name))
  const { page = 1, jobsPerPage = 10, ...others } = Object.fromEntries(known)
  const perPage = Math.min(Number(jobsPerPage) || 10, JOBS_PER_PAGE_MAX)
  return {
    ...others,
    page: String(Math.max(1, Number(page) || 1)),
    jobsPerPage: String(Math.max(1, perPage)),
  }
}
