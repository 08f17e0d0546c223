/**
 * A Mini Program, as far as a login needs one: its modules run in a context of their own, as sources, with the
 * `wx` that WeChat gives them. wx.login() mints a code at the simulated WeChat; wx.request() does what the
 * documentation of wx.request says, no more and no less, so that old client code is tested as it is.
 */
import { posix } from 'node:path'
import { createContext, runInContext } from 'node:vm'
import { request } from 'undici'
import type { Simulator } from '../simulator/server.ts'

const USER_AGENT =
  'Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 MicroMessenger/8.0.50 NetType/WIFI'

/** What wx.request() takes. */
interface RequestOptions {
  url: string
  data?: unknown
  header?: Record<string, string>
  method?: string
  dataType?: string
  success?: (result: RequestResult) => void
  fail?: (failure: { errMsg: string }) => void
  complete?: (end: { errMsg: string }) => void
}

/** What it gives to success: whatever the status. */
export interface RequestResult {
  data: unknown
  statusCode: number
  header: Record<string, unknown>
  errMsg: 'request:ok'
}

/** One request as it went over the wire, and the answer's text. */
export interface Exchanged {
  method: string
  url: string
  headers: Record<string, string>
  body: string | null
  status: number
  text: string
}

export interface MiniProgramSettings {
  /** Who holds the phone. */
  openid: string
  /** The modules by path, for instance `app.js`. */
  modules: Readonly<Record<string, string>>
  /** Where the domain of the sources really is: source origin → address. */
  origins: Readonly<Record<string, string>>
  /** What wx.login() gives instead of a real code. */
  code?: string
}

export function createMiniProgram(
  wechat: Simulator,
  { openid, modules, origins, code }: MiniProgramSettings,
) {
  const exchanged: Exchanged[] = []
  const printed: string[] = []
  const storage = new Map<string, unknown>()
  let running = 0

  const wx = {
    login({
      success,
      complete,
    }: {
      success?: (result: object) => void
      complete?: (end: object) => void
    } = {}) {
      running += 1
      setImmediate(() => {
        const result = { code: code ?? wechat.issueCode({ openid }).code, errMsg: 'login:ok' }
        success?.(result)
        complete?.(result)
        running -= 1
      })
    },
    request(options: RequestOptions) {
      running += 1
      void send(options).finally(() => {
        running -= 1
      })
      return { abort() {} }
    },
    setStorageSync: (key: string, value: unknown) => void storage.set(key, structuredClone(value)),
    getStorageSync: (key: string) => storage.get(key) ?? '',
  }

  async function send({ url, data, header = {}, method = 'GET', ...rest }: RequestOptions): Promise<void> {
    const headers = { 'content-type': 'application/json', ...lowerCase(header), 'user-agent': USER_AGENT }
    const inQuery =
      method === 'GET' || headers['content-type'].startsWith('application/x-www-form-urlencoded')
    const query = inQuery ? queryOf(data) : ''
    const target = moved(
      method === 'GET' && query !== '' ? url + (url.includes('?') ? '&' : '?') + query : url,
    )
    const body = method === 'GET' || data === undefined ? null : inQuery ? query : bodyOf(data)
    try {
      const answer = await request(target, { method: method as 'GET', headers, body })
      const text = await answer.body.text()
      exchanged.push({ method, url: target, headers, body, status: answer.statusCode, text })
      rest.success?.({
        data: (rest.dataType ?? 'json') === 'json' ? parseOnce(text) : text,
        statusCode: answer.statusCode,
        header: answer.headers,
        errMsg: 'request:ok',
      })
      rest.complete?.({ errMsg: 'request:ok' })
    } catch (error) {
      const failure = { errMsg: `request:fail ${error instanceof Error ? error.message : ''}` }
      rest.fail?.(failure)
      rest.complete?.(failure)
    }
  }

  function moved(url: string): string {
    const origin = Object.keys(origins).find((known) => url.startsWith(`${known}/`))
    if (origin === undefined) throw new Error('url not in domain list')
    return origins[origin] + url.slice(origin.length)
  }

  const context = createContext({
    wx,
    console: { log: (...words: unknown[]) => void printed.push(words.map(String).join(' ')) },
  })
  const loaded = new Map<string, { exports: unknown }>()

  /** CommonJS, as Mini Programs have it: paths are relative to the module that asks. */
  function load(path: string): unknown {
    const known = loaded.get(path)
    if (known !== undefined) return known.exports
    const source = modules[path]
    if (source === undefined) throw new Error(`module ${path} is not defined`)
    const module = { exports: {} as unknown }
    loaded.set(path, module)
    const require = (from: string) => load(posix.join(posix.dirname(path), from.replace(/(\.js)?$/, '.js')))
    // The wrapper is this function's own; what it returns takes what a CommonJS module takes.
    const run = runInContext(`(function (require, module, exports) {${source}\n})`, context, {
      filename: path,
    }) as (...args: unknown[]) => void
    run(require, module, module.exports)
    return module.exports
  }

  return {
    run: load,
    /** What went over the wire, oldest first. */
    exchanged: exchanged as readonly Exchanged[],
    /** What console.log() was given. */
    printed: printed as readonly string[],
    isIdle: () => running === 0,
  }
}

function lowerCase(header: Record<string, string>): Record<string, string> {
  return Object.fromEntries(Object.entries(header).map(([name, value]) => [name.toLowerCase(), value]))
}

function queryOf(data: unknown): string {
  if (data === undefined || data === null) return ''
  if (typeof data === 'string') return data
  return Object.entries(data)
    .map(([name, value]) => `${encodeURIComponent(name)}=${encodeURIComponent(String(value))}`)
    .join('&')
}

function bodyOf(data: unknown): string {
  return typeof data === 'string' ? data : JSON.stringify(data)
}

/** "One JSON.parse": what is no JSON stays text. */
function parseOnce(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return text
  }
}
