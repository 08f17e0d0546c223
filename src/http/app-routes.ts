/** Administration of the apps: list, add, rotate a secret, remove. No answer ever holds a secret. */
import { Type } from './schema.ts'
import { AppFault, parseAppEntry, parseAppPush, parseAppSecret } from '../app-entry.ts'
import type { Apps, ListedApp } from '../apps.ts'
import { GatewayError } from '../errors.ts'
import type { Server } from './server.ts'

const NoFields = Type.Object({}, { additionalProperties: false })
const AppParams = Type.Object({ appid: Type.String({ pattern: '^[A-Za-z0-9_-]{4,64}$' }) })
/** Read by app-entry.ts, as a file's entries are. */
const Entry = Type.Object({})
const Rotation = Type.Object(
  { secret: Type.String(), end_previous: Type.Optional(Type.Boolean()) },
  { additionalProperties: false },
)

const AppAnswer = Type.Object({
  appid: Type.String(),
  kind: Type.String(),
  source: Type.String({ description: 'static: of the configuration; runtime: added here' }),
  login_enabled: Type.Boolean(),
  limits: Type.Object({ exchange_per_minute: Type.Optional(Type.Integer()) }),
  secrets: Type.Array(
    Type.Object({ fingerprint: Type.String({ description: 'newest first; tells one from another' }) }),
  ),
  usable: Type.Boolean({ description: 'false: this gateway has no key for its secret' }),
  push: Type.Optional(
    Type.Union([Type.Literal('encrypted'), Type.Literal('plain')], {
      description: 'how its message pushes have to come; absent: it takes none',
    }),
  ),
  created_at: Type.Optional(Type.Integer({ description: 'unix seconds' })),
  refused_with: Type.Optional(
    Type.Integer({ description: 'errcode for which this gateway has stopped asking WeChat' }),
  ),
})
const AppsAnswer = Type.Object({ apps: Type.Array(AppAnswer) })

export interface AppRoutesDeps {
  apps: Apps
  /** The errcode for which WeChat is not asked for this app; undefined when it is. */
  refusedWith(listed: ListedApp): number | undefined
}

export function addAppRoutes(app: Server, { apps, refusedWith }: AppRoutesDeps): void {
  app.get('/apps', { schema: { querystring: NoFields, response: { 200: AppsAnswer } } }, async () => ({
    apps: apps.list().map((listed) => wireApp(listed, refusedWith(listed))),
  }))

  app.post(
    '/apps',
    { schema: { querystring: NoFields, body: Entry, response: { 201: AppAnswer } } },
    async (request, reply) => {
      const added = await apps.add(readOrRefuse(() => parseAppEntry(request.body)))
      return reply.code(201).send(wireApp(added, undefined))
    },
  )

  app.put(
    '/apps/:appid/secret',
    { schema: { params: AppParams, querystring: NoFields, body: Rotation, response: { 200: AppAnswer } } },
    async (request) => {
      const { secret, end_previous: endPrevious = false } = request.body
      const parsed = readOrRefuse(() => parseAppSecret(secret))
      return wireApp(await apps.rotateSecret(request.params.appid, parsed, { endPrevious }), undefined)
    },
  )

  app.put(
    '/apps/:appid/push',
    { schema: { params: AppParams, querystring: NoFields, body: Entry, response: { 200: AppAnswer } } },
    async (request) => {
      const push = readOrRefuse(() => parseAppPush(request.body))
      return wireApp(await apps.setPush(request.params.appid, push), undefined)
    },
  )

  app.delete(
    '/apps/:appid/push',
    { schema: { params: AppParams, querystring: NoFields } },
    async (request, reply) => {
      await apps.setPush(request.params.appid, undefined)
      return reply.code(204).send()
    },
  )

  app.delete(
    '/apps/:appid',
    { schema: { params: AppParams, querystring: NoFields } },
    async (request, reply) => {
      await apps.remove(request.params.appid)
      return reply.code(204).send()
    },
  )
}

function readOrRefuse<T>(read: () => T): T {
  try {
    return read()
  } catch (error) {
    if (!(error instanceof AppFault)) throw error
    throw new GatewayError('request_invalid', { detail: `The app: ${error.message}.` })
  }
}

function wireApp({ app, source, fingerprints, createdAtSeconds }: ListedApp, refused: number | undefined) {
  const { exchangePerMinute } = app.limits
  return {
    appid: app.appid,
    kind: app.kind,
    source,
    login_enabled: app.loginEnabled,
    limits: exchangePerMinute === undefined ? {} : { exchange_per_minute: exchangePerMinute },
    secrets: fingerprints.map((fingerprint) => ({ fingerprint })),
    usable: app.secrets.length === fingerprints.length,
    ...(app.push === undefined
      ? {}
      : ({ push: app.push.aesKeys.length > 0 ? 'encrypted' : 'plain' } as const)),
    ...(createdAtSeconds === undefined ? {} : { created_at: createdAtSeconds }),
    ...(refused === undefined ? {} : { refused_with: refused }),
  }
}
