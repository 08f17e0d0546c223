/** What is asked of the contenders: each scene hands out requests and says what a right answer is. */
import type { Wechat } from '../faults/wechat.ts'
import type { Contender, ContenderName } from './contenders.ts'
import type { Asking } from './requests.ts'
import type { Load } from './load.ts'
import { knownUsers, logIn, newCodes } from './users.ts'

export interface Requests extends Asking {
  values: readonly string[]
}

export interface SceneTools {
  wechat: Wechat
  load: Load
  /** How many requests will be taken in all. */
  total: number
}

export interface Scene {
  question: string
  contenders: readonly ContenderName[]
  /** How many requests make a window. */
  window: number
  /** For the latencies, requests a second. */
  rate: number
  /** Brings the contender to where the scene begins. The result hands out that many requests. */
  prepare(contender: Contender, tools: SceneTools): Promise<(count: number) => Promise<Requests> | Requests>
}

/** Each logs in a few times only, so that nobody has an unlikely number of sessions. */
const LOGINS_EACH = 4
const VALIDATED_USERS = 1_000

export const SCENES = {
  returning: {
    question: 'What does the login of a user cost who has logged in before?',
    contenders: ['bare', 'upstream-only', 'gateway'],
    window: 5_000,
    rate: 1_000,
    async prepare(contender, { total, ...tools }) {
      const users = Math.ceil(total / LOGINS_EACH)
      if (!isGateway(contender)) return freshCodes(contender, tools.wechat)
      const { codes } = await knownUsers(tools, contender, { users, loginsEach: LOGINS_EACH })
      return (count) => ({ ...contender.login(), values: codes.splice(0, count) })
    },
  },
  first: {
    question: 'What does the login of a new user cost, with the job for the worker?',
    contenders: ['bare', 'upstream-only', 'gateway'],
    window: 5_000,
    rate: 1_000,
    async prepare(contender, { wechat }) {
      return freshCodes(contender, wechat)
    },
  },
  retry: {
    question: 'What does it cost when a client sends a settled code again?',
    contenders: ['upstream-only', 'gateway'],
    window: 5_000,
    rate: 1_000,
    async prepare(contender, { wechat, load }) {
      if (!isGateway(contender)) return freshCodes(contender, wechat)
      return async (count) => {
        const values = await newCodes(wechat, count)
        await logIn(load, contender, values)
        return { ...contender.login(), values }
      }
    },
  },
  auth: {
    question: 'What does it cost to ask who a bearer is, with and without a cache of 1 s?',
    contenders: ['bare', 'gateway', 'gateway-cache'],
    window: 20_000,
    rate: 3_000,
    async prepare(contender, tools) {
      const tokens = isGateway(contender)
        ? (await knownUsers(tools, contender, { users: VALIDATED_USERS, loginsEach: 0 })).users.map(
            ({ token }) => token,
          )
        : Array.from({ length: VALIDATED_USERS }, (_, at) => `wxs_${String(at).padStart(54, '0')}`)
      let at = 0
      return (count) => ({
        ...contender.validation(),
        values: Array.from({ length: count }, () => tokens[at++ % tokens.length] ?? ''),
      })
    },
  },
} as const satisfies Record<string, Scene>

export type SceneName = keyof typeof SCENES

function isGateway({ name }: Contender): boolean {
  return name.startsWith('gateway')
}

/** A code of a new user for each request. */
function freshCodes(contender: Contender, wechat: Wechat) {
  return async (count: number) => ({ ...contender.login(), values: await newCodes(wechat, count) })
}
