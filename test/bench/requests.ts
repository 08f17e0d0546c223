/** What a request looks like on the wire, and what a right answer to it has. */
import type { Batch } from './generator.ts'

export type Asking = Pick<Batch, 'targets' | 'before' | 'after' | 'status' | 'contains'>

export interface RequestParts {
  method: 'GET' | 'POST'
  path: string
  headers?: Record<string, string>
  /** VALUE stands for what differs from request to request; of `valueLength` characters, if it is in the body. */
  body?: string
  valueLength?: number
  status: number
  contains?: string | undefined
}

export const VALUE = '\u0000'
/** As WeChat's web view names itself. */
const USER_AGENT =
  'Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 MicroMessenger/8.0.55 NetType/WIFI Language/zh_CN'

export function asking(
  target: { host: string; port: number },
  { method, path, headers = {}, body, valueLength = 0, status, contains }: RequestParts,
): Asking {
  const all: Record<string, string> = {
    Host: `${target.host}:${target.port}`,
    'User-Agent': USER_AGENT,
    Accept: '*/*',
    ...headers,
    ...(body === undefined ? {} : { 'Content-Length': String(body.length - VALUE.length + valueLength) }),
  }
  const head = Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`)
  const whole = `${method} ${path} HTTP/1.1\r\n${head.join('')}\r\n${body ?? ''}`
  const [before = '', after = ''] = whole.split(VALUE)
  return { targets: [target], before, after, status, contains }
}
