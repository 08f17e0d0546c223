/**
 * Redis for a Debian or Ubuntu that has none: its packages are downloaded and unpacked into a folder of
 * ours. Nothing is installed, no root is needed, and the second start finds it there.
 */
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { findOnPath, runCommand } from './run-command.ts'

export interface UnpackedRedis {
  readonly command: string
  readonly env: NodeJS.ProcessEnv
}

export interface UnpackOptions {
  readonly cacheDir: string
  readonly say: (line: string) => void
  readonly signal?: AbortSignal | undefined
}

const LISTS_TIMEOUT_MS = 90_000
const DOWNLOAD_TIMEOUT_MS = 90_000
const QUERY_TIMEOUT_MS = 15_000
const UNPACK_TIMEOUT_MS = 15_000
const RUN_TIMEOUT_MS = 5_000

const PACKAGES = ['redis-server', 'redis-tools']
/** Of what they depend on only libraries are needed, not init scripts or adduser. */
const LIBRARY = /^(lib|lua)[a-z0-9.+-]+$/

/** Rejects with the reason when this is no Debian, the network fails, or what came does not run. */
export async function unpackDebianRedis({ cacheDir, say, signal }: UnpackOptions): Promise<UnpackedRedis> {
  const root = join(cacheDir, 'redis-debian')
  if (existsSync(root)) {
    try {
      return await useUnpacked(root, signal)
    } catch {
      // Left from another version of the system, or damaged: fetch it again.
    }
  }
  for (const tool of ['apt-get', 'apt-cache', 'dpkg-deb', 'dpkg-query']) {
    if (findOnPath(tool) === undefined) throw new Error(`there is no ${tool}`)
  }
  say('Redis is not installed here; fetching its Debian packages (once, some seconds) …')
  const fresh = `${root}.${process.pid}`
  try {
    const downloads = join(fresh, 'downloads')
    mkdirSync(downloads, { recursive: true })
    await download(downloads, signal)
    const content = join(fresh, 'content')
    for (const file of readdirSync(downloads).filter((name) => name.endsWith('.deb'))) {
      await runCommand('dpkg-deb', ['-x', join(downloads, file), content], {
        timeoutMs: UNPACK_TIMEOUT_MS,
        signal,
      })
    }
    await useUnpacked(content, signal) // looked at before it is kept
    rmSync(root, { recursive: true, force: true })
    renameSync(content, root)
    return await useUnpacked(root, signal)
  } finally {
    rmSync(fresh, { recursive: true, force: true })
  }
}

async function useUnpacked(root: string, signal: AbortSignal | undefined): Promise<UnpackedRedis> {
  const command = join(root, 'usr', 'bin', 'redis-server')
  const libraries = [join(root, 'usr', 'lib'), join(root, 'lib')]
    .filter((folder) => existsSync(folder))
    .flatMap((folder) => [folder, ...subfolders(folder)])
  const env = { ...process.env, LD_LIBRARY_PATH: libraries.join(':') }
  await runCommand(command, ['--version'], { timeoutMs: RUN_TIMEOUT_MS, env, signal })
  return { command, env }
}

function subfolders(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => join(folder, entry.name))
}

async function download(folder: string, signal: AbortSignal | undefined): Promise<void> {
  try {
    await downloadPackages(folder, [], signal)
  } catch {
    // The package lists are missing (container images come without) or so old that the files behind
    // them are gone. apt can keep lists of its own for us, so the system's stay untouched.
    const own = join(folder, 'apt')
    for (const path of ['lists/partial', 'cache/archives/partial'])
      mkdirSync(join(own, path), { recursive: true })
    const lists = ['-o', `Dir::State::lists=${join(own, 'lists')}`, '-o', `Dir::Cache=${join(own, 'cache')}`]
    await runCommand('apt-get', [...APT_SETTINGS, ...lists, 'update'], {
      timeoutMs: LISTS_TIMEOUT_MS,
      signal,
    })
    await downloadPackages(folder, lists, signal)
  }
}

/** As root, apt would otherwise fetch as the user _apt, who may not write into a folder of ours. */
const APT_SETTINGS = '-q -o Acquire::http::Timeout=15 -o Acquire::Retries=1 -o APT::Sandbox::User=root'.split(
  ' ',
)

async function downloadPackages(folder: string, lists: readonly string[], signal: AbortSignal | undefined) {
  const names = [...PACKAGES, ...(await missingLibraries(lists, signal))]
  const options = { timeoutMs: DOWNLOAD_TIMEOUT_MS, cwd: folder, signal }
  await runCommand('apt-get', [...APT_SETTINGS, ...lists, 'download', ...names], options)
}

async function missingLibraries(
  lists: readonly string[],
  signal: AbortSignal | undefined,
): Promise<string[]> {
  const options = { timeoutMs: QUERY_TIMEOUT_MS, signal }
  const tree = await runCommand('apt-cache', [...lists, 'depends', ...PACKAGES], options)
  const format = ['-W', '-f', '${db:Status-Status} ${Package}\\n']
  const installed = new Set((await runCommand('dpkg-query', format, options)).split('\n'))
  const names = [...tree.matchAll(/^ *\|?(?:Pre)?Depends: (\S+)$/gm)].map(([, name = '']) => name)
  return [...new Set(names)].filter((name) => LIBRARY.test(name) && !installed.has(`installed ${name}`))
}
