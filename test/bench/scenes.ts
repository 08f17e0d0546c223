/** What is asked of the contenders: each scene hands out requests and says what a right answer is. */
import type { Wechat } from '../faults/wechat.ts'
import type { Contender, ContenderName } from './contenders.ts'
import type { Load } from './load.ts'
import type { Asking } from './requests.ts'
import { VALUE } from './requests.ts'
import { knownUsers, logIn, newCodes } from './users.ts'

export interface Requests extends Asking {
  values: readonly string[]
}

/** Hands out that many requests. */
export type Take = (count: number) => Promise<Requests> | Requests

export interface SceneTools {
  wechat: Wechat
  load: Load
  /** How many requests will be taken in all. */
  total: number
}

export interface Scene {
  question: string
  contenders: readonly ContenderName[]
  /** Those of --quick. */
  quick: readonly ContenderName[]
  /** For the latencies, requests a second. */
  rate: number
  /** Brings the contender to where the scene begins. */
  prepare(contender: Contender, tools: SceneTools): Promise<Take> | Take
}

/** Each logs in a few times only, so that nobody has an unlikely number of sessions. */
const LOGINS_EACH = 4
/** Each asks some times a second, as a Mini Program does while it is open; that is what a cache is for. */
const VALIDATED_USERS = 1_000
const TOKEN_LENGTH = 58

export const SCENES = {
  returning: {
    question: 'What does the login of a user cost who has logged in before?',
    contenders: ['bare', 'upstream-only', 'gateway', 'gateway-512mb', 'day', 'php', 'easywechat'],
    quick: ['upstream-only', 'gateway', 'day'],
    rate: 500,
    async prepare(contender, { total, ...tools }) {
      if (!isGateway(contender)) return freshLogins(contender, tools.wechat)
      const users = Math.ceil(total / LOGINS_EACH)
      const { codes } = await knownUsers(tools, contender, { users, loginsEach: LOGINS_EACH })
      return (count) => ({ ...contender.login(), values: codes.splice(0, count) })
    },
  },
  replacing: {
    question:
      'The same with the token that the device has held so far, whose session ends by it (README, "the Mini Program\'s side")?',
    contenders: ['upstream-only', 'gateway'],
    quick: [],
    rate: 500,
    async prepare(contender, { total, ...tools }) {
      if (!isGateway(contender)) return freshLogins(contender, tools.wechat)
      // Once each: a token is good for one login.
      const { users, codes } = await knownUsers(tools, contender, { users: total, loginsEach: 1 })
      const { before, after, ...rest } = contender.login({ Authorization: `Bearer ${STAND_IN}` })
      const [head = '', between = ''] = before.split(STAND_IN)
      const values = users.map(({ token }, at) => token + between + (codes[at] ?? ''))
      return (count) => ({ ...rest, before: head, after, values: values.splice(0, count) })
    },
  },
  first: {
    question: 'What does the login of a new user cost, with the job for the worker?',
    contenders: ['upstream-only', 'gateway', 'day'],
    quick: ['upstream-only', 'gateway'],
    rate: 500,
    prepare: (contender, { wechat }) => freshLogins(contender, wechat),
  },
  traced: {
    question: 'What does tracing add to the login of a new user, for 1 % of the requests and for all?',
    contenders: ['gateway', 'gateway-traced-1', 'gateway-traced'],
    quick: [],
    rate: 500,
    prepare: (contender, { wechat }) => freshLogins(contender, wechat),
  },
  retry: {
    question: 'What does it cost when a client sends a settled code again?',
    contenders: ['upstream-only', 'gateway'],
    quick: [],
    rate: 500,
    prepare(contender, { wechat, load }) {
      if (!isGateway(contender)) return freshLogins(contender, wechat)
      return async (count) => {
        const values = await newCodes(wechat, count)
        await logIn(load, contender.login(), values)
        return { ...contender.login(), values }
      }
    },
  },
  auth: {
    question: 'What does it cost to ask who a bearer is, with and without a cache of 1 s?',
    contenders: ['bare', 'gateway', 'gateway-cache', 'day', 'nginx-auth'],
    quick: ['bare', 'gateway', 'gateway-cache'],
    rate: 2_000,
    async prepare(contender, tools) {
      const tokens = await tokensOf(contender, tools)
      return (count) => ({ ...contender.validation(), values: inTurn(tokens, count) })
    },
  },
  wafer: {
    question: 'What does a login by wafer-node-session cost, which wants open data with it?',
    contenders: ['upstream-only', 'wafer'],
    quick: [],
    rate: 200,
    prepare: (contender, { wechat }) => freshLogins(contender, wechat),
  },
  introspect: {
    question: 'What does introspection (RFC 7662) cost?',
    contenders: ['oidc', 'gateway'],
    quick: [],
    rate: 1_000,
    async prepare(contender, tools) {
      const tokens = await tokensOf(contender, tools)
      const { path, port, authorization } = isGateway(contender)
        ? {
            path: '/introspect',
            port: Number(new URL(contender.adminUrl).port),
            authorization: `Bearer ${contender.env['ADMIN_TOKEN']}`,
          }
        : {
            path: '/token/introspection',
            port: Number(new URL(contender.url).port),
            authorization: OIDC_CLIENT,
          }
      const request = contender.request({
        method: 'POST',
        path,
        headers: { 'Content-Type': 'application/x-www-form-urlencoded', Authorization: authorization },
        body: `token=${VALUE}`,
        valueLength: tokens[0]?.length ?? 0,
        status: 200,
        contains: '"active":true',
      })
      return (count) => ({
        ...request,
        targets: [{ host: '127.0.0.1', port }],
        values: inTurn(tokens, count),
      })
    },
  },
  decrypt: {
    question: 'What does POST /session/decrypt cost?',
    contenders: ['bare', 'gateway'],
    quick: [],
    rate: 500,
    async prepare(contender, tools) {
      if (!isGateway(contender)) return freshLogins(contender, tools.wechat)
      const { users } = await knownUsers(tools, contender, { users: DECRYPTING_USERS, loginsEach: 0 })
      const sent = await Promise.all(
        users.map(async ({ openid, token }) => {
          const { encryptedData, iv } = await openData(tools.wechat, openid)
          const body = JSON.stringify({ encrypted_data: encryptedData, iv })
          return `${token}\r\nContent-Length: ${body.length}\r\n\r\n${body}`
        }),
      )
      const { before, after, ...rest } = contender.request({
        method: 'POST',
        path: '/session/decrypt',
        headers: { 'Content-Type': 'application/json', Authorization: `Bearer ${VALUE}` },
        status: 200,
        contains: '"watermark"',
      })
      return (count) => ({
        ...rest,
        before,
        after: after.slice('\r\n\r\n'.length),
        values: inTurn(sent, count),
      })
    },
  },
} as const satisfies Record<string, Scene>

