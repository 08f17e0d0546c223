/**
 * PROVISION_MODULE: users are written by a module of the operator's, into a table of their own, with the guarantees
 * that our own store has. The module exports
 *
 *   provisionUser(user, { signal }) → the user's id there: a text of 1 to 64 printable characters, or a whole number
 *   eraseUser(identity, { signal }) → how many users it has deleted (optional)
 *
 * provisionUser is called at least once for a user, perhaps again, and perhaps twice at once: it must be an upsert on
 * (appid, openid). It is told `sub`, `appid`, `openid`, `unionid?` and `seenAtMs`. What it throws costs the job one of
 * its eight attempts; what says that the database is away (a system error of the network, a SQLSTATE to that effect,
 * or `transient: true` on the error) costs none. It has 20 seconds, then `signal` aborts and the job is put off.
 *
 * A user who was erased is remembered in Redis, by the hash, so that no job of before brings them back.
 */
import { pathToFileURL } from 'node:url'
import type { createLoggedInCheck, ErasedMarks } from '../src/erasure.ts'
import type { Log } from '../src/log.ts'
import { subjectOf } from '../src/subject.ts'
import { ErasedSince, isTransient } from './database-errors.ts'
import type { Erasures, IdentityToErase } from './erasures.ts'
import { JobFailed } from './job-failure.ts'
import type { SeenIdentity, Users } from './users.ts'

const CALL_MS_MAX = 20_000
const USER_ID = /^[\x21-\x7e]{1,64}$/
const STACK_LINES = 3
const NOTHING = { identities: 0, users: 0 }

interface Options {
  readonly signal: AbortSignal
}

export interface ProvisionModule {
  readonly provisionUser: (user: SeenIdentity & { sub: string }, options: Options) => unknown
  readonly eraseUser:
    | ((
        identity: { sub: string; appid: string; openid: string; erasedAtMs: number },
        options: Options,
      ) => unknown)
    | undefined
}

/** The module is not what it has to be. The message is for the operator. */
export class ProvisionModuleFault extends Error {
  override readonly name = 'ProvisionModuleFault'
}

/** Loads it and looks at what it exports. @throws {ProvisionModuleFault} */
export async function loadProvisionModule(path: string): Promise<ProvisionModule> {
  const exported = await importModule(path)
  const { provisionUser, eraseUser } = exported
  if (typeof provisionUser !== 'function')
    throw new ProvisionModuleFault(`PROVISION_MODULE ${path} exports no function provisionUser`)
  if (eraseUser !== undefined && typeof eraseUser !== 'function')
    throw new ProvisionModuleFault(`PROVISION_MODULE ${path} exports an eraseUser that is no function`)
  return exported as unknown as ProvisionModule
}

async function importModule(path: string): Promise<Record<string, unknown>> {
  try {
    return (await import(pathToFileURL(path).href)) as Record<string, unknown>
  } catch (error) {
    const reason = error instanceof Error ? `${error.name}: ${error.message}` : 'it threw no error'
    throw new ProvisionModuleFault(`PROVISION_MODULE ${path} cannot be loaded: ${reason}`)
  }
}

export interface ModuleStoreDeps {
  readonly erased: ErasedMarks
  readonly isLoggedIn: ReturnType<typeof createLoggedInCheck>
  readonly unionidOf: (sub: string) => Promise<string | undefined>
  readonly log: Log
}

export interface ModuleStore extends Users, Erasures {
  /** To be called before the jobs of a user are taken away: one that begins after it brings nobody back. */
  remember(user: { sub: string; erasedAtMs: number }): Promise<void>
}

