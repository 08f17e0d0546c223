/**
 * A Postgres of a row's own, to be killed and stopped: it keeps its port and its data from one start to the next, as a
 * machine does. Needs nothing of vitest; who starts it closes it, and it ends with this process.
 */
import { execFile, spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { chownSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { freePort, LOOPBACK } from '../../deploy/local/ports.ts'
import { findOwner, findPrograms } from '../harness/postgres-server.ts'
import { until } from '../harness/until.ts'
import { openOn } from './postgres.ts'
import type { Database } from './postgres.ts'
import type { Bench } from './row.ts'

const run = promisify(execFile)
const START_MS = 60_000
const GONE_MS = 10_000

export interface PostgresServer {
  /** Of the administrator. */
  readonly database: Database
  /** All it has written to its log, over all its starts. */
  log(): string
  /** SIGKILL to the postmaster and all its children, as when the machine goes. Resolves when all are gone. */
  kill(): Promise<void>
  /** Starts it again on its port, with its data; resolves when it takes connections. */
  start(): Promise<void>
  /** Immediate shutdown: every client is told (57P01), nothing is written down. Recovery comes with the next start. */
  crash(): Promise<void>
  /** SIGSTOP to all of it: connections stay, new ones are accepted by the kernel, nobody answers. */
  stop(): void
  /** SIGCONT. */
  resume(): void
}

export interface PostgresOptions {
  /** Settings, as `-c` takes them: max_connections=30. */
  readonly settings?: readonly string[]
}

/** Starts it. It goes with the row. */
export async function startPostgresServer(
  bench: Bench,
  { settings = [] }: PostgresOptions = {},
): Promise<PostgresServer> {
  const programs = findPrograms()
  const owner = await findOwner()
  if (programs === undefined || owner === undefined)
    throw new Error('there is no Postgres on this machine (apt-get install postgresql)')
  const port = await freePort()
  const folder = mkdtempSync(join(tmpdir(), 'faults-postgres-'))
  const identity = owner === 'self' ? {} : { uid: owner.uid, gid: owner.gid }
  if (owner !== 'self') chownSync(folder, owner.uid, owner.gid)
  const data = join(folder, 'data')
  await run(join(programs, 'initdb'), ['-D', data, '-U', 'postgres', '-A', 'trust', '--no-sync'], identity)
  // What is killed here is a process, not the machine: the kernel keeps what was written.
  const args = ['fsync=off', ...settings].flatMap((setting) => ['-c', setting])
  let server: ChildProcess | undefined
  let log = ''

  async function start(): Promise<void> {
    const began = log.length
    const started = spawn(
      join(programs ?? '', 'postgres'),
      ['-D', data, '-p', String(port), '-h', LOOPBACK, '-k', folder, ...args],
      { ...identity, stdio: ['ignore', 'ignore', 'pipe'] },
    )
    server = started
    started.stderr?.setEncoding('utf8').on('data', (text: string) => (log += text))
    const ended = once(started, 'exit').then(() => {
      if (server === started) server = undefined
      throw new Error(`Postgres ended:\n${log.slice(began).slice(-4_000)}`)
    })
    ended.catch(() => {}) // it may end later as it likes
    const ready = until(
      'Postgres to take connections',
      () => log.includes('ready to accept connections', began),
      START_MS,
    )
    await Promise.race([ready, ended])
  }

  /** The postmaster first: it is stopped before its children are looked for, so that it can make no more. */
  function processes(): number[] {
    const postmaster = server?.pid
    return postmaster === undefined ? [] : [postmaster, ...childrenOf(postmaster)]
  }

  async function kill(): Promise<void> {
    const postmaster = server
    if (postmaster === undefined) return
    postmaster.kill('SIGSTOP')
    const pids = processes()
    for (const pid of pids) signal(pid, 'SIGKILL')
    // Whoever is left would hold the shared memory, and a new postmaster refuses to start beside that. The file
    // postmaster.pid stays, as after a crash; Postgres sees that nobody bears that number.
    await until('Postgres to be gone', () => pids.every((pid) => !isAlive(pid)), GONE_MS)
    server = undefined
  }

  const postgres: PostgresServer = {
    database: openOn(`postgres://postgres@${LOOPBACK}:${port}/postgres`),
    log: () => log,
    kill,
    start,
    async crash() {
      const ending = server
      if (ending === undefined) return
      const ended = once(ending, 'exit')
      ending.kill('SIGQUIT')
      await ended
    },
    stop() {
      server?.kill('SIGSTOP')
      for (const pid of processes()) signal(pid, 'SIGSTOP')
    },
    resume() {
      for (const pid of processes().toReversed()) signal(pid, 'SIGCONT')
    },
  }
  const atExit = () => {
    for (const pid of processes()) signal(pid, 'SIGKILL')
    rmSync(folder, { recursive: true, force: true })
  }
  process.once('exit', atExit)
  bench.defer(async () => {
    await kill()
    process.off('exit', atExit)
    rmSync(folder, { recursive: true, force: true })
  })
  await start()
  return postgres
}

/** Numbers of the living processes that it has started. */
function childrenOf(parent: number): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => statOf(pid)?.parent === parent)
}

function statOf(pid: number): { state: string; parent: number } | undefined {
  try {
    // "1234 (a name, which may hold anything) S 1 …"
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8')
    const [state = '', parent = ''] = text.slice(text.lastIndexOf(')') + 2).split(' ')
    return { state, parent: Number(parent) }
  } catch {
    return undefined // it has ended meanwhile
  }
}

/** A zombie is not: it holds nothing, and waits for a parent that may not care. */
function isAlive(pid: number): boolean {
  const stat = statOf(pid)
  return stat !== undefined && stat.state !== 'Z'
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name)
  } catch {
    // it has ended meanwhile
  }
}
