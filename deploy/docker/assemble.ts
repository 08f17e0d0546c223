/**
 * Puts together what the images consist of; run by the Dockerfile, on Node's image.
 *
 *   node assemble.ts SOURCE PACKAGES OUT
 *
 *   OUT/node        Node, the libraries it loads, the user that runs it
 *   OUT/packages    /app/node_modules, without what is never run
 *   OUT/gateway, OUT/worker, OUT/simulator     the programs, below /app
 *
 * TypeScript is stripped of its types here, in place, so that line numbers in the log are those of the source: Node can
 * do it at each start, but that costs a compiler in memory for the life of the process.
 */
import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  cpSync,
  existsSync,
  globSync,
  lstatSync,
  lutimesSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { stripTypeScriptTypes } from 'node:module'
import { basename, dirname, join } from 'node:path'

/** Any date does, as long as it is always the same. */
const MODIFIED_SECONDS = Number(process.env['SOURCE_DATE_EPOCH'] ?? 1_767_225_600)
const USER_ID = 65_532

/** What each image runs, and the health check. */
const PROGRAMS = {
  gateway: ['src/**', 'deploy/docker/health.ts'],
  worker: ['src/**', 'workers/**', 'deploy/docker/health.ts'],
  simulator: ['test/simulator/**'],
}

/** Of the packages: types, maps, documents, archives. The licences stay. */
const NEVER_RUN = /\.(ts|mts|cts|map|md|markdown|yml|yaml|sh|zip)$/
/** What its maker works with; some publish it too. */
const HIDDEN = /^\./
const LICENCE = /licen[cs]e|notice|copying/i
/** The embedded database: NODE_ENV=production refuses it. */
const PACKAGES_LEFT_OUT = ['@electric-sql']

const [source = '.', packages = 'node_modules', out = 'out'] = process.argv.slice(2)

rmSync(out, { recursive: true, force: true })
assembleNode(join(out, 'node'))
assemblePackages(join(out, 'packages/app/node_modules'))
for (const [name, patterns] of Object.entries(PROGRAMS)) assembleProgram(join(out, name, 'app'), patterns)
makeEqual(out)

function assembleNode(root: string): void {
  take(root, process.execPath, '/usr/local/bin/node')
  // As loaded by this process: all that Node is linked with, and the loader. What the kernel lends is no file.
  const { sharedObjects } = process.report.getReport() as unknown as { sharedObjects: string[] }
  const libraries = sharedObjects.filter((path) => path !== process.execPath && existsSync(path))
  for (const path of libraries) take(root, path)
  write(root, '/etc/passwd', `nonroot:x:${USER_ID}:${USER_ID}::/:/sbin/nologin\n`)
  write(root, '/etc/group', `nonroot:x:${USER_ID}:\n`)
  write(root, '/etc/nsswitch.conf', 'hosts: files dns\n')
  for (const folder of ['app', 'tmp']) mkdirSync(join(root, folder))
  describePackages(root, libraries)
}

/** Copies a file, whatever links lead to it, to the place at which it is looked for. */
function take(root: string, path: string, to = path): void {
  mkdirSync(dirname(join(root, to)), { recursive: true })
  cpSync(realpathSync(path), join(root, to))
}

/** Which of Debian's packages the libraries are of, where scanners for weaknesses look for it, and their licences. */
function describePackages(root: string, libraries: readonly string[]): void {
  if (existsSync('/etc/os-release')) take(root, '/etc/os-release')
  for (const owner of new Set(
    libraries.flatMap((path) => ownerOf(path) ?? ownerOf(realpathSync(path)) ?? []),
  )) {
    const [name = ''] = owner.split(':')
    write(root, `/var/lib/dpkg/status.d/${name}`, run('dpkg-query', '--status', owner))
    const copyright = `/usr/share/doc/${name}/copyright`
    if (existsSync(copyright)) take(root, copyright)
  }
}

/** dpkg knows a file by the name it was installed under, which may leave /usr out. */
function ownerOf(path: string): string | undefined {
  for (const name of [path, path.replace(/^\/usr/, '')]) {
    try {
      return run('dpkg-query', '--search', name).split(': ')[0]
    } catch {
      // not by this name
    }
  }
  return undefined
}

function run(file: string, ...args: string[]): string {
  return execFileSync(file, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
}

function assemblePackages(root: string): void {
  cpSync(packages, root, { recursive: true })
  for (const path of PACKAGES_LEFT_OUT) rmSync(join(root, path), { recursive: true, force: true })
  for (const path of entriesOf(root)) {
    const name = basename(path)
    if (HIDDEN.test(name) || (NEVER_RUN.test(name) && !LICENCE.test(name) && lstatSync(path).isFile()))
      rmSync(path, { recursive: true, force: true })
  }
}

/** All that is in a folder, hidden or not; a folder before what is in it. Some may be gone when it is their turn. */
function* entriesOf(folder: string): Generator<string> {
  for (const name of readdirSync(folder).toSorted()) {
    const path = join(folder, name)
    const isFolder = lstatSync(path).isDirectory()
    yield path
    if (isFolder && existsSync(path)) yield* entriesOf(path)
  }
}

function assembleProgram(root: string, patterns: readonly string[]): void {
  const paths = globSync(patterns, { cwd: source }).filter((path) => lstatSync(join(source, path)).isFile())
  for (const path of [...paths, 'package.json']) {
    const content = readFileSync(join(source, path))
    if (path.endsWith('.ts')) write(root, path.replace(/ts$/, 'js'), strip(content.toString(), path))
    else if (!path.endsWith('.md')) write(root, path, content)
  }
}

/** Our files are named by a path in what imports or starts them, and by nothing else. */
function strip(text: string, path: string): string {
  const code = stripTypeScriptTypes(text).replaceAll(
    /(?<=\b(?:from|import|import\(|URL\() ?)'([^']+)\.ts'/g,
    "'$1.js'",
  )
  const left = /['"`][^'"`\n]*\.ts['"`]/.exec(code)
  if (left !== null) throw new Error(`${path}: ${left[0]} would not be found in the image`)
  return code
}

function write(root: string, path: string, content: string | Buffer): void {
  mkdirSync(dirname(join(root, path)), { recursive: true })
  writeFileSync(join(root, path), content)
}

/** In a checkout, dates and rights depend on whose it is. */
function makeEqual(folder: string): void {
  for (const path of [...entriesOf(folder), folder]) {
    const status = lstatSync(path)
    if (!status.isSymbolicLink()) chmodSync(path, modeOf(path, status.isDirectory()))
    lutimesSync(path, MODIFIED_SECONDS, MODIFIED_SECONDS)
  }
}

function modeOf(path: string, isFolder: boolean): number {
  if (path === join(out, 'node/tmp')) return 0o1777
  return isFolder || /\/bin\/|\.so(\.|$)/.test(path) ? 0o755 : 0o644
}
