/** What `npm start` prints when everything is up: what was chosen, where it listens, and how to log in. */
import { relative } from 'node:path'
import { SIMULATED_APPID } from './environment.ts'
import type { Plan } from './plan.ts'
import type { PortName } from './ports.ts'

export interface Chosen {
  readonly plan: Plan
  /** Base URLs; those of the simulator are unused with the real WeChat. */
  readonly urls: Record<PortName, string>
  readonly redis: string
  /** ADMIN_TOKEN came from the environment and is not in the secrets file. */
  readonly adminTokenGiven: boolean
}

/** The lines, with no secret in them. */
export function banner({ plan, urls, redis, adminTokenGiven }: Chosen): string {
  const simulated = plan.wechat.kind === 'simulated'
  const dataDir = shortPath(plan.dataDir.path)
  const token = adminTokenGiven ? 'ADMIN_TOKEN' : `ADMIN_TOKEN in ${shortPath(plan.dataDir.secretsFile)}`
  const rows = [
    ['Redis', redis],
    [
      'Database',
      plan.database.kind === 'embedded' ? `embedded Postgres (PGlite) in ${dataDir}` : plan.database.place,
    ],
    [
      'WeChat',
      plan.wechat.kind === 'real'
        ? `the real one, for ${plan.wechat.apps}`
        : `simulated, ${SIMULATED_APPID}, ${urls.wechat}`,
    ],
    ['', ''],
    ['Gateway', urls.gateway],
    ['Admin', `${urls.admin}  (bearer token: ${token})`],
    ...(simulated ? [['Simulator', `${urls.control}  (control)`]] : []),
    ['Logs', shortPath(plan.dataDir.logs)],
  ]
  const width = Math.max(...rows.map(([label = '']) => label.length))
  const table = rows.map(([label = '', text]) => `  ${label.padEnd(width)}  ${text}`.trimEnd())
  return ['', ...table, '', ...(simulated ? simulatedLogin(urls) : realLogin(urls)), ''].join('\n')
}

/** One line for bash and zsh, with nothing but curl and cut. */
function simulatedLogin({ gateway, control }: Record<PortName, string>): string[] {
  const code = `$(curl -s -X POST ${control}/codes | cut -d\\" -f6)`
  return [
    '  Log in as a simulated user:',
    `  curl -s ${gateway}/login -H 'content-type: application/json' -d '{"code":"'${code}'"}'`,
  ]
}

function realLogin({ gateway }: Record<PortName, string>): string[] {
  return [
    '  Log in from the console of WeChat DevTools (first tick "Do not verify valid domain names" in its project settings):',
    `  wx.login({ success: ({ code }) => wx.request({ url: '${gateway}/login', method: 'POST', data: { code }, ` +
      'success: ({ data }) => console.log(data) }) })',
  ]
}

/** As one would type it from here; absolute when it is elsewhere. */
export function shortPath(path: string): string {
  const near = relative(process.cwd(), path)
  return near === '' || near.startsWith('..') ? path : near
}
