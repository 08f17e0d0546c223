/** The search for secrets in all that a stand has written: logs, metrics, Redis, Postgres (invariant I7). */
import { Redis } from 'ioredis'
import type { Stand } from './stand.ts'

/** Codes and tokens that are searched for; the row may have made hundreds of thousands. */
const SAMPLE = 50

/** Where which secret was found; empty when none was. Names of secrets, never their text. */
export async function findCanaries(stand: Stand): Promise<string[]> {
  const secrets = secretsOf(stand)
  const places: [string, string][] = [
    ...[...stand.gateways, ...stand.workers].map((program): [string, string] => [
      `the log of ${program.name}`,
      program.output(),
    ]),
    ...(await metricsOf(stand)),
    ['Redis', await dumpRedis(stand.redis.env).catch(() => '')],
    ['Postgres', await dumpDatabase(stand).catch(() => '')],
  ]
  return places.flatMap(([place, text]) =>
    secrets
      .filter(({ forms }) => forms.some((form) => text.includes(form)))
      .map(({ name }) => `${name} in ${place}`),
  )
}

function secretsOf({ secrets, ledger }: Stand): { name: string; forms: string[] }[] {
  const sampled = ledger.find({ kind: 'login' }).slice(-SAMPLE)
  const codes = sampled.flatMap(({ code }) => (code === undefined ? [] : [code]))
  const tokens = [...ledger.sessions.keys()].slice(-SAMPLE)
  return [
    ...secrets.map((text) => ({
      name: 'a planted secret',
      forms: formsOf(text.includes(':') ? text.slice(text.indexOf(':') + 1) : text),
    })),
    ...codes.map((text) => ({ name: 'a code', forms: formsOf(text) })),
    // wxs_, then the subject, which is no secret, then the secret.
    ...tokens.map((text) => ({ name: 'a token', forms: formsOf(text.slice(26)) })),
  ]
}

/** As it is, encoded, and its beginning alone. */
function formsOf(secret: string): string[] {
  const bytes = Buffer.from(secret)
  return [
    secret,
    bytes.toString('base64').replace(/=+$/, ''),
    bytes.toString('hex'),
    encodeURIComponent(secret),
    secret.slice(0, 16),
  ]
}

async function metricsOf({ gateways, workers }: Stand): Promise<[string, string][]> {
  return Promise.all(
    [...gateways, ...workers]
      .filter((program) => program.isRunning())
      .map(
        async (program): Promise<[string, string]> => [
          `/metrics of ${program.name}`,
          await program.metrics().catch(() => ''),
        ],
      ),
  )
}

/** Every key with its serialised value. Only of a Redis that has one address. */
async function dumpRedis(env: Record<string, string>): Promise<string> {
  const url = env['REDIS_URL']
  if (url === undefined || url === '') return ''
  const redis = new Redis(url, { maxRetriesPerRequest: 0, retryStrategy: () => null, lazyConnect: true })
  redis.on('error', () => {}) // a Redis that the row has taken away cannot be searched
  await redis.connect()
  try {
    const parts: string[] = []
    let cursor = '0'
    do {
      const [next, keys] = await redis.scan(cursor, 'COUNT', 1_000)
      cursor = next
      const pipeline = redis.pipeline()
      for (const key of keys) pipeline.dumpBuffer(key)
      const values = (await pipeline.exec()) ?? []
      for (const [at, key] of keys.entries()) {
        const value = values[at]?.[1]
        parts.push(key, Buffer.isBuffer(value) ? value.toString('latin1') : '')
      }
    } while (cursor !== '0')
    return parts.join('\n')
  } finally {
    redis.disconnect()
  }
}

async function dumpDatabase({ database }: Stand): Promise<string> {
  if (database === undefined) return ''
  const tables = await database.query<{ table_name: string }>(
    "select table_name from information_schema.tables where table_schema = 'public'",
  )
  const rows = await Promise.all(
    tables.map(({ table_name }) =>
      database.query(`select row_to_json(t)::text as row from "${table_name}" t`),
    ),
  )
  return JSON.stringify(rows)
}
