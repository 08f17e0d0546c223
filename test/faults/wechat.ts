/** The simulated WeChat as a process of its own, and what rows ask of its control port. */
import { randomBytes } from 'node:crypto'
import { mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Agent, request } from 'undici'
import { freePort } from '../../deploy/local/ports.ts'
import { LOCALHOST_CERTIFICATE } from '../simulator/certificate.ts'
import type { HistoryEntry, HistorySummary } from '../simulator/history.ts'
import type { Program } from './program.ts'
import { startProgram } from './program.ts'
import type { Bench } from './row.ts'

export interface WechatApp {
  appid: string
  secret: string
}

export interface IssuedCode {
  code: string
  openid: string
}

/** A rule of the simulator, as its README says. */
export type FaultRule = { kind: string } & Record<string, unknown>

export interface WechatOptions {
  /** The first is the one that loads log in to. Default: one app. */
  apps?: readonly WechatApp[]
  https?: boolean
  keyRefreshSeconds?: number
}

export interface Wechat {
  readonly program: Program
  readonly url: string
  readonly apps: readonly WechatApp[]
  /** New users, a code each, unless an openid is given, or that each comes several times, all in turn. */
  codes(
    count: number,
    fields?: { appid?: string; openid?: string; unionid?: string; codesPerUser?: number },
  ): Promise<IssuedCode[]>
  /** Adds a rule; the result takes it away again. */
  fault(rule: FaultRule): Promise<() => Promise<void>>
  clearFaults(): Promise<void>
  release(): Promise<void>
  summary(): Promise<HistorySummary>
  history(filter?: Record<string, string | number>): Promise<HistoryEntry[]>
  stats(): Promise<Record<string, unknown>>
  control(method: 'GET' | 'POST' | 'PUT' | 'DELETE', path: string, body?: unknown): Promise<unknown>
}

export function newWechatApp(): WechatApp {
  return { appid: `wx${randomBytes(8).toString('hex')}`, secret: randomBytes(16).toString('hex') }
}

export async function startWechat(bench: Pick<Bench, 'defer'>, options: WechatOptions = {}): Promise<Wechat> {
  const apps = options.apps ?? [newWechatApp()]
  const folder = mkdtempSync(join(tmpdir(), 'gateway-wechat-'))
  const file = (name: string, content: string) => {
    writeFileSync(join(folder, name), content)
    return join(folder, name)
  }
  const [port, controlPort] = [await freePort(), await freePort()]
  const program = await startProgram({
    name: 'wechat',
    command: ['test/simulator/main.ts'],
    env: {
      PORT: String(port),
      CONTROL_PORT: String(controlPort),
      WECHAT_APPS_FILE: file('apps.json', JSON.stringify(apps)),
      KEY_REFRESH_SECONDS: String(options.keyRefreshSeconds ?? 0),
      ...(options.https
        ? {
            TLS_KEY_FILE: file('key.pem', LOCALHOST_CERTIFICATE.key),
            TLS_CERT_FILE: file('cert.pem', LOCALHOST_CERTIFICATE.cert),
          }
        : {}),
    },
    readyText: 'A code, as wx.login() would give it',
  })
  bench.defer(() => program.end('SIGKILL'))
  const agent = new Agent({ connections: 16 })
  bench.defer(() => agent.destroy())

  async function control(
    method: 'GET' | 'POST' | 'PUT' | 'DELETE',
    path: string,
    body?: unknown,
  ): Promise<unknown> {
    const answer = await request(`http://127.0.0.1:${controlPort}${path}`, {
      method,
      dispatcher: agent,
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
    const text = await answer.body.text()
    if (answer.statusCode !== 200) throw new Error(`the simulator: ${method} ${path.split('?')[0]}: ${text}`)
    return JSON.parse(text)
  }

  return {
    program,
    url: `${options.https ? 'https://localhost' : 'http://127.0.0.1'}:${port}`,
    apps,
    control,
    async codes(count, fields = {}) {
      const { codes } = (await control('POST', '/codes', { count, ...fields })) as { codes: IssuedCode[] }
      return codes
    },
    async fault(rule) {
      const { ids } = (await control('POST', '/faults', rule)) as { ids: number[] }
      return async () => void (await control('DELETE', `/faults?id=${ids[0]}`))
    },
    clearFaults: async () => void (await control('DELETE', '/faults')),
    release: async () => void (await control('POST', '/faults/release', {})),
    summary: async () => (await control('GET', '/history/summary')) as HistorySummary,
    async history(filter = {}) {
      const query = new URLSearchParams(Object.entries(filter).map(([name, value]) => [name, String(value)]))
      return ((await control('GET', `/history?${query.toString()}`)) as { requests: HistoryEntry[] }).requests
    },
    stats: async () => (await control('GET', '/stats')) as Record<string, unknown>,
  }
}
