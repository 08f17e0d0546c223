/** The Lua scripts of src/lua/. */
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { RedisClient } from './connections.ts'
import { nameScript } from './watch.ts'

export type ScriptArgument = string | number | Buffer

export type Script = (
  redis: RedisClient,
  keys: readonly string[],
  args: readonly ScriptArgument[],
) => Promise<unknown>

/**
 * A script of src/lua/, sent by its hash; a Redis that does not know it (restarted, failed over) is given
 * the text once. Safe: a script that is unknown has not run.
 */
export function loadScript(name: string): Script {
  const lua = readFileSync(new URL(`../lua/${name}.lua`, import.meta.url), 'utf8')
  const sha1 = createHash('sha1').update(lua).digest('hex')
  nameScript(sha1, name)
  return async (redis, keys, args) => {
    try {
      return await redis.evalsha(sha1, keys.length, ...keys, ...args)
    } catch (error) {
      if (!(error instanceof Error) || !error.message.startsWith('NOSCRIPT')) throw error
      return redis.eval(lua, keys.length, ...keys, ...args)
    }
  }
}
