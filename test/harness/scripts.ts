/** The scripts of src/lua/, called directly, and an account of which of their answers were reached. */
import { readFileSync } from 'node:fs'
import type { Redis } from 'ioredis'
import { loadScript } from '../../src/redis/scripts.ts'
import type { ScriptArgument } from '../../src/redis/scripts.ts'

/** Runs scripts, and remembers what each has answered. */
export function createScripts(redis: Redis) {
  const reached = new Map<string, Set<string>>()
  const scripts = new Map<string, ReturnType<typeof loadScript>>()

  return {
    async run(name: string, keys: readonly string[], args: readonly ScriptArgument[]): Promise<unknown> {
      const script = scripts.get(name) ?? loadScript(name)
      scripts.set(name, script)
      const answer = await script(redis, keys, args)
      const state = String(Array.isArray(answer) ? answer[0] : answer)
      reached.set(name, (reached.get(name) ?? new Set()).add(state))
      return answer
    },
    /** The answers that the script's header promises and that have not been seen. */
    unreached(name: string): string[] {
      return promisedAnswers(name).filter((state) => !reached.get(name)?.has(state))
    },
  }
}

/** The states in the "Returns" of a header: words such as LEAD, or else numbers. */
function promisedAnswers(name: string): string[] {
  const lua = readFileSync(new URL(`../../src/lua/${name}.lua`, import.meta.url), 'utf8')
  const returns = /^-- Returns(?:.*\n)(?:--.*\n)*/m.exec(lua)?.[0] ?? ''
  const words = [...returns.matchAll(/'([A-Z_]+)'/g)].map(([, word = '']) => word)
  const promised = words.length > 0 ? words : [...returns.matchAll(/\b\d\b/g)].map(([digit]) => digit)
  if (promised.length === 0) throw new Error(`${name}.lua does not say what it returns`)
  return promised
}

/** Fails when a key was written that does not end by itself; a block may last until somebody lifts it. */
export async function demandEnds(redis: Redis, prefix: string): Promise<void> {
  for (const name of await redis.keys(`${prefix}*`)) {
    if (!name.startsWith(`${prefix}block:`) && (await redis.pttl(name)) === -1)
      throw new Error(`${name} was written without an end`)
  }
}
