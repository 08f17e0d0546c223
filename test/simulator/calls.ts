/**
 * One request as WeChat's endpoints read it: path, query, JSON body, address.
 *
 * The query is parsed here and not by URLSearchParams for two reasons: the raw order of the parameter
 * names goes into the history, so that a test can see a second `secret` that somebody injected; and this
 * server is the upstream in benchmarks.
 */
import type { Answer } from './answers.ts'

/** The query string; of a repeated parameter the first counts. */
export interface Query {
  /** The names as received, in order, repetitions included. */
  names: readonly string[]
  /** The first value of that name; an empty one counts as missing, as it does at WeChat. */
  get: (name: string) => string | undefined
}

/** What an endpoint is asked. */
export interface Call {
  method: string
  path: string
  query: Query
  /** The JSON object of a POST; undefined when there is none or when it is not one. */
  body: Record<string, unknown> | undefined
  /** The caller's address, IPv4 without the ::ffff: of a dual stack socket. */
  ip: string
}

/** Who and what a call is about, known before it is decided; null where it says nothing. */
export interface Identity {
  appid: string | null
  code: string | null
  openid: string | null
  /** Whether the AppSecret was right; the secret itself is never kept. */
  secretRight: boolean | null
}

/** One WeChat endpoint. identify() changes nothing; answer() does, in one synchronous step. */
export interface Endpoint {
  identify(call: Call): Identity
  answer(call: Call): Answer
}

/** Splits a request target into path and query. */
export function parseTarget(target: string): { path: string; query: Query } {
  const mark = target.indexOf('?')
  if (mark < 0) return { path: target, query: parseQuery('') }
  return { path: target.slice(0, mark), query: parseQuery(target.slice(mark + 1)) }
}

function parseQuery(text: string): Query {
  const names: string[] = []
  const values: string[] = []
  for (const pair of text === '' ? [] : text.split('&')) {
    const equals = pair.indexOf('=')
    names.push(decode(equals < 0 ? pair : pair.slice(0, equals)))
    values.push(equals < 0 ? '' : decode(pair.slice(equals + 1)))
  }
  return {
    names,
    get(name) {
      const index = names.indexOf(name)
      return index < 0 || values[index] === '' ? undefined : values[index]
    },
  }
}

function decode(text: string): string {
  if (!text.includes('%') && !text.includes('+')) return text
  const spaced = text.replaceAll('+', ' ')
  try {
    return decodeURIComponent(spaced)
  } catch {
    // A broken escape is kept as it came: the test that sent it wants to find it in the history.
    return spaced
  }
}

/** A text field of a JSON body; undefined when it is missing, empty or something else. */
export function bodyText(call: Call, name: string): string | undefined {
  const value = call.body?.[name]
  return typeof value === 'string' && value !== '' ? value : undefined
}
