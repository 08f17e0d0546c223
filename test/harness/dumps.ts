/** All that the stores hold, as text to be searched. */
import type { Redis } from 'ioredis'
import { sql } from 'kysely'
import { openDatabase } from '../../workers/database.ts'

/** Every value of every key, as text: strings, hashes, lists, sets, sorted sets, streams. */
export async function dumpRedis(redis: Redis, pattern = '*'): Promise<string> {
  const parts: string[] = []
  let cursor = '0'
  do {
    const [next, found] = await redis.scan(cursor, 'MATCH', pattern, 'COUNT', 1_000)
    cursor = next
    for (const key of found) {
      parts.push(key, await readValue(redis, key))
    }
  } while (cursor !== '0')
  return parts.join('\n')
}

async function readValue(redis: Redis, key: string): Promise<string> {
  const read: Record<string, () => Promise<unknown>> = {
    string: () => redis.getBuffer(key),
    hash: () => redis.hgetallBuffer(key),
    list: () => redis.lrangeBuffer(key, 0, -1),
    set: () => redis.smembersBuffer(key),
    zset: () => redis.zrangeBuffer(key, '0', '-1'),
    stream: () => redis.xrangeBuffer(key, '-', '+'),
    none: async () => '', // ended since it was found
  }
  const type = await redis.type(key)
  const value = await read[type]?.()
  if (value === undefined) throw new Error(`a key of type ${type} was not read`)
  return flatten(value)
}

function flatten(value: unknown): string {
  if (Buffer.isBuffer(value)) return value.toString('latin1')
  if (Array.isArray(value)) return value.map(flatten).join('\n')
  if (typeof value === 'object' && value !== null) return Object.entries(value).flat().map(flatten).join('\n')
  return String(value)
}

/** Every row of every table, as text. */
export async function dumpDatabase(location: { url: string | undefined; dataDir: string }): Promise<string> {
  const database = await openDatabase({ ...location, onConnectionError: () => {} })
  try {
    const tables = await database.db.introspection.getTables()
    const rows = await Promise.all(
      tables.map(({ name }) =>
        sql`select row_to_json(t)::text as row from ${sql.table(name)} t`.execute(database.db),
      ),
    )
    return JSON.stringify(rows.map((result) => result.rows))
  } finally {
    await database.close()
  }
}
