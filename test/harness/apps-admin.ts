/** The administrator's side of /apps, and the Mini Programs that tests add there. */
import { randomBytes } from 'node:crypto'
import type { Simulator } from '../simulator/server.ts'
import type { Client, Reply } from './client.ts'
import type { TestEnvironment } from './environment.ts'

/** An appid and secret that nobody else has. */
export function newApp(): { appid: string; secret: string } {
  return { appid: `wx${randomBytes(8).toString('hex')}`, secret: randomBytes(16).toString('hex') }
}

/** The same, known to the simulated WeChat. */
export function newWechatApp(wechat: Simulator): { appid: string; secret: string } {
  const app = newApp()
  wechat.putApp(app)
  return app
}

export function createAppsAdmin({ admin, env }: { admin: Pick<Client, 'send'>; env: TestEnvironment }) {
  const call = (method: string, path: string, body?: unknown): Promise<Reply> =>
    admin.send(method, path, {
      headers: {
        authorization: `Bearer ${env['ADMIN_TOKEN']}`,
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
  return {
    call,
    list: async () => (await call('GET', '/apps')).body['apps'] as Record<string, unknown>[],
    add: (entry: unknown) => call('POST', '/apps', entry),
    rotate: (appid: string, rotation: unknown) => call('PUT', `/apps/${appid}/secret`, rotation),
    remove: (appid: string) => call('DELETE', `/apps/${appid}`),
  }
}