export type SceneName = keyof typeof SCENES

const STAND_IN = 'x'.repeat(TOKEN_LENGTH)
const DECRYPTING_USERS = 200
/** WeChat lets a user log in some hundred times a minute. */
const WAFER_LOGINS_EACH = 50
const OIDC_CLIENT = `Basic ${Buffer.from('backend:backend-secret-of-some-length').toString('base64')}`

function isGateway({ name }: Contender): boolean {
  return name.startsWith('gateway')
}

/** A code of a new user for each login. */
async function freshLogins(contender: Contender, wechat: Wechat): Promise<Take> {
  if (contender.name === 'wafer') return waferLogins(contender, wechat)
  return async (count) => ({ ...contender.login(), values: await newCodes(wechat, count) })
}

/** It wants open data with each login, made with the session_key that the code brings. */
function waferLogins(contender: Contender, wechat: Wechat): Take {
  const { before, after, ...rest } = contender.request({
    method: 'GET',
    path: '/login',
    headers: { 'X-WX-Code': VALUE },
    status: 200,
    contains: '"skey":"',
  })
  return async (count) => {
    const values: string[] = []
    while (values.length < count) {
      const [first] = await wechat.codes(1)
      if (first === undefined) throw new TypeError('the simulator made no code')
      const { openid } = first
      const codes = await wechat.codes(Math.min(WAFER_LOGINS_EACH, count - values.length), { openid })
      const { encryptedData, iv } = await openData(wechat, openid)
      const tail = `\r\nX-WX-Encrypted-Data: ${encryptedData}\r\nX-WX-IV: ${iv}`
      values.push(...codes.map(({ code }) => code + tail))
    }
    return { ...rest, before, after, values }
  }
}

async function openData(wechat: Wechat, openid: string): Promise<{ encryptedData: string; iv: string }> {
  return (await wechat.control('POST', '/open-data', { openid })) as { encryptedData: string; iv: string }
}

/** Bearers whom the contender takes for valid. */
async function tokensOf(contender: Contender, tools: Pick<SceneTools, 'load' | 'wechat'>): Promise<string[]> {
  if (contender.name === 'oidc') return oidcTokens(contender)
  if (isGateway(contender)) {
    const { users } = await knownUsers(tools, contender, { users: VALIDATED_USERS, loginsEach: 0 })
    return users.map(({ token }) => token)
  }
  if (contender.redisUrl !== undefined) {
    const users = await logIn(tools.load, contender.login(), await newCodes(tools.wechat, VALIDATED_USERS))
    return users.map(({ token }) => token)
  }
  return Array.from({ length: VALIDATED_USERS }, (_, at) => String(at).padStart(TOKEN_LENGTH, '0'))
}

async function oidcTokens({ url }: Contender): Promise<string[]> {
  const tokens: string[] = []
  for (let at = 0; at < VALIDATED_USERS; at += 1) {
    const answer = await fetch(`${url}/token`, {
      method: 'POST',
      headers: { authorization: OIDC_CLIENT },
      body: new URLSearchParams({ grant_type: 'client_credentials' }),
    })
    tokens.push(((await answer.json()) as { access_token: string }).access_token)
  }
  return tokens
}

function inTurn(values: readonly string[], count: number): string[] {
  return Array.from({ length: count }, (_, at) => values[at % values.length] ?? '')
}
