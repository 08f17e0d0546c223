/** A Postgres of this machine's own programs, in a folder that goes away with it, as it does with this process. */
import { execFile } from 'node:child_process'
import { chownSync, existsSync, globSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { freePort } from '../../deploy/local/ports.ts'
import { startWatched } from '../../deploy/local/watched-process.ts'

const run = promisify(execFile)
const START_TIMEOUT_MS = 20_000
const STOP_MS = 10_000

/**
 * Resolves to undefined when no Postgres is installed. It refuses to run as root, so root lends it a user.
 * @param durable a commit waits for the disk, as in production
 */
export async function startPostgres({ durable }: { durable: boolean } = { durable: false }) {
  const programs = findPrograms()
  if (programs === undefined) return undefined
  const owner = await findOwner()
  if (owner === undefined) return undefined

  const port = await freePort()
  const folder = mkdtempSync(join(tmpdir(), 'gateway-postgres-'))
  const identity = owner === 'self' ? {} : { uid: owner.uid, gid: owner.gid }
  if (owner !== 'self') chownSync(folder, owner.uid, owner.gid)
  const data = join(folder, 'data')
  await run(join(programs, 'initdb'), ['-D', data, '-U', 'postgres', '-A', 'trust', '--no-sync'], identity)
  const ready = Promise.withResolvers<void>()
  let log = ''
  const server = startWatched(
    [
      join(programs, 'postgres'),
      '-D',
      data,
      '-p',
      String(port),
      '-h',
      '127.0.0.1',
      '-k',
      folder,
      '-c',
      `fsync=${durable ? 'on' : 'off'}`,
      '-c',
      'max_connections=200',
    ],
    {
      identity: owner === 'self' ? undefined : owner,
      scratch: folder,
      onLine(line) {
        log = `${log}${line}\n`.slice(-4_000)
        if (line.includes('ready to accept connections')) ready.resolve()
      },
    },
  )
  const timer = setTimeout(() => ready.reject(new Error('Postgres did not start in time')), START_TIMEOUT_MS)
  void server.exited.then(() => ready.reject(new Error(`Postgres ended:\n${log}`)))
  await ready.promise.finally(() => clearTimeout(timer))

  return {
    url: `postgres://postgres@127.0.0.1:${port}/postgres`,
    how: `${programs}/postgres on 127.0.0.1:${port}`,
    pid: server.pid,
    async stop() {
      await server.stop(STOP_MS, 'SIGQUIT') // at once: nothing of it is kept
      rmSync(folder, { recursive: true, force: true })
    },
  }
}

/** Where the programs of an installed Postgres are. */
export function findPrograms(): string | undefined {
  const debian = globSync('/usr/lib/postgresql/*/bin').toSorted().toReversed()
  return [...debian, '/usr/local/bin', '/usr/bin', '/opt/homebrew/bin'].find(
    (folder) => existsSync(join(folder, 'initdb')) && existsSync(join(folder, 'postgres')),
  )
}

/** Whom to run it as; undefined: nobody that it would accept. */
export async function findOwner(): Promise<'self' | { uid: number; gid: number } | undefined> {
  if (process.getuid?.() !== 0) return 'self'
  for (const user of ['postgres', 'nobody']) {
    try {
      const [uid, gid] = await Promise.all([run('id', ['-u', user]), run('id', ['-g', user])])
      return { uid: Number(uid.stdout), gid: Number(gid.stdout) }
    } catch {
      // there is no such user; the next may exist
    }
  }
  return undefined
}