/** The module in the place of our own store. Everything rejects with JobFailed, or as Users and Erasures say. */
export function createModuleStore(
  module: ProvisionModule,
  { erased, isLoggedIn, unionidOf, log }: ModuleStoreDeps,
): ModuleStore {
  async function provision(seen: SeenIdentity): Promise<string> {
    const { appid, openid, unionid, seenAtMs } = seen
    const user = { sub: subjectOf(appid, openid), appid, openid, seenAtMs }
    const id = await call('provisionUser', (options) =>
      module.provisionUser({ ...user, ...(unionid !== undefined && { unionid }) }, options),
    )
    const text = Number.isSafeInteger(id) ? String(id) : id
    if (typeof text === 'string' && USER_ID.test(text)) return text
    log.error({ function: 'provisionUser' }, 'PROVISION_MODULE returned no user id')
    throw new JobFailed('fault', 'the module returned no user id')
  }

  async function provisionAgain({ sub, appid, openid, erasedAtMs }: { sub: string } & IdentityToErase) {
    const unionid = await unionidOf(sub)
    return { userId: await provision({ appid, openid, unionid, seenAtMs: erasedAtMs + 1 }), unionid }
  }

  /** Runs a function of the module, for a while. What it throws may quote the user, and is told by its code alone. */
  async function call(name: string, run: (options: Options) => unknown): Promise<unknown> {
    const controller = new AbortController()
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(() => {
        reject(new JobFailed('later', `the module did not end within ${CALL_MS_MAX / 1_000} s`))
        controller.abort()
      }, CALL_MS_MAX)
    })
    try {
      return await Promise.race([Promise.resolve().then(() => run({ signal: controller.signal })), late])
    } catch (error) {
      if (error instanceof JobFailed) throw error
      const code = codeOf(error)
      if (isPassing(error)) throw new JobFailed('later', `module: ${code}`)
      log.error({ function: name, error: code, at: placeOf(error) }, 'PROVISION_MODULE failed')
      throw new JobFailed('fault', `module: ${code}`)
    } finally {
      clearTimeout(timer)
    }
  }

  return {
    async provisionUser(seen) {
      const mark = await erased.find(subjectOf(seen.appid, seen.openid))
      if (mark !== undefined && mark.erasedAtMs >= seen.seenAtMs) throw new ErasedSince(mark.erasedAtMs)
      return { userId: await provision(seen), created: false, relinked: [] }
    },

    identitiesOf: async () => [], // it merges nobody

    async eraseIdentity({ appid, openid, erasedAtMs }) {
      const sub = subjectOf(appid, openid)
      const mark = await erased.find(sub)
      // Done before, and only the answer was lost: what is there now has come since.
      if (mark !== undefined && mark.doneAtMs >= erasedAtMs) return { ...NOTHING, since: undefined }
      const { eraseUser } = module
      const identity = { sub, appid, openid, erasedAtMs }
      const deleted = eraseUser && (await call('eraseUser', (options) => eraseUser(identity, options)))
      // They may have logged in again before this was done, and been written already.
      const since = (await isLoggedIn(sub)) ? await provisionAgain(identity) : undefined
      await erased.set(sub, { done: erasedAtMs })
      return { ...NOTHING, users: typeof deleted === 'number' ? deleted : 0, since }
    },

    async remember({ sub, erasedAtMs }) {
      const mark = await erased.find(sub)
      if (mark === undefined || mark.erasedAtMs < erasedAtMs) await erased.set(sub, { at: erasedAtMs })
    },
  }
}

/** Whether it says of itself that trying again later can help. An error without any code says nothing. */
function isPassing(error: unknown): boolean {
  if (!(error instanceof Error)) return false
  if ('transient' in error) return error.transient === true
  return 'code' in error && isTransient(error)
}

const CODE = /^[A-Za-z0-9_]{1,64}$/

function codeOf(error: unknown): string {
  if (!(error instanceof Error)) return 'no error was thrown'
  const code = 'code' in error ? String(error.code) : error.name
  return CODE.test(code) ? code : 'Error'
}

/** Where it was thrown; the lines above are its message. */
function placeOf(error: unknown): readonly string[] {
  const lines = error instanceof Error ? (error.stack ?? '').split('\n') : []
  return lines
    .filter((line) => /^\s+at /.test(line))
    .slice(0, STACK_LINES)
    .map((line) => line.trim())
}
