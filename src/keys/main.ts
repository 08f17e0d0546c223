/**
 * Keys, from the operator's side: `npm run keys -- generate | check | reseal`. Reads the environment as the
 * gateway does, prints no value but a key it has just made, and ends with 0 only when all is well.
 */
import { ConfigError, loadKeysConfig, readEnvironment } from '../config.ts'
import type { KeysConfig } from '../config.ts'
import { GatewayError } from '../errors.ts'
import { readSettings } from '../reading.ts'
import { connectFailFast, disconnect, waitUntilReady } from '../redis/connections.ts'
import { createKeys } from '../redis/keys.ts'
import type { RedisClient } from '../redis/connections.ts'
import { countKeyUses } from './count.ts'
import type { KeyUses } from './count.ts'
import { generateKey, kidsOf, ROLL_OUT } from './generate.ts'
import { reseal } from './reseal.ts'

const USAGE = `usage: npm run keys -- COMMAND

  generate   makes a new key and says how to bring it into use
  check      says which keys are sound, and what still hangs on each
  reseal     seals anew, under the first of SEAL_KEYS, what older keys have sealed
`
/** Nobody waits for an answer here; a busy Redis may take its time. */
const COMMAND_TIMEOUT_MS = 10_000
const FIRST_CONTACT_MS = 5_000
const CLOSE_MS = 1_000
const PROGRESS_INTERVAL_MS = 1_000
const NOT_NEEDED = 'Nothing hangs on it: once it is not the first of any gateway, it may be taken away.'

const COMMANDS = { generate, check, reseal: resealAll } as const

const [name = '', ...rest] = process.argv.slice(2)
process.exitCode = await run()

async function run(): Promise<number> {
  const command = Object.hasOwn(COMMANDS, name) ? COMMANDS[name as keyof typeof COMMANDS] : undefined
  if (command === undefined || rest.length > 0) {
    console.error(USAGE)
    return 2
  }
  try {
    return await command()
  } catch (error) {
    if (error instanceof ConfigError) console.error(error.message)
    else if (error instanceof GatewayError) console.error('Redis does not answer.')
    else throw error
    return 1
  }
}

async function generate(): Promise<number> {
  const { values } = readSettings(readEnvironment(), ['SEAL_KEYS', 'TOKEN_KEYS'])
  const taken = new Set([...kidsOf(values.SEAL_KEYS), ...kidsOf(values.TOKEN_KEYS)])
  console.log(generateKey(taken, new Date()))
  console.error(`\n${ROLL_OUT}`)
  return 0
}

async function check(): Promise<number> {
  const config = loadKeysConfig(readEnvironment())
  return withRedis(config, async (redis) => {
    const [seconds] = await redis.time()
    const uses = await countKeyUses(
      { ...config, redis, keys: createKeys(config.redis.keyPrefix) },
      Number(seconds),
      createProgress(),
    )
    console.log(describeUses(uses))
    return uses.unopened === 0 && uses.orphaned === 0 ? 0 : 1
  })
}

async function resealAll(): Promise<number> {
  const config = loadKeysConfig(readEnvironment())
  return withRedis(config, async (redis) => {
    const progress = createProgress()
    const counts = await reseal(redis, createKeys(config.redis.keyPrefix), config.sealKeys, ({ hashes }) =>
      progress(hashes),
    )
    const { hashes, resealed, unopened, left } = counts
    console.log(
      `${hashes} users and apps read, ${resealed} values sealed anew under ${config.sealKeys[0]?.kid}.`,
    )
    if (unopened > 0)
      console.log(`${unopened} values are opened by no key of SEAL_KEYS; they were left alone.`)
    if (left > 0) console.log(`${left} values changed all the time; run this again for them.`)
    return unopened + left === 0 ? 0 : 1
  })
}

async function withRedis(config: KeysConfig, use: (redis: RedisClient) => Promise<number>): Promise<number> {
  const redis = connectFailFast({ ...config.redis, commandTimeoutMs: COMMAND_TIMEOUT_MS })
  redis.on('error', () => {}) // that Redis cannot be reached is told once, by whoever needs it
  try {
    await waitUntilReady(redis, FIRST_CONTACT_MS)
    return await use(redis)
  } finally {
    await disconnect(redis, CLOSE_MS)
  }
}

/** Says now and then how far it is. */
function createProgress(): (hashes: number) => void {
  let toldMs = performance.now()
  return (hashes) => {
    if (performance.now() - toldMs < PROGRESS_INTERVAL_MS) return
    toldMs = performance.now()
    console.error(`${hashes} users and apps read`)
  }
}

function describeUses({ hashes, seals, tokens, unopened, orphaned }: KeyUses): string {
  const lines = [`${hashes} users and apps read.`, '', 'SEAL_KEYS']
  for (const [index, [kid, { users, apps }]] of [...seals].entries()) {
    lines.push(`  ${kid}: seals of ${users} users and ${apps} apps. ${sealAdvice(index, users + apps)}`)
  }
  if (unopened > 0) lines.push(`  no key of the ring opens values of ${unopened} users and apps.`)
  lines.push('', 'TOKEN_KEYS')
  for (const [index, [kid, { sessions, lastEndSeconds }]] of [...tokens].entries()) {
    lines.push(`  ${kid}: ${sessions} sessions. ${tokenAdvice(index, sessions, lastEndSeconds)}`)
  }
  if (orphaned > 0)
    lines.push(`  ${orphaned} sessions of keys that are not in the ring; their bearers get 401.`)
  return lines.join('\n')
}

function sealAdvice(index: number, uses: number): string {
  if (index === 0) return 'It seals what is new.'
  return uses > 0 ? 'In use: reseal before you take it away.' : NOT_NEEDED
}

function tokenAdvice(index: number, sessions: number, lastEndSeconds: number): string {
  if (index === 0) return 'It makes what is new.'
  if (sessions === 0) return NOT_NEEDED
  return `In use: the last ends by ${new Date(lastEndSeconds * 1000).toISOString()} at the latest.`
}
