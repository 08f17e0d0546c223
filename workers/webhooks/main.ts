/**
 * Webhooks, from the operator's side: `npm run webhooks -- status | dead | replay | enable | disable`. Reads the
 * environment as the worker does, shows nothing of what was told, and ends with 0 only when all that was asked for was
 * done.
 */
import { parseArgs } from 'node:util'
import { ConfigError, loadWorkerConfig, readEnvironment } from '../../src/config.ts'
import type { WebhookEndpoint } from '../../src/webhook-endpoints.ts'
import { DataDirInUse } from '../data-dir-lock.ts'
import { describeDatabaseError } from '../database-errors.ts'
import { openDatabase } from '../database.ts'
import { createDeliveries } from './deliveries.ts'
import type { Deliveries } from './deliveries.ts'
import { summarize } from './summary.ts'

const USAGE = `usage: npm run -s webhooks -- COMMAND

  status                                 the endpoints: what waits, what is dead, which are disabled
  dead    [--endpoint NAME] [--limit N]  the dead deliveries, the latest first (50 unless said otherwise)
  replay  ID… | --all [--endpoint NAME]  tries these again, with their ids and all attempts
  enable  NAME                           delivers to it again, also what has waited
  disable NAME                           delivers nothing to it; what comes waits, for two weeks at most

An embedded database is its worker's alone: stop that first.
`
const LIST_LIMIT = 50
const LIST_LIMIT_MAX = 10_000
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/

interface Options {
  readonly operands: readonly string[]
  readonly all: boolean
  readonly endpoint: string | undefined
  readonly limit: number
}

type Command = (
  deliveries: Deliveries,
  options: Options,
  endpoints: readonly WebhookEndpoint[],
) => Promise<number>

const COMMANDS: Readonly<Record<string, Command>> = {
  status,
  dead,
  replay,
  enable: (deliveries, options, endpoints) => setDisabled(false, { deliveries, options, endpoints }),
  disable: (deliveries, options, endpoints) => setDisabled(true, { deliveries, options, endpoints }),
}

process.exitCode = await run()

async function run(): Promise<number> {
  const asked = parse(process.argv.slice(2))
  if (asked === undefined) {
    console.error(USAGE)
    return 2
  }
  try {
    const { databaseUrl, dataDir, webhooks } = loadWorkerConfig(readEnvironment())
    const database = await openDatabase({
      url: databaseUrl?.reveal(),
      dataDir,
      onConnectionError: () => {}, // whoever needs the connection hears of it
    })
    try {
      await database.migrate()
      return await asked.command(createDeliveries(database.db), asked.options, webhooks.endpoints)
    } finally {
      await database.close()
    }
  } catch (error) {
    if (error instanceof ConfigError || error instanceof DataDirInUse) console.error(error.message)
    else console.error('The database does not do it:', JSON.stringify(describeDatabaseError(error)))
    return 1
  }
}

function parse(args: string[]): { command: Command; options: Options } | undefined {
  try {
    const { values, positionals } = parseArgs({
      args,
      allowPositionals: true,
      options: { all: { type: 'boolean' }, endpoint: { type: 'string' }, limit: { type: 'string' } },
    })
    const [name = '', ...operands] = positionals
    const command = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined
    const { all = false, endpoint } = values
    const limit = values.limit === undefined ? LIST_LIMIT : Number(values.limit)
    if (command === undefined || !Number.isSafeInteger(limit) || limit < 1 || limit > LIST_LIMIT_MAX)
      return undefined
    const isReplay = name === 'replay'
    const isSwitch = name === 'enable' || name === 'disable'
    if (values.limit !== undefined && name !== 'dead') return undefined
    if (endpoint !== undefined && name !== 'dead' && !(isReplay && all)) return undefined
    if (all && !isReplay) return undefined
    if (isReplay && (all === operands.length > 0 || !operands.every((id) => UUID.test(id)))) return undefined
    if (isSwitch ? operands.length !== 1 : !isReplay && operands.length > 0) return undefined
    return { command, options: { operands, all, endpoint, limit } }
  } catch {
    return undefined // an option that there is not
  }
}

async function status(
  deliveries: Deliveries,
  _options: Options,
  endpoints: readonly WebhookEndpoint[],
): Promise<number> {
  const summaries = await summarize(deliveries, endpoints)
  for (const { name, configured, waiting, oldest_seconds: age, dead: gone, ...rest } of summaries) {
    const parts = [
      waiting > 0 ? `${waiting} waiting, the oldest for ${age} s` : '0 waiting',
      `${gone} dead`,
      ...(rest.disabled_since === undefined ? [] : [`disabled since ${rest.disabled_since}`]),
      ...(configured ? [] : ['not in WEBHOOKS_FILE']),
    ]
    console.log(`${name}: ${parts.join('; ')}`)
  }
  if (summaries.length === 0) console.error('There are no endpoints.')
  return 0
}

async function dead(deliveries: Deliveries, { endpoint, limit }: Options): Promise<number> {
  const listed = await deliveries.dead(limit, endpoint)
  for (const { eventId, type, attempts, lastResult, ...row } of listed) {
    const died = row.finishedAt?.toISOString() ?? ''
    console.log(`${eventId}  ${died}  ${row.endpoint}  ${type}  ${attempts} attempts: ${lastResult ?? ''}`)
  }
  console.error(`${listed.length} dead${listed.length === limit ? ' shown, there may be more' : ''}.`)
  return 0
}

async function replay(deliveries: Deliveries, { operands, all, endpoint }: Options): Promise<number> {
  const missing: string[] = []
  let replayed = 0
  if (all) replayed = await deliveries.replay({ endpoint })
  for (const id of operands) {
    const count = await deliveries.replay({ eventIds: [id] })
    replayed += count
    if (count === 0) missing.push(id)
  }
  console.log(`${replayed} put back.`)
  if (missing.length > 0) console.error(`Not dead: ${missing.join(', ')}.`)
  return missing.length === 0 ? 0 : 1
}

interface Switched {
  readonly deliveries: Deliveries
  readonly options: Options
  readonly endpoints: readonly WebhookEndpoint[]
}

async function setDisabled(
  isDisabled: boolean,
  { deliveries, options, endpoints }: Switched,
): Promise<number> {
  const [name = ''] = options.operands
  const isKnown = endpoints.some((endpoint) => endpoint.name === name)
  if (!isKnown && !(await deliveries.disabled()).has(name)) {
    console.error(`There is no endpoint ${name} in WEBHOOKS_FILE.`)
    return 1
  }
  await deliveries.setDisabled(name, isDisabled)
  console.log(`${name} is ${isDisabled ? 'disabled' : 'enabled'}.`)
  return 0
}
