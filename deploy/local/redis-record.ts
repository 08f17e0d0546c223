/**
 * Beside Redis' data: which server has it open. Two servers on one folder would spoil it, so the next
 * start ends one that was left behind (which needs a death that even startWatched() does not notice).
 */
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { identify, isAlive } from './process-id.ts'
import { endProcesses } from './processes.ts'
import { LOOPBACK } from './ports.ts'
import { removeContainer } from './redis-docker.ts'
import { askRedis, parseInfo } from './redis-wire.ts'

export interface RedisRecord {
  readonly pid: number
  readonly port: number
  /** Random, and the same for the life of a server: what answers to it is beyond doubt that server. */
  readonly runId: string
  readonly container: string | undefined
}

const ANSWER_TIMEOUT_MS = 1_000

/** Notes who has this folder open; to be done as soon as that is known. */
export function writeRecord(folder: string, record: RedisRecord): void {
  writeFileSync(fileIn(folder), JSON.stringify(record), { mode: 0o600 })
}

/** For a server that has ended as it should. */
export function removeRecord(folder: string): void {
  rmSync(fileIn(folder), { force: true })
}

/** Ends the server that still has this folder open, and no other. */
export async function endRecorded(folder: string): Promise<void> {
  const record = readRecord(folder)
  if (record === undefined) return
  if (record.container !== undefined) await removeContainer(record.container)
  else if ((await runIdAt(record.port)) === record.runId) {
    const server = identify(record.pid)
    if (isAlive(server)) process.kill(record.pid, 'SIGTERM')
    await endProcesses([server])
  }
  removeRecord(folder)
}

async function runIdAt(port: number): Promise<string | undefined> {
  try {
    const [info = ''] = await askRedis(`redis://${LOOPBACK}:${port}`, [['INFO', 'server']], ANSWER_TIMEOUT_MS)
    return parseInfo(info).get('run_id')
  } catch {
    return undefined // nothing there, so nothing to end
  }
}

function readRecord(folder: string): RedisRecord | undefined {
  try {
    const value: unknown = JSON.parse(readFileSync(fileIn(folder), 'utf8'))
    return isRecord(value) ? value : undefined
  } catch {
    return undefined // none, which is the rule
  }
}

function isRecord(value: unknown): value is RedisRecord {
  if (typeof value !== 'object' || value === null) return false
  const { pid, port, runId, container }: { [K in keyof RedisRecord]?: unknown } = value
  const sound = typeof pid === 'number' && typeof port === 'number' && typeof runId === 'string'
  return sound && (container === undefined || typeof container === 'string')
}

function fileIn(folder: string): string {
  return join(folder, 'server.json')
}
